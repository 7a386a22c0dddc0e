"""Rules over stored data: what they say, when alerts change, and that each change happens once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import page_context
from tests.support.samples import NOW_MS, MovedClock, a_series
from vantage.alerting.actions import AlertActions
from vantage.alerting.evaluate import AlertEvaluator
from vantage.alerting.observation import Observation
from vantage.alerting.observe import observe
from vantage.alerting.reading import Reading
from vantage.alerting.rules import RuleEditing
from vantage.core.alert import Alert, State
from vantage.core.alert_rule import (
    AnomalyCondition,
    Condition,
    HealthCondition,
    MetricValue,
    NoDataCondition,
    Ratio,
    RequestValue,
    Rule,
    RuleDocument,
    Threshold,
    VqlValue,
)
from vantage.core.anomaly import Anomaly
from vantage.core.batch import build_batch
from vantage.core.errors import ConflictError, InputError, StoreUnavailable
from vantage.core.sample import Kind
from vantage.core.turns import Turns
from vantage.query.context import QueryContext

MINUTE_MS = 60_000


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context(cache_nbytes_max=0) as context:
        yield context


def clock_of(context: QueryContext) -> MovedClock:
    assert isinstance(context.clock, MovedClock)
    return context.clock


async def write_gauge(context: QueryContext, *values: float, at_ms: int | None = None, **fields: Any) -> None:
    """Write samples of the metric ``queue`` of the service ``shop``, one a second before a time."""
    end_ms = context.clock.now_ms() if at_ms is None else at_ms
    tags = fields.pop("tags", {})
    series = a_series(fields.pop("service", "shop"), fields.pop("metric", "queue"), tags=tags, **fields)
    await write_batch(
        context, build_batch([(series, end_ms - 1000 * (len(values) - i), value) for i, value in enumerate(values)])
    )


async def write_requests(
    context: QueryContext, count: int, *, failed: int = 0, ms: float = 100.0, route: str = "/a", service: str = "shop",
    minutes: int = 5,
) -> None:  # fmt: skip
    end_ms = context.clock.now_ms()
    rows = []
    for number in range(count):
        tags = {"http.route": route, "http.request.method": "GET", "status": "500" if number < failed else "200"}
        series = a_series(service, "http.request.duration", Kind.HISTOGRAM, unit="ms", tags=tags)
        rows.append((series, end_ms - 1 - number * minutes * MINUTE_MS // count, ms))
    await write_batch(context, build_batch(rows))


async def seen(context: QueryContext, condition: Condition, **fields: Any) -> dict[str, Observation]:
    """Return what a rule says now, by the last part of its entity."""
    reading = Reading(context, at_ms=context.clock.now_ms())
    try:
        observations = await observe(reading, Rule("r", condition, **fields))
    finally:
        reading.close()
    return {" ".join(item.entity[name] for name in sorted(item.entity)): item for item in observations}


def gauge(above: float = 10, **fields: Any) -> Threshold:
    return Threshold(MetricValue("shop", "queue", **fields), above=above)


# --- conditions


async def test_a_metric_is_one_value_for_each_group(context: QueryContext) -> None:
    await write_gauge(context, 5, 50, tags={"queue": "mail"})
    await write_gauge(context, 1, 3, tags={"queue": "print"})
    await write_gauge(context, 900, at_ms=NOW_MS - 6 * MINUTE_MS, tags={"queue": "old"})
    await write_gauge(context, 900, service="other", tags={"queue": "mail"})
    observed = await seen(context, gauge(agg="max", group_by=("queue",)))
    assert {name: (item.value, item.holds) for name, item in observed.items()} == {
        "mail shop": (50, True), "print shop": (3, False)
    }  # fmt: skip
    assert observed["mail shop"].text == "shop: mail: max of queue over 5m: 50, above 10"
    chosen = await seen(context, gauge(tags=("queue:mail",), agg="min"))
    assert chosen["shop"].value == 5
    chosen = await seen(context, gauge(where="tags['queue'] = 'print'", agg="count"))
    assert (chosen["shop"].value, chosen["shop"].samples) == (2, 2)


@pytest.mark.parametrize(
    ("value", "state"), [(9, (False, True)), (10, (False, True)), (11, (False, False)), (12.5, (True, False))]
)
async def test_between_the_limit_and_the_recovery_threshold_nothing_is_decided(
    context: QueryContext, value: float, state: tuple[bool, bool]
) -> None:
    await write_gauge(context, value)
    condition = Threshold(MetricValue("shop", "queue"), above=12, recover=10)
    observed = (await seen(context, condition))["shop"]
    assert (observed.holds, observed.recovered) == state
    mirrored = Threshold(MetricValue("shop", "queue"), below=-12, recover=-10)
    await write_gauge(context, -value, service="shop", metric="depth")
    mirrored = replace_value(mirrored, MetricValue("shop", "depth"))
    observed = (await seen(context, mirrored))["shop"]
    assert (observed.holds, observed.recovered) == state


def replace_value(condition: Threshold, value: MetricValue) -> Threshold:
    return Threshold(value, above=condition.above, below=condition.below, recover=condition.recover)


async def test_rules_of_one_shape_share_a_query(context: QueryContext, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = []
    for number in range(20):
        await write_gauge(context, number, service=f"s{number}")
        rules.append(Rule(f"r{number}", Threshold(MetricValue(f"s{number}", "queue"), above=10)))
    selects = 0
    select = QueryContext.select

    async def counted(self: QueryContext, *args: Any, **kwargs: Any) -> Any:
        nonlocal selects
        selects += 1
        return await select(self, *args, **kwargs)

    monkeypatch.setattr(QueryContext, "select", counted)
    reading = Reading(context, at_ms=context.clock.now_ms(), rules=rules)
    values = [[item.value for item in await observe(reading, rule)] for rule in rules]
    assert values == [[number] for number in range(20)]
    assert selects == 1


async def test_requests_are_measured_by_service_and_by_endpoint(context: QueryContext) -> None:
    await write_requests(context, 300, failed=30, ms=100)
    await write_requests(context, 100, failed=100, ms=900, route="/b")
    errors = await seen(context, Threshold(RequestValue("errors"), above=0.3))
    assert errors["shop"].value == pytest.approx(130 / 400, abs=0.02)
    assert errors["shop"].holds
    assert errors["shop"].samples == pytest.approx(400, abs=50)
    assert "%, above 30 %" in errors["shop"].text
    by_endpoint = await seen(context, Threshold(RequestValue("p95", "shop", by="endpoint"), above=500))
    assert [(name, item.holds) for name, item in sorted(by_endpoint.items())] == [
        ("GET /a shop", False), ("GET /b shop", True)
    ]  # fmt: skip
    rate = await seen(context, Threshold(RequestValue("rate"), below=0.5))
    assert rate["shop"].value == pytest.approx(400 / 300, rel=0.05)


async def test_a_ratio_divides_what_belongs_together(context: QueryContext) -> None:
    await write_gauge(context, 6, metric="used", tags={"disk": "a"})
    await write_gauge(context, 9, metric="used", tags={"disk": "b"})
    await write_gauge(context, 12, metric="size", tags={"disk": "a"})
    await write_gauge(context, 10, metric="size", tags={"disk": "b"})
    by_disk = ("disk",)
    condition = Ratio(
        MetricValue("shop", "used", group_by=by_disk), MetricValue("shop", "size", group_by=by_disk), above=0.8
    )
    observed = await seen(context, condition)
    assert {name: (item.value, item.holds) for name, item in observed.items()} == {
        "a shop": (0.5, False), "b shop": (0.9, True)
    }  # fmt: skip
    one_total = Ratio(MetricValue("shop", "used", group_by=by_disk), MetricValue("shop", "size", "max"), above=0.8)
    assert (await seen(context, one_total))["b shop"].value == 0.75


async def test_a_query_is_one_value_for_each_row(context: QueryContext) -> None:
    await write_gauge(context, 5, 50, tags={"queue": "mail"})
    text = "SELECT service_name, tags['queue'] AS queue, max(value) AS v FROM metrics GROUP BY service_name, queue"
    observed = await seen(context, Threshold(VqlValue(text), above=10))
    (item,) = observed.values()
    assert (dict(item.entity), item.service, item.value, item.holds) == (
        {"queue": "mail", "service": "shop"}, "shop", 50, True
    )  # fmt: skip
    clock_of(context).now += 6 * MINUTE_MS
    assert await seen(context, Threshold(VqlValue(text), above=10)) == {}


async def test_a_service_that_stops_sending_is_missed_for_a_day(context: QueryContext) -> None:
    await write_gauge(context, 1)
    await write_gauge(context, 1, service="other")
    clock_of(context).now += 11 * MINUTE_MS
    await write_gauge(context, 1, service="other")
    observed = await seen(context, NoDataCondition())
    assert {name: item.holds for name, item in observed.items()} == {"": False, "shop": True, "other": False}
    assert observed["shop"].text == "shop has sent nothing for 11 min"
    one_metric = await seen(context, NoDataCondition("shop", "queue"))
    assert [item.holds for item in one_metric.values()] == [False, True]
    clock_of(context).now += 25 * 60 * MINUTE_MS
    await write_gauge(context, 1, service="other")
    shop = (await seen(context, NoDataCondition()))["shop"]
    assert (shop.holds, shop.recovered) == (False, True)
    clock_of(context).now += 25 * 60 * MINUTE_MS
    await write_gauge(context, 1, service="other")
    assert "shop" not in await seen(context, NoDataCondition())


async def test_when_nothing_arrives_at_all_that_is_one_alert(context: QueryContext) -> None:
    for number in range(5):
        await write_gauge(context, 1, service=f"s{number}")
    clock_of(context).now += 20 * MINUTE_MS
    observed = await seen(context, NoDataCondition())
    assert [(name, item.holds) for name, item in observed.items()] == [("", True)]


async def test_health_below_a_limit(context: QueryContext) -> None:
    await write_requests(context, 3000, failed=1500, minutes=15)
    observed = await seen(context, HealthCondition(below=80), window="15m")
    assert observed["shop"].holds
    assert observed["shop"].value == 0


def an_anomaly(**fields: Any) -> Anomaly:
    start_ms = NOW_MS - 10 * MINUTE_MS
    anomaly = Anomaly(
        "shop", "errors", "", start_ms, start_ms + 5 * MINUTE_MS, 2.0, 0.4, 0.01, 0.0, 0.03, "seasonal", "%", "text"
    )
    return replace(anomaly, **fields)


@pytest.mark.parametrize(
    ("anomaly", "condition", "expected"),
    [
        (an_anomaly(), AnomalyCondition("errors"), "holds"),
        (an_anomaly(), AnomalyCondition("errors", score=2.5), "recovered"),
        (an_anomaly(), AnomalyCondition("errors", direction="down"), "recovered"),
        (an_anomaly(), AnomalyCondition("errors", errors=0.5), "recovered"),
        (an_anomaly(), AnomalyCondition("errors", change=50.0), "recovered"),
        (an_anomaly(), AnomalyCondition("errors", service="other"), "no such"),
        (an_anomaly(end_ms=NOW_MS - 40 * MINUTE_MS, start_ms=NOW_MS - 9**8), AnomalyCondition("errors"), "recovered"),
        (an_anomaly(figure="p95"), AnomalyCondition("errors"), "recovered"),
    ],
)  # fmt: skip
async def test_an_anomaly_counts_while_it_goes_on_and_matters(
    context: QueryContext, anomaly: Anomaly, condition: AnomalyCondition, expected: str
) -> None:
    await write_requests(context, 300, failed=120)
    await context.metadata.record_anomalies([anomaly], since_ms=0)  # type: ignore[attr-defined]
    observed = await seen(context, condition)
    states = {name: "holds" if item.holds else "recovered" for name, item in observed.items()}
    assert states.get("shop", "no such") == expected


async def test_a_metric_that_is_no_longer_unusual_has_recovered(context: QueryContext) -> None:
    await write_gauge(context, 50)
    await write_gauge(context, 50, service="other")
    unusual = an_anomaly(figure="metric", metric="queue", value=50.0, expected=5.0, unit="")
    await context.metadata.record_anomalies([unusual], since_ms=0)  # type: ignore[attr-defined]
    await saved(context, Rule("unusual", AnomalyCondition("metric", metric="queue"), hold="0s", recover_for="0s"))
    process = evaluator(context)
    await process.evaluate()
    assert [(alert.service, alert.state, alert.value) for alert in await alerts_of(context)] == [
        ("shop", State.FIRING, 50)
    ]
    clock_of(context).now += 30 * MINUTE_MS
    await write_gauge(context, 5)
    await process.evaluate()
    (alert,) = await alerts_of(context)
    assert (alert.state, alert.value, alert.text) == (State.RESOLVED, 50, "shop: queue is as expected")


async def test_a_rule_that_is_switched_off_ends_its_alerts(context: QueryContext) -> None:
    rule = Rule("deep queue", gauge(agg="max", group_by=("queue",)), hold="0s", window="1m")
    await saved(context, rule, Rule("other", gauge(above=1000)))
    process = evaluator(context)
    await write_gauge(context, 50, tags={"queue": "a"})
    await process.evaluate()
    await saved(context, msgspec.structs.replace(rule, enabled=False))
    clock_of(context).now += 15_000
    await write_gauge(context, 50, tags={"queue": "a"})
    await process.evaluate()
    (alert,) = await alerts_of(context)
    assert (alert.state, alert.note, alert.is_open) == (State.RESOLVED, "the rule was switched off", False)


# --- evaluation


async def alerts_of(context: QueryContext) -> list[Alert]:
    return list(await context.metadata.alerts.alerts())


async def saved(context: QueryContext, *rules: Rule) -> None:
    for rule in rules:
        await context.metadata.alerts.save_rule(rule, actor="test")  # type: ignore[attr-defined]


def evaluator(context: QueryContext) -> AlertEvaluator:
    return AlertEvaluator(context, context.metadata, turns=Turns(), default_rules=())  # type: ignore[arg-type]


QUICK: dict[str, Any] = {"hold": "30s", "recover_for": "30s", "window": "1m"}


async def test_an_alert_is_pending_fires_and_is_resolved(context: QueryContext) -> None:
    await saved(context, Rule("deep queue", gauge(), **QUICK))
    process = evaluator(context)
    states = []
    for value in (50, 50, 50, 1, 1, 1, 1, 1, 1):
        await write_gauge(context, value)
        await process.evaluate()
        states.append([str(alert.state) for alert in await alerts_of(context)])
        clock_of(context).now += 15_000
    assert states == [["pending"], ["pending"], ["firing"], ["firing"], ["firing"], ["firing"], ["firing"],
                      ["firing"], ["resolved"]]  # fmt: skip
    (evaluation,) = await context.metadata.alerts.evaluations()
    assert (evaluation.rule, evaluation.entities, evaluation.problem) == ("deep queue", 1, "")


async def test_late_data_does_not_fire(context: QueryContext) -> None:
    await saved(context, Rule("deep queue", gauge(), hold="0s", window="1m"))
    process = evaluator(context)
    await write_gauge(context, 1)
    await process.evaluate()
    clock_of(context).now += 10 * MINUTE_MS
    await write_gauge(context, 1)
    await write_gauge(context, 5000, at_ms=context.clock.now_ms() - 5 * MINUTE_MS)
    await process.evaluate()
    assert await alerts_of(context) == []


async def test_while_data_is_late_rules_wait_for_it(context: QueryContext) -> None:
    """What a slow pipeline has not delivered yet is no value of 0."""
    await saved(
        context, Rule("few", Threshold(MetricValue("shop", "queue", "count"), below=15), hold="0s", window="1m")
    )
    process = evaluator(context)
    await write_gauge(context, *[1.0] * 30)
    clock_of(context).now += 50_000  # of the last minute, ten samples have arrived
    await process.evaluate()
    assert await alerts_of(context) == []


async def test_a_store_that_is_away_is_no_data_and_changes_no_alert(
    context: QueryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    await saved(context, Rule("deep queue", gauge(), hold="0s", recover_for="0s"), Rule("silent", NoDataCondition()))
    process = evaluator(context)
    await write_gauge(context, 50)
    await process.evaluate()
    before = await alerts_of(context)
    assert [alert.state for alert in before] == [State.FIRING]

    async def away(*args: object, **kwargs: object) -> None:
        raise StoreUnavailable("ClickHouse does not answer")

    with monkeypatch.context() as patched:
        for method in ("select", "services", "list_series", "red"):
            patched.setattr(context.store, method, away)
        clock_of(context).now += 30 * MINUTE_MS
        await process.evaluate()
        assert await alerts_of(context) == before
        problems = {item.rule: item.problem for item in await context.metadata.alerts.evaluations()}
        assert problems == dict.fromkeys(("deep queue", "silent"), "ClickHouse does not answer")
    await write_gauge(context, 50)
    clock_of(context).now += 15_000
    await process.evaluate()
    assert [(alert.id, alert.state) for alert in await alerts_of(context)] == [(before[0].id, State.FIRING)]
    assert {item.problem for item in await context.metadata.alerts.evaluations()} == {""}


async def test_of_several_processes_one_makes_each_transition(context: QueryContext) -> None:
    await saved(
        context, Rule("deep queue", gauge(agg="max", group_by=("queue",)), hold="15s", recover_for="15s", window="1m")
    )
    processes = [evaluator(context) for _ in range(4)]
    for value in (50, 50, 50, 1, 1, 1, 1, 1, 1, 1):
        for queue in ("a", "b", "c"):
            await write_gauge(context, value, tags={"queue": queue})
        await asyncio.gather(*(process.evaluate() for process in processes))
        clock_of(context).now += 15_000
    assert [alert.state for alert in await alerts_of(context)] == [State.RESOLVED] * 3
    for alert in await alerts_of(context):
        events = [str(event.after) for event in await context.metadata.alerts.events(alert_id=alert.id)]
        assert events == ["resolved", "firing", "pending"]


async def test_a_new_process_goes_on_where_the_last_one_stopped(context: QueryContext) -> None:
    await saved(context, Rule("deep queue", gauge(), hold="30s"))
    for _ in range(3):
        await write_gauge(context, 50)
        await evaluator(context).evaluate()
        clock_of(context).now += 15_000
    assert [str(alert.state) for alert in await alerts_of(context)] == ["firing"]


async def test_a_rule_with_a_fault_does_not_stop_the_others(context: QueryContext) -> None:
    bad = Rule("bad", Threshold(VqlValue("SELECT nothing FROM nowhere"), above=1))
    await saved(context, bad, Rule("deep queue", gauge(), hold="0s"))
    await write_gauge(context, 50)
    await evaluator(context).evaluate()
    assert [alert.rule for alert in await alerts_of(context)] == ["deep queue"]
    problems = {item.rule: bool(item.problem) for item in await context.metadata.alerts.evaluations()}
    assert problems == {"bad": True, "deep queue": False}


async def test_people_acknowledge_and_resolve(context: QueryContext) -> None:
    await saved(context, Rule("deep queue", gauge(), hold="0s", recover_for="0s", window="1m"))
    process = evaluator(context)
    actions = AlertActions(context.metadata.alerts, context.clock)  # type: ignore[arg-type]
    await write_gauge(context, 50)
    await process.evaluate()
    (alert,) = await alerts_of(context)
    acknowledged = await actions.acknowledge(alert.id, actor="ann", note="  on it ")
    assert acknowledged == (await alerts_of(context))[0]
    assert (acknowledged.state, acknowledged.actor, acknowledged.note) == (State.ACKNOWLEDGED, "ann", "on it")
    assert await actions.acknowledge(alert.id, actor="bob") == acknowledged
    resolved = await actions.resolve(alert.id, actor="ann", note="known")
    assert resolved.waits_for_ok
    for value, count in ((50, 1), (1, 1), (50, 2)):
        clock_of(context).now += 2 * MINUTE_MS
        await write_gauge(context, value)
        await process.evaluate()
        assert len(await alerts_of(context)) == count, value
    with pytest.raises(ConflictError, match="resolved"):
        await actions.acknowledge(alert.id, actor="ann")
    assert (await actions.resolve(alert.id, actor="bob")).actor == "ann"
    for wrong in (0, -1, 10**30, 999):
        with pytest.raises(InputError, match="no alert"):
            await actions.acknowledge(wrong, actor="ann")
    with pytest.raises(InputError, match="note"):
        await actions.acknowledge(2, actor="ann", note="x" * 1001)


# --- what is wrong with rules


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (Rule("", gauge()), "name"),
        (Rule("a/b", gauge()), "name"),
        (Rule("r", Threshold(RequestValue("p95"))), "condition.above"),
        (Rule("r", Threshold(RequestValue("p95"), above=1, below=2)), "condition.above"),
        (Rule("r", Threshold(RequestValue("p95"), above=1, recover=2)), "condition.recover"),
        (Rule("r", Threshold(RequestValue("p95"), below=1, recover=0)), "condition.recover"),
        (Rule("r", Threshold(RequestValue("p95"), above=float("nan"))), "condition.above"),
        (Rule("r", Threshold(MetricValue("", "m"), above=1)), "condition.value.service"),
        (Rule("r", Threshold(MetricValue("s", ""), above=1)), "condition.value.metric"),
        (Rule("r", Threshold(MetricValue("shop", "queue", "rate"), above=1)), "condition.value.agg"),
        (Rule("r", Threshold(MetricValue("shop", "queue", where="value >"), above=1)), "condition.value.where"),
        (Rule("r", Threshold(MetricValue("shop", "queue", tags=("x",)), above=1)), "condition.value.tags"),
        (Rule("r", Threshold(VqlValue("SELEC"), above=1)), "condition.value.query"),
        (Rule("r", Threshold(VqlValue("SELECT service_name FROM metrics"), above=1)), "condition.value.query"),
        (Rule("r", gauge(), window="1s"), "window"),
        (Rule("r", gauge(), hold="soon"), "for"),
        (Rule("r", gauge(), every="1s"), "every"),
        (Rule("r", gauge(), runbook="javascript:alert(1)"), "runbook"),
        (Rule("r", gauge(), summary="{{ nothing }}"), "summary"),
        (Rule("r", gauge(), summary="{{ value"), "summary"),
        (Rule("r", AnomalyCondition("metric")), "condition.metric"),
        (Rule("r", AnomalyCondition("p95", score=0)), "condition.score"),
        (Rule("r", HealthCondition(below=70, recover=60)), "condition.recover"),
        (Rule("r", NoDataCondition(metric="m")), "condition.service"),
        (Rule("r", NoDataCondition(after="1s")), "condition.after"),
    ],
)  # fmt: skip
async def test_a_rule_that_could_not_be_evaluated_is_refused(context: QueryContext, rule: Rule, field: str) -> None:
    await write_gauge(context, 1)
    editing = RuleEditing(context, context.metadata.alerts)  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        await editing.save(rule, actor="ann")
    assert caught.value.field == field, caught.value
    assert list(await context.metadata.alerts.rules()) == []


async def test_a_rule_over_a_thousand_entities_is_refused_with_their_number(context: QueryContext) -> None:
    rows = [(a_series("shop", "queue", tags={"user": str(n)}), NOW_MS - 1000, 1.0) for n in range(1234)]
    await write_batch(context, build_batch(rows))
    editing = RuleEditing(context, context.metadata.alerts)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="yields 1234 entities"):
        await editing.save(Rule("r", gauge(group_by=("user",))), actor="ann")
    text = "SELECT tags['user'] AS u, max(value) AS v FROM metrics GROUP BY u"
    with pytest.raises(InputError, match="yields 1234 entities"):
        await editing.save(Rule("r", Threshold(VqlValue(text), above=1)), actor="ann")


async def test_a_document_of_rules_is_applied_whole(context: QueryContext) -> None:
    editing = RuleEditing(context, context.metadata.alerts)  # type: ignore[arg-type]
    good = Rule("good", Threshold(RequestValue("p95"), above=1))
    assert await editing.apply(RuleDocument((good,)), actor="ci") == (["good"], [])
    assert await editing.apply(RuleDocument((good,)), actor="ci") == ([], [])
    bad = Rule("bad", Threshold(RequestValue("p95")))
    for document, field in (
        (RuleDocument((good, bad)), "rules[1].condition.above"),
        (RuleDocument((good, good)), "rules[1].name"),
        (RuleDocument((), version=2), "version"),
    ):
        with pytest.raises(InputError) as caught:
            await editing.apply(document, actor="ci", prune=True)
        assert caught.value.field == field
    assert await editing.apply(RuleDocument(()), actor="ci", prune=True) == ([], ["good"])
