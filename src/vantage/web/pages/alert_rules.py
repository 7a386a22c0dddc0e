"""``/alerts/rules``: what is watched; ``/alerts/rules/{name}``: a rule's editor, which shows what the rule says now and
what it would have done before it is saved."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Redirect

from vantage.alerting.backtest import Backtest, backtest
from vantage.alerting.changes import AlertChanges
from vantage.alerting.observation import Observation
from vantage.alerting.rule_files import RuleFileError, parse_rule, rule_yaml
from vantage.alerting.words import condition_in_words, rule_in_words
from vantage.core.alert_rule import KINDS, Rule, StoredRule
from vantage.core.api_key import Scope
from vantage.core.errors import InputError, NotFoundError, StoreUnavailable, VantageError
from vantage.core.timerange import TimeRange
from vantage.query import catalogue
from vantage.query.alerts import FIRED, LIST_MAX, find_rule, list_alerts, list_rules, rule_evaluation
from vantage.query.context import QueryContext
from vantage.web.pages.rule_form import FORMS, document_of, field_values, form_of
from vantage.web.problems import problem_of
from vantage.web.render import render, segment

AnyRequest = Request[Any, Any, Any]
RULES_SHOWN_MAX: Final = 500
ENTITIES_SHOWN_MAX: Final = 50
FIRINGS_SHOWN_MAX: Final = 50
SERVICES_MAX: Final = 300
BACKTEST_MS: Final = 7 * 86_400_000
TEXT_LENGTH_MAX: Final = 255
ADMIN: Final = {"scope": Scope.ADMIN}


@dataclass(frozen=True, slots=True)
class Draft:
    """A rule in the editor: ``document`` is its form, ``text`` its YAML, ``problem`` what is wrong with it."""

    document: Mapping[str, Any]
    text: str
    rule: Rule | None
    problem: str = ""
    field: str = ""


@get("/alerts/rules", include_in_schema=False)
async def rules(request: AnyRequest, context: NamedDependency[QueryContext]) -> Response[str]:
    text = request.query_params.get("q", "").strip()[:TEXT_LENGTH_MAX]
    problem = ""
    stored: Sequence[Any] = ()
    firing: dict[str, int] = {}
    try:
        stored = await list_rules(context)
        for alert in await list_alerts(context, states=FIRED, limit=LIST_MAX):
            firing[alert.rule] = firing.get(alert.rule, 0) + 1
    except StoreUnavailable as error:
        problem = str(error)
    matching = [item for item in stored if text.lower() in item[0].rule.name.lower()]
    matching.sort(key=lambda item: (not firing.get(item[0].rule.name), not (item[1] and item[1].problem)))
    return await render(
        request,
        "pages/alert_rules.html",
        section="bell",
        rules=[(item, evaluation, _words(item.rule)) for item, evaluation in matching[:RULES_SHOWN_MAX]],
        omitted=max(0, len(matching) - RULES_SHOWN_MAX),
        total=len(stored),
        firing=firing,
        text=text,
        text_length_max=TEXT_LENGTH_MAX,
        problem=problem,
    )


@get("/alerts/rules/new", include_in_schema=False)
async def new_rule(request: AnyRequest, context: NamedDependency[QueryContext]) -> Response[str]:
    kind = request.query_params.get("kind", "")
    kind = kind if kind in FORMS else next(iter(FORMS))
    document = {"name": "", **FORMS[kind].start}
    service = request.query_params.get("service", "")[:TEXT_LENGTH_MAX]
    condition = document["condition"]
    if service and isinstance(condition, dict):
        document["condition"] = (
            condition | {"value": condition["value"] | {"service": service}}
            if kind in ("requests", "metric")
            else condition | ({"service": service} if kind in ("anomaly", "no_data", "health", "forecast") else {})
        )
    return await _editor(request, context, _draft_of(document), None)


@get("/alerts/rules/{name:str}", include_in_schema=False)
async def rule(request: AnyRequest, context: NamedDependency[QueryContext], name: FromPath[str]) -> Response[str]:
    stored = await find_rule(context, name)
    return await _editor(request, context, _draft_of(msgspec.to_builtins(stored.rule)), stored)


@post("/alerts/rules/preview", include_in_schema=False, status_code=200)
async def preview(
    request: AnyRequest, context: NamedDependency[QueryContext], alerting: NamedDependency[AlertChanges]
) -> Response[str]:
    """Show what the rule of the form says now; a fragment, or the editor with it."""
    form = await request.form()
    draft = _draft_from(form)
    seen: Sequence[Observation] | None = None
    if draft.rule is not None:
        try:
            checked = await alerting.rules.check(draft.rule)
            seen = sorted(await alerting.rules.preview(checked), key=lambda item: not item.holds)
        except VantageError as error:
            draft = _wrong(draft, error)
    stored = await _stored(context, form)
    return await _editor(request, context, draft, stored, block="preview", seen=seen)


@post("/alerts/rules/backtest", include_in_schema=False, status_code=200)
async def run_backtest(
    request: AnyRequest, context: NamedDependency[QueryContext], alerting: NamedDependency[AlertChanges]
) -> Response[str]:
    """Show what the rule of the form would have done in 7 days; a fragment, or the editor with it."""
    form = await request.form()
    draft = _draft_from(form)
    result: Backtest | None = None
    if draft.rule is not None:
        try:
            checked = await alerting.rules.check(draft.rule)
            end_ms = context.present().now_ms + 1
            result = await backtest(context, checked, TimeRange(end_ms - BACKTEST_MS, end_ms))
        except VantageError as error:
            draft = _wrong(draft, error)
    stored = await _stored(context, form)
    return await _editor(request, context, draft, stored, block="backtest", tested=result)


@post("/alerts/rules/save", include_in_schema=False, opt=ADMIN, status_code=200)
async def save(
    request: AnyRequest, context: NamedDependency[QueryContext], alerting: NamedDependency[AlertChanges]
) -> Response[Any]:
    """Store the rule of the form. One with another name is a new rule."""
    form = await request.form()
    draft = _draft_from(form)
    number = str(form.get("revision", ""))
    revision = int(number) if number.isascii() and number.isdigit() and len(number) < 15 else 0
    stored = await _stored(context, form)
    if draft.rule is not None:
        is_same = stored is not None and stored.rule.name == draft.rule.name.strip()
        try:
            saved = await alerting.rules.save(
                draft.rule, actor=request.state.principal.id, revision=revision if is_same else 0
            )
            return Redirect(f"/alerts/rules/{segment(saved.rule.name)}", status_code=303)
        except VantageError as error:
            draft = _wrong(draft, error)
    status = 409 if "changed meanwhile" in draft.problem else 400
    return await _editor(request, context, draft, stored, status=status)


@post("/alerts/rules/remove", include_in_schema=False, opt=ADMIN)
async def remove(request: AnyRequest, alerting: NamedDependency[AlertChanges]) -> Redirect:
    form = await request.form()
    with contextlib.suppress(NotFoundError):  # somebody else did
        await alerting.rules.remove(str(form.get("name", "")), actor=request.state.principal.id)
    return Redirect("/alerts/rules", status_code=303)


def _draft_of(document: Mapping[str, Any]) -> Draft:
    try:
        rule = msgspec.convert(document, Rule)
    except msgspec.ValidationError as error:
        return Draft(document, "", None, str(error))
    return Draft(document, rule_yaml(rule), rule)


def _draft_from(form: Mapping[str, Any]) -> Draft:
    """Return the rule of a form that was sent: its YAML, or its fields over the rule they were shown for."""
    text = str(form.get("yaml", ""))
    if text.strip():
        try:
            rule = parse_rule(text)
        except RuleFileError as error:
            return Draft({}, text, None, str(error))
        return Draft(msgspec.to_builtins(rule), text, rule)
    kind = str(form.get("shape", ""))
    if kind not in FORMS:
        return Draft({}, "", None, f"the form is none of {', '.join(FORMS)}, and there is no YAML")
    base: Any = {}
    try:
        base = msgspec.json.decode(str(form.get("base", "")) or "{}")
        document = document_of(kind, base if isinstance(base, dict) else {}, form)
    except (InputError, msgspec.DecodeError) as error:
        return Draft(dict(FORMS[kind].start), "", None, str(error))
    if form_of(document) != kind:
        document["condition"] = {**FORMS[kind].start["condition"], **_conditions(document)}
    try:
        rule = msgspec.convert(document, Rule)
    except msgspec.ValidationError as error:
        return Draft(document, "", None, str(error))
    return Draft(document, rule_yaml(rule), rule)


def _conditions(document: Mapping[str, Any]) -> Mapping[str, Any]:
    condition = document.get("condition")
    return condition if isinstance(condition, Mapping) and condition.get("kind") in KINDS else {}


def _wrong(draft: Draft, error: VantageError) -> Draft:
    field = error.field if isinstance(error, InputError) else ""
    return Draft(draft.document, draft.text, None, str(error) or problem_of(error).title, field)


async def _stored(context: QueryContext, form: Mapping[str, Any]) -> StoredRule | None:
    """Return the rule that the editor was opened for; None for a new one."""
    name = str(form.get("stored", ""))[:TEXT_LENGTH_MAX]
    try:
        return await find_rule(context, name) if name else None
    except InputError:
        return None


def _words(rule: Rule) -> str:
    try:
        return condition_in_words(rule.condition, rule.window)
    except InputError:
        return ""


async def _editor(
    request: AnyRequest,
    context: QueryContext,
    draft: Draft,
    stored: StoredRule | None,
    *,
    block: str = "view",
    status: int = 200,
    seen: Sequence[Observation] | None = None,
    tested: Backtest | None = None,
) -> Response[str]:
    form = form_of(draft.document)
    as_yaml = not form or request.query_params.get("as") == "yaml"
    evaluation = await rule_evaluation(context, stored.rule.name) if stored is not None else None
    names = [info.name for info in await catalogue.services(context)][:SERVICES_MAX] if block == "view" else []
    return await render(
        request,
        "pages/alert_rule.html",
        block=block,
        status=status,
        section="bell",
        draft=draft,
        stored=stored,
        evaluation=evaluation,
        form=form,
        forms=FORMS,
        fields=list(field_values(form, draft.document)) if form else [],
        base=msgspec.json.encode(draft.document).decode(),
        as_yaml=as_yaml,
        words=_in_words(draft.rule),
        services=names,
        seen=seen[:ENTITIES_SHOWN_MAX] if seen is not None else None,
        holding=sum(item.holds for item in seen) if seen is not None else 0,
        seen_omitted=max(0, len(seen) - ENTITIES_SHOWN_MAX) if seen is not None else 0,
        tested=tested,
        firings=tested.firings[:FIRINGS_SHOWN_MAX] if tested is not None else [],
        text_length_max=TEXT_LENGTH_MAX,
        may_save=(principal := request.state.get("principal")) is not None and principal.allows(Scope.ADMIN),
    )


def _in_words(rule: Rule | None) -> str:
    try:
        return rule_in_words(rule) if rule is not None else ""
    except InputError:
        return ""


handlers = [rules, new_rule, rule, preview, run_backtest, save, remove]
