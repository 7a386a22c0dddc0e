"""What fires, on a page: why, since when, and the buttons, which are plain forms."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tests.support.context_writes import record_deployment, write_batch
from tests.support.pages import Client, page_client, page_context, text_of
from tests.support.samples import NOW_MS, a_series
from vantage.alerting.changes import alert_changes
from vantage.core.alert import Alert, State
from vantage.core.alert_rule import MetricValue, Rule, Severity, Threshold
from vantage.core.batch import build_batch
from vantage.core.deployment import Deployment
from vantage.core.sample import Kind
from vantage.query.context import QueryContext
from vantage.storage.metadata.alert_ports import AlertStore, Evaluation
from vantage.web.pages import alerts, overview, service

HOSTILE = "<img src=x onerror=alert(1)>"


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
    async with page_client(context, alerts.handlers, alerting=alert_changes(context, metadata)) as client:
        yield client


def a_rule(name: str = "queue is long", **fields: Any) -> Rule:
    return Rule(name, Threshold(MetricValue("api", "queue"), above=10.0, recover=8.0), **fields)


async def opened(store: AlertStore, rule: str = "queue is long", service: str = "api", **fields: Any) -> Alert:
    alert = Alert(
        0, rule, {"service": service}, service, Severity.WARNING, State.FIRING, NOW_MS - 60_000, NOW_MS - 120_000
    )
    stored = await store.open_alert(
        replace(alert, fired_ms=NOW_MS - 60_000, value=12.0, text="queue: 12, above 10", **fields),
        note="",
        at_ms=NOW_MS,
    )
    assert stored is not None
    return stored


async def test_without_alerts_the_page_says_what_is_watched(client: Client, store: AlertStore) -> None:
    text = text_of((await client.get("/alerts")).text)
    assert "Nothing fires" in text
    assert "No rule watches anything" in text
    await store.save_rule(a_rule(), actor="ann")
    await store.record_evaluations([Evaluation("queue is long", NOW_MS, 0, "no such column")])
    text = text_of((await client.get("/alerts")).text)
    assert "1 rule watches: queue is long" in text
    assert "could not be evaluated" in text
    assert "no such column" in text


async def test_what_fires_comes_first_the_worst_before_others(client: Client, store: AlertStore) -> None:
    await store.save_rule(a_rule(), actor="ann")
    await opened(store)
    await opened(store, service="shop", severity=Severity.CRITICAL)
    seen = await opened(store, service="cart", severity=Severity.CRITICAL)
    await store.change_alert(
        replace(seen, state=State.ACKNOWLEDGED, actor="bob", note="mine"), before=seen, at_ms=NOW_MS
    )
    await opened(store, service="later", state=State.PENDING)
    page = (await client.get("/alerts")).text
    cards = re.findall(r"<article.*?</article>", page, re.DOTALL)
    assert [re.search(r"(shop|api|cart)", text_of(card))[0] for card in cards] == ["shop", "api", "cart"]  # type: ignore[index]
    assert "bob: mine" in text_of(cards[2])
    assert "Acknowledge" not in text_of(cards[2])
    assert "Resolve" in text_of(cards[2])
    assert "Pending" in text_of(page)
    only = text_of((await client.get("/alerts", params={"severity": "critical", "service": "shop"})).text)
    assert "shop" in only
    assert "cart" not in only


async def test_a_card_has_the_deployment_shortly_before(
    client: Client, context: QueryContext, store: AlertStore
) -> None:
    await opened(store)
    await record_deployment(context, Deployment("api", "prod", "2.0.1", NOW_MS - 300_000, "reported", ""))
    await record_deployment(context, Deployment("cart", "prod", "9.9.9", NOW_MS - 300_000, "reported", ""))
    text = text_of((await client.get("/alerts")).text)
    assert "2.0.1 of api went live" in text
    assert "9.9.9" not in text


async def test_buttons_are_forms_that_lead_back(client: Client, store: AlertStore) -> None:
    alert = await opened(store)
    page = (await client.get("/alerts", params={"service": "api"})).text
    assert f'action="/alerts/{alert.id}/acknowledge"' in page
    assert f'formaction="/alerts/{alert.id}/resolve"' in page
    done = await client.post(
        f"/alerts/{alert.id}/acknowledge", data={"note": "on it", "list": "?service=api"}, follow_redirects=False
    )
    assert (done.status_code, done.headers["location"]) == (303, "/alerts?service=api")
    stored = await store.alert(alert.id)
    assert stored is not None
    assert (stored.state, stored.note, stored.actor) == (State.ACKNOWLEDGED, "on it", "local")
    done = await client.post(f"/alerts/{alert.id}/resolve", data={"list": "//evil"}, follow_redirects=False)
    assert done.headers["location"] == f"/alerts/{alert.id}"
    refused = await client.post(f"/alerts/{alert.id}/acknowledge", data={})
    assert refused.status_code == 409
    assert "resolved and cannot be acknowledged" in text_of(refused.text)


async def test_an_alert_is_explained(client: Client, context: QueryContext, store: AlertStore) -> None:
    rule = a_rule(runbook="https://runbooks.example/queue", owner="team-shop", description="People wait.")
    await store.save_rule(rule, actor="ann")
    series = a_series("api", "queue", Kind.GAUGE)
    await write_batch(context, build_batch([(series, NOW_MS - 60_000 * i - 1, 12.0) for i in range(30)]))
    alert = await opened(store)
    page = (await client.get(f"/alerts/{alert.id}")).text
    text = text_of(page)
    for part in (
        "Fires when avg of queue of api over 5m is above 10 (back at 8) for 2m. Resolved when it has been back for 5m.",
        "People wait.",
        "Runbook",
        "Owner: team-shop",
        "ok → firing",
        "Traces then",
        "Explore the metric",
    ):
        assert part in text, part
    assert 'href="https://runbooks.example/queue"' in page
    assert "data-chart" in page
    assert (await client.get("/alerts/77")).status_code == 404


async def test_history_is_read_page_by_page(client: Client, store: AlertStore) -> None:
    for number in range(alerts.HISTORY_SHOWN + 3):
        alert = await opened(store, service=f"s-{number:03}")
        ended = replace(alert, state=State.RESOLVED, ended_ms=NOW_MS)
        await store.change_alert(ended, before=alert, at_ms=NOW_MS)
    page = (await client.get("/alerts")).text
    assert "s-052" in page
    assert "s-002" not in page
    (older,) = re.findall(r'href="(/alerts\?before=\d+)"', page)
    assert "s-002" in (await client.get(older)).text


@pytest.mark.parametrize("before", ["x", "-1", "9" * 30, "٣", "0"])
async def test_whatever_the_address_says_there_is_a_page(client: Client, before: str) -> None:
    params = {"before": before, "severity": HOSTILE, "service": HOSTILE, "rule": "\x00"}
    answer = await client.get("/alerts", params=params)
    assert answer.status_code == 200
    assert HOSTILE not in answer.text


async def test_hostile_names_are_inert(client: Client, store: AlertStore) -> None:
    alert = await opened(store, rule=HOSTILE.replace("/", ""), service=HOSTILE, labels={HOSTILE: HOSTILE})
    for path in ("/alerts", f"/alerts/{alert.id}"):
        page = (await client.get(path)).text
        assert HOSTILE not in page
        assert HOSTILE in text_of(page)


async def test_overview_and_service_have_their_open_alerts(context: QueryContext, store: AlertStore) -> None:
    series = a_series("api", "queue", Kind.GAUGE)
    await write_batch(context, build_batch([(series, NOW_MS - 1, 12.0)]))
    await opened(store)
    await opened(store, rule="the worst", severity=Severity.CRITICAL)
    await opened(store, rule="not yet", state=State.PENDING)
    async with page_client(context, [*overview.handlers, *service.handlers]) as client:
        page = (await client.get("/")).text
        assert re.search(r'href="/alerts\?service=api">.*?critical</span> 2 alerts', page, re.DOTALL)
        text = text_of((await client.get("/services/api")).text)
        assert "the worst firing, " in text
        assert "not yet" not in text
