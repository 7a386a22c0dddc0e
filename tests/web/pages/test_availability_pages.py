"""SLOs, heartbeats and HTTP checks on pages: their state, and editors that work without a script."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import Client, page_client, page_context, text_of
from tests.support.samples import NOW_MS, a_series
from vantage.alerting.changes import alert_changes
from vantage.core.availability import CheckResult, Heartbeat, HttpCheck
from vantage.core.batch import build_batch
from vantage.core.sample import Kind
from vantage.core.slo import Slo
from vantage.query.context import QueryContext
from vantage.web.pages import availability

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        rows = [
            (a_series("api", "http.requests", Kind.COUNTER, tags={"status": status}), NOW_MS - 60_000 * n - 1, count)
            for n in range(60)
            for status, count in (("200", 99.0), ("500", 1.0))
        ]
        await write_batch(context, build_batch(rows))
        yield context


@pytest.fixture
def store(context: QueryContext) -> Any:
    return context.metadata.availability


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    metadata: Any = context.metadata
    async with page_client(context, availability.handlers, alerting=alert_changes(context, metadata)) as client:
        yield client


async def test_an_objective_is_set_and_its_budget_shown(client: Client, store: Any) -> None:
    assert "No objective has been set" in text_of((await client.get("/alerts/slos")).text)
    fields = {"f.name": "answers", "f.kind": "errors", "f.service": "api", "f.objective": "98", "f.days": "7"}
    saved = await client.post("/alerts/slos/save", data=fields, follow_redirects=False)
    assert saved.status_code == 303, text_of(saved.text)
    assert "answers api 98 % of 7 days 99.000 % 50 %" in text_of((await client.get("/alerts/slos")).text)
    page = (await client.get("/alerts/slos/answers")).text
    text = text_of(page)
    for part in ("Budget left 50.0 % of 7 days", "1 h and 5 min page 14.4 0.50 0.50", "3 d and 6 h ticket"):
        assert part in text
    assert "data-chart" in page
    changed = fields | {"stored": "answers", "revision": "1", "f.objective": "99.5"}
    assert (await client.post("/alerts/slos/save", data=changed, follow_redirects=False)).status_code == 303
    outdated = await client.post("/alerts/slos/save", data=changed)
    assert outdated.status_code == 400
    assert "was changed meanwhile" in text_of(outdated.text)
    await client.post("/alerts/slos/remove", data={"name": "answers"})
    assert await store.slos() == []


async def test_a_heartbeat_has_an_address_for_its_job(client: Client, store: Any) -> None:
    saved = await client.post(
        "/alerts/heartbeats/save", data={"f.name": "nightly", "f.cron": "0 3 * * *", "f.enabled": "on"},
        follow_redirects=False,
    )  # fmt: skip
    assert saved.headers["location"] == "/alerts/checks"
    (stored,) = await store.heartbeats()
    page = (await client.get("/alerts/heartbeats/nightly")).text
    assert f"/heartbeat/{stored.token}" in page
    assert stored.token not in (await client.get("/alerts/checks")).text
    assert "0 3 * * * UTC" in text_of((await client.get("/alerts/checks")).text)
    await client.post("/alerts/heartbeats/remove", data={"name": "nightly"})
    assert await store.heartbeats() == []


async def test_a_check_is_listed_with_its_latest_result(client: Client, store: Any, context: QueryContext) -> None:
    await store.save_check(HttpCheck("home", "https://shop.example.com/", "shop"), actor="ann")
    await store.record_result("home", CheckResult(NOW_MS, False, 503, 12.0, "answered with the status 503"))
    text = text_of((await client.get("/alerts/checks")).text)
    assert "down answered with the status 503" in text
    assert "status 503" in text_of((await client.get("/alerts/checks/home")).text)
    up = a_series("shop", "check.up", tags={"check": "home"})
    await write_batch(context, build_batch([(up, NOW_MS - 600_000 * n, float(n % 4 > 0)) for n in range(1, 41)]))
    assert "75 %" in text_of((await client.get("/alerts/checks")).text)
    refused = await client.post("/alerts/checks/save", data={"f.name": "c", "f.url": "http://127.0.0.1/"})
    assert refused.status_code == 400
    assert "outgoing_networks" in text_of(refused.text)


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("slos", {"f.name": "a", "f.objective": "much"}, "objective: is no number"),
        ("slos", {"f.name": "a", "f.kind": "odd"}, "Invalid enum value"),
        ("slos", {"f.name": "new", "f.service": "api"}, "an address of its own"),
        ("heartbeats", {"f.name": "a", "f.cron": "odd"}, "is not a cron expression"),
        ("checks", {"f.name": "a", "f.url": HOSTILE}, "is no http or https address"),
        ("checks", {}, "name: is empty"),
    ],
)
async def test_what_is_wrong_is_said_and_the_form_stays(
    client: Client, path: str, fields: dict[str, str], message: str
) -> None:
    answer = await client.post(f"/alerts/{path}/save", data={"f.description": "stays", **fields})
    assert answer.status_code == 400
    assert message in text_of(answer.text)
    assert 'value="stays"' in answer.text
    assert HOSTILE not in answer.text


async def test_hostile_names_are_inert(client: Client, store: Any) -> None:
    await store.save_slo(Slo(HOSTILE, service=HOSTILE), actor=HOSTILE)
    await store.save_heartbeat(Heartbeat(HOSTILE, service=HOSTILE), token="t", actor=HOSTILE)
    await store.save_check(HttpCheck(HOSTILE, "https://example.com/" + HOSTILE), actor=HOSTILE)
    for path in ("/alerts/slos", "/alerts/checks"):
        page = (await client.get(path)).text
        assert HOSTILE not in page
        for link in re.findall(r'class="row-link" href="([^"]+)"', page):
            assert HOSTILE not in (await client.get(link)).text


@pytest.mark.parametrize("path", ["slos", "checks", "heartbeats"])
async def test_an_editor_of_a_new_one_opens_and_an_unknown_name_is_none(client: Client, path: str) -> None:
    assert (await client.get(f"/alerts/{path}/new")).status_code == 200
    assert (await client.get(f"/alerts/{path}/nothing")).status_code == 404
