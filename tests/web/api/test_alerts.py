"""``/api/alerts``: alerts, what people do about them, and rules, over stores in memory."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import Client, page_client, page_context
from tests.support.samples import NOW_MS, a_series
from vantage.alerting.changes import alert_changes
from vantage.core.alert import Alert, State
from vantage.core.alert_rule import Severity
from vantage.core.batch import build_batch
from vantage.core.sample import Kind
from vantage.query.context import QueryContext
from vantage.storage.metadata.alert_ports import AlertStore, Evaluation
from vantage.web.api import alert_rules, alerts

RULE = {
    "name": "queue is long",
    "condition": {"kind": "threshold", "value": {"of": "metric", "service": "api", "metric": "queue"}, "above": 10},
}


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        yield context


@pytest.fixture
def store(context: QueryContext) -> AlertStore:
    store: Any = context.metadata.alerts
    return store


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    metadata: Any = context.metadata
    handlers = [*alerts.handlers, *alert_rules.handlers]
    async with page_client(context, handlers, alerting=alert_changes(context, metadata)) as client:
        yield client


def an_alert(service: str = "api", **fields: Any) -> Alert:
    alert = Alert(0, "queue is long", {"service": service}, service, Severity.WARNING, State.FIRING, NOW_MS, NOW_MS - 1)
    return replace(alert, fired_ms=NOW_MS, value=12.0, text="queue: 12", **fields)


async def opened(store: AlertStore, **fields: Any) -> Alert:
    alert = await store.open_alert(an_alert(**fields), note="", at_ms=NOW_MS)
    assert alert is not None
    return alert


async def send_queue(context: QueryContext, values: list[float], service: str = "api") -> None:
    series = a_series(service, "queue", Kind.GAUGE)
    rows = [(series, NOW_MS - 60_000 * i - 1, value) for i, value in enumerate(reversed(values))]
    await write_batch(context, build_batch(rows))


async def test_open_alerts_are_listed_and_filtered(client: Client, store: AlertStore) -> None:
    first = await opened(store)
    await opened(store, service="cart", severity=Severity.CRITICAL)
    third = await opened(store, service="shop")
    await store.change_alert(replace(third, state=State.RESOLVED, ended_ms=NOW_MS), before=third, at_ms=NOW_MS)

    async def ids(**params: Any) -> list[str]:
        answer = await client.get("/api/alerts/", params=params)
        assert answer.status_code == 200, answer.text
        return [item["service"] for item in answer.json()["alerts"]]

    assert await ids() == ["cart", "api"]
    assert await ids(state="resolved") == ["shop"]
    assert await ids(state="all") == ["shop", "cart", "api"]
    assert await ids(service="api") == ["api"]
    assert await ids(severity="critical") == ["cart"]
    assert await ids(rule="another") == []
    page = (await client.get("/api/alerts", params={"limit": 1})).json()
    assert [item["service"] for item in page["alerts"]] == ["cart"]
    rest = (await client.get("/api/alerts", params={"limit": 1, "before": page["before"]})).json()
    assert [item["id"] for item in rest["alerts"]] == [first.id]
    for bad in ({"state": "odd"}, {"severity": "odd"}, {"limit": 0}, {"limit": 10**6}):
        assert (await client.get("/api/alerts", params=bad)).status_code == 400


async def test_a_page_of_one_severity_is_filled_from_several(client: Client, store: AlertStore) -> None:
    for number in range(6):
        await opened(store, service=f"s{number}", severity=Severity.INFO if number % 3 else Severity.CRITICAL)
    page = (await client.get("/api/alerts", params={"severity": "critical", "limit": 2})).json()
    assert [item["service"] for item in page["alerts"]] == ["s3", "s0"]
    end = (await client.get("/api/alerts", params={"severity": "critical", "limit": 5})).json()
    assert end["before"] is None


async def test_an_alert_is_acknowledged_and_resolved_with_its_history(client: Client, store: AlertStore) -> None:
    alert = await opened(store)
    shown = (await client.get(f"/api/alerts/{alert.id}")).json()
    assert (shown["state"], [event["after"] for event in shown["events"]]) == ("firing", ["firing"])
    done = await client.post(f"/api/alerts/{alert.id}/acknowledge", json={"note": "on it"})
    assert done.status_code == 200, done.text
    assert (done.json()["state"], done.json()["note"], done.json()["actor"]) == ("acknowledged", "on it", "local")
    again = await client.post(f"/api/alerts/{alert.id}/acknowledge")
    assert again.status_code == 200
    resolved = (await client.post(f"/api/alerts/{alert.id}/resolve")).json()
    assert resolved["state"] == "resolved"
    assert [event["after"] for event in resolved["events"]] == ["resolved", "acknowledged", "firing"]
    refused = await client.post(f"/api/alerts/{alert.id}/acknowledge")
    assert refused.status_code == 400  # the application's own table says 409
    assert (await client.get("/api/alerts/99")).status_code == 404
    assert (await client.post(f"/api/alerts/{10**30}/resolve")).status_code == 404


async def test_a_rule_is_added_changed_and_removed(client: Client, store: AlertStore) -> None:
    added = await client.post("/api/alerts/rules", json=RULE)
    assert added.status_code == 201, added.text
    assert added.json()["rule"] == RULE | {"condition": RULE["condition"] | {"above": 10.0}}  # type: ignore[operator]
    assert (await client.post("/api/alerts/rules", json=RULE)).status_code == 400
    await store.record_evaluations([Evaluation("queue is long", NOW_MS, 3, "no such metric")])
    changed = {"rule": RULE | {"for": "10m"}, "revision": 1}
    assert (await client.put("/api/alerts/rules/queue is long", json=changed)).status_code == 200
    assert (await client.put("/api/alerts/rules/queue is long", json=changed)).status_code == 400
    assert (await client.put("/api/alerts/rules/another", json=changed)).status_code == 400
    shown = (await client.get("/api/alerts/rules/queue is long")).json()
    assert (shown["rule"]["for"], shown["revision"], shown["problem"]) == ("10m", 2, "no such metric")
    (listed,) = (await client.get("/api/alerts/rules")).json()["rules"]
    assert listed == shown
    assert (await client.get("/api/alerts/rules/export")).json()["rules"] == [shown["rule"]]
    assert (await client.delete("/api/alerts/rules/queue is long")).status_code == 204
    assert (await client.delete("/api/alerts/rules/queue is long")).status_code == 404
    assert (await client.get("/api/alerts/rules/queue is long")).status_code == 404


async def test_a_preview_says_what_would_fire_and_stores_nothing(client: Client, context: QueryContext) -> None:
    await send_queue(context, [20.0] * 5)
    preview = (await client.post("/api/alerts/rules/preview", json=RULE)).json()
    assert preview["holding"] == 1
    (entity,) = preview["entities"]
    assert (entity["entity"], entity["value"], entity["holds"]) == ({"service": "api"}, 20.0, True)
    assert (await client.get("/api/alerts/rules")).json() == {"rules": []}


async def test_a_backtest_says_when_it_would_have_fired(client: Client, context: QueryContext) -> None:
    await send_queue(context, [1.0] * 20 + [50.0] * 20 + [1.0] * 20)
    answer = await client.post("/api/alerts/rules/backtest", params={"start": "now-1h"}, json=RULE)
    assert answer.status_code in (200, 201), answer.text
    (firing,) = answer.json()["firings"]
    assert NOW_MS - 42 * 60_000 < firing["start"] < NOW_MS - 30 * 60_000
    assert firing["end"] is not None


async def test_a_document_is_applied_as_a_unit(client: Client) -> None:
    await client.post("/api/alerts/rules", json=RULE | {"name": "old"})
    document = {"version": 1, "rules": [RULE, RULE | {"name": "second"}]}
    applied = await client.post("/api/alerts/rules/apply", json=document, params={"prune": "true"})
    assert applied.json() == {"changed": ["queue is long", "second"], "removed": ["old"]}
    wrong = {"rules": [RULE | {"name": "third"}, RULE | {"name": "fourth", "for": "soon"}]}
    refused = await client.post("/api/alerts/rules/apply", json=wrong)
    assert refused.status_code == 400
    assert "rules[1].for" in refused.text
    assert (await client.post("/api/alerts/rules/apply", json=document | {"version": 2})).status_code == 400
    names = [item["rule"]["name"] for item in (await client.get("/api/alerts/rules")).json()["rules"]]
    assert names == ["queue is long", "second"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"condition": RULE["condition"] | {"below": 3}}, "condition.above"),  # type: ignore[operator]
        ({"condition": RULE["condition"] | {"recover": 30}}, "condition.recover"),  # type: ignore[operator]
        ({"condition": {"kind": "threshold", "value": {"of": "vql", "query": "SELEC 1"}, "above": 1}}, ""),
        ({"summary": "{{ nothing }}"}, "summary"),
        ({"window": "never"}, "window"),
        ({"name": " "}, "name"),
    ],
    ids=["two limits", "contradiction", "invalid vql", "template", "window", "no name"],
)
async def test_a_rule_that_cannot_be_is_refused_by_its_field(
    client: Client, change: dict[str, Any], field: str
) -> None:
    answer = await client.post("/api/alerts/rules", json=RULE | change)
    assert answer.status_code == 400, answer.text
    assert field in answer.text
