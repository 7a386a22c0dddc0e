"""``/api/alerts/rules``: what is watched, and what a rule would say before it is saved."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import Body, Parameter

from vantage.alerting.backtest import Backtest, backtest
from vantage.alerting.changes import AlertChanges
from vantage.alerting.observation import Observation
from vantage.core.alert_rule import VERSION, Rule, RuleDocument, StoredRule
from vantage.core.api_key import Scope
from vantage.core.errors import InputError
from vantage.query import alerts as stored_alerts
from vantage.query.alerts import find_rule, rule_evaluation
from vantage.query.context import QueryContext
from vantage.storage.metadata.alert_ports import Evaluation
from vantage.web.api.params import End, Start, examples, problems, time_range

ENTITIES_SHOWN_MAX: Final = 200
FIRINGS_SHOWN_MAX: Final = 500
EXAMPLE: Final[dict[str, Any]] = {
    "name": "checkout is slow",
    "condition": {
        "kind": "threshold",
        "value": {"of": "requests", "figure": "p95", "service": "checkout"},
        "above": 500.0,
        "recover": 400.0,
    },
    "for": "2m",
    "severity": "warning",
}
ADMIN: Final = {"scope": Scope.ADMIN}
Name = Annotated[str, Parameter(description="The rule's name.", max_length=100, examples=examples("checkout is slow"))]


class StoredRuleOut(msgspec.Struct):
    """A rule as stored: `author` changed it last, at `timestamp` (epoch milliseconds). `evaluated` is when it was
    evaluated last, with how many `entities`; `problem` is why it could not be."""

    rule: Rule
    revision: int
    origin: str
    author: str
    timestamp: int
    evaluated: int | None
    entities: int
    problem: str


class RulesOut(msgspec.Struct):
    rules: list[StoredRuleOut]


class ObservationOut(msgspec.Struct):
    """What a rule says about one entity: whether its condition `holds`, and whether it has `recovered`."""

    entity: dict[str, str]
    service: str
    value: float | None
    unit: str
    samples: int
    holds: bool
    recovered: bool
    text: str


class PreviewOut(msgspec.Struct):
    """What a rule says now; those it holds for first, `omitted` more are left out."""

    rule: Rule
    entities: list[ObservationOut]
    holding: int
    omitted: int


class FiringOut(msgspec.Struct):
    """When an alert would have fired, `end` null if it would still. Epoch milliseconds."""

    entity: dict[str, str]
    start: int
    end: int | None
    peak: float | None
    text: str


class BacktestOut(msgspec.Struct):
    """What a rule would have done, evaluated every `step` ms."""

    firings: list[FiringOut]
    omitted: int
    evaluations: int
    step: int
    notes: list[str]


class AppliedOut(msgspec.Struct):
    """Names of rules that were stored or changed, and of those removed."""

    changed: list[str]
    removed: list[str]


class RuleIn(msgspec.Struct):
    """A rule, and the `revision` that it replaces: 0 for none, null for any."""

    rule: Rule
    revision: int | None = None


RuleBody = Annotated[Rule, Body(examples=examples(EXAMPLE))]
SavedBody = Annotated[RuleIn, Body(examples=examples({"rule": EXAMPLE, "revision": None}))]
DocumentBody = Annotated[RuleDocument, Body(examples=examples({"version": VERSION, "rules": [EXAMPLE]}))]


@get("/api/alerts/rules", summary="Rules", responses=problems(), tags=["alert rules"])
async def list_rules(context: NamedDependency[QueryContext]) -> RulesOut:
    """List all rules by name, with how their latest evaluation went."""
    return RulesOut([_out(stored, evaluation) for stored, evaluation in await stored_alerts.list_rules(context)])


@post("/api/alerts/rules", summary="Add a rule", responses=problems(409), tags=["alert rules"], opt=ADMIN)
async def add_rule(
    request: Request[Any, Any, Any], alerting: NamedDependency[AlertChanges], data: RuleBody
) -> StoredRuleOut:
    """Add a rule under a new name. It is evaluated once before it is stored, so what it has wrong is known at once."""
    return _out(await alerting.rules.save(data, actor=request.state.principal.id, revision=0), None)


@get("/api/alerts/rules/{name:str}", summary="A rule", responses=problems(404), tags=["alert rules"])
async def show_rule(context: NamedDependency[QueryContext], name: Name) -> StoredRuleOut:
    """Return a rule with how its latest evaluation went."""
    return _out(await find_rule(context, name), await rule_evaluation(context, name))


@put("/api/alerts/rules/{name:str}", summary="Save a rule", responses=problems(409), tags=["alert rules"], opt=ADMIN)
async def save_rule(
    request: Request[Any, Any, Any], alerting: NamedDependency[AlertChanges], name: Name, data: SavedBody
) -> StoredRuleOut:
    """Store a rule under its name, in place of the one that has it."""
    if data.rule.name.strip() != name.strip():
        raise InputError("is not that of the address", field="rule.name")
    stored = await alerting.rules.save(data.rule, actor=request.state.principal.id, revision=data.revision)
    return _out(stored, None)


@delete(
    "/api/alerts/rules/{name:str}", summary="Remove a rule", responses=problems(404), tags=["alert rules"], opt=ADMIN
)
async def remove_rule(request: Request[Any, Any, Any], alerting: NamedDependency[AlertChanges], name: Name) -> None:
    """Remove a rule; its open alerts are resolved."""
    await alerting.rules.remove(name, actor=request.state.principal.id)


@post(
    "/api/alerts/rules/preview",
    summary="What a rule would say now",
    responses=problems(),
    status_code=200,
    tags=["alert rules"],
)
async def preview_rule(alerting: NamedDependency[AlertChanges], data: RuleBody) -> PreviewOut:
    """Check a rule and return the value of each of its entities, without storing anything."""
    rule = await alerting.rules.check(data)
    seen = await alerting.rules.preview(rule)
    ordered = sorted(seen, key=lambda item: not item.holds)
    return PreviewOut(
        rule,
        [_observation(item) for item in ordered[:ENTITIES_SHOWN_MAX]],
        sum(item.holds for item in seen),
        max(0, len(seen) - ENTITIES_SHOWN_MAX),
    )


@post(
    "/api/alerts/rules/backtest",
    summary="What a rule would have done",
    responses=problems(),
    status_code=200,
    tags=["alert rules"],
)
async def backtest_rule(
    context: NamedDependency[QueryContext],
    alerting: NamedDependency[AlertChanges],
    data: RuleBody,
    start: Start = "now-7d",
    end: End = "now",
) -> BacktestOut:
    """Evaluate a rule on what is stored, and return when its alerts would have fired."""
    rule = await alerting.rules.check(data)
    return _backtest(await backtest(context, rule, time_range(start, end, now_ms=context.present().now_ms)))


@post(
    "/api/alerts/rules/apply",
    summary="Apply a document of rules",
    responses=problems(409),
    status_code=200,
    tags=["alert rules"],
    opt=ADMIN,
)
async def apply_rules(
    request: Request[Any, Any, Any],
    alerting: NamedDependency[AlertChanges],
    data: DocumentBody,
    *,
    prune: Annotated[bool, Parameter(description="Also remove the rules that the document does not have.")] = False,
) -> AppliedOut:
    """Store all rules of a document, or none of them where one is wrong."""
    changed, removed = await alerting.rules.apply(data, actor=request.state.principal.id, prune=prune)
    return AppliedOut(changed, removed)


@get("/api/alerts/rules/export", summary="All rules as a document", responses=problems(), tags=["alert rules"])
async def export_rules(context: NamedDependency[QueryContext]) -> RuleDocument:
    """Return all rules in the form that is applied."""
    return RuleDocument(tuple(stored.rule for stored, _ in await stored_alerts.list_rules(context)), VERSION)


def _out(stored: StoredRule, evaluation: Evaluation | None) -> StoredRuleOut:
    return StoredRuleOut(
        stored.rule,
        stored.revision,
        stored.origin,
        stored.author,
        stored.at_ms,
        evaluation.at_ms if evaluation else None,
        evaluation.entities if evaluation else 0,
        evaluation.problem if evaluation else "",
    )


def _observation(item: Observation) -> ObservationOut:
    return ObservationOut(
        dict(item.entity), item.service, item.value, item.unit, item.samples, item.holds, item.recovered, item.text
    )


def _backtest(result: Backtest) -> BacktestOut:
    shown = result.firings[:FIRINGS_SHOWN_MAX]
    return BacktestOut(
        [FiringOut(dict(item.entity), item.start_ms, item.end_ms, item.peak, item.text) for item in shown],
        len(result.firings) - len(shown) + result.omitted,
        result.evaluations,
        result.step_ms,
        list(result.notes),
    )


handlers = [
    list_rules,
    add_rule,
    export_rules,
    show_rule,
    save_rule,
    remove_rule,
    preview_rule,
    backtest_rule,
    apply_rules,
]
