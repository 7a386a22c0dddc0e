"""``/alerts/noise``: grades, and proposals that are applied with one click."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import pytest

from tests.alerting.test_ledger import RULE, START_MS, STEP_MS, lived, write
from tests.support.pages import Client, page_client, page_context, text_of
from vantage.alerting.changes import alert_changes
from vantage.core.alert_rule import MetricValue, Threshold
from vantage.query.context import QueryContext
from vantage.web.api import alert_noise as api
from vantage.web.pages import alert_noise

END = START_MS + 96 * STEP_MS
RANGE = f"?start={START_MS}&end={END}"


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        yield context


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    changes = alert_changes(context, context.metadata)  # type: ignore[arg-type]
    async with page_client(context, alert_noise.handlers, alerting=changes) as client:
        yield client


async def noisy(context: QueryContext) -> None:
    await context.metadata.alerts.save_rule(RULE, actor="ann")  # type: ignore[attr-defined]
    buckets = (5, 20, 35, 50)
    await write(context, dict.fromkeys(buckets, 60.0))
    for bucket in buckets:
        await lived(context, bucket, minutes=5)


def fields(page: str, change: str) -> dict[str, str]:
    """Return the fields of the form of a proposal."""
    (form,) = [form for form in re.findall(r"<form class=\"noise-proposal\".*?</form>", page, re.S) if change in form]
    return {name: unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', form)}


async def test_nothing_has_fired(client: Client) -> None:
    assert "Nothing has fired in this range" in text_of((await client.get("/alerts/noise")).text)


async def test_a_proposal_is_applied_with_one_click(client: Client, context: QueryContext) -> None:
    await noisy(context)
    page = (await client.get(f"/alerts/noise{RANGE}")).text
    assert "deep queue 4 (100 %)" in text_of(page)
    assert "Above 63 instead of 50 : in this range it would have fired 0 times instead of 4" in text_of(page)
    sent: dict[str, Any] = fields(page, "Above 63")
    answer = await client.post("/alerts/noise/apply", data=sent, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/alerts/noise?applied=1")
    stored = await context.metadata.alerts.rule("deep queue")
    assert stored is not None
    assert (stored.rule.condition, stored.revision) == (Threshold(MetricValue("shop", "queue"), above=63.0), 2)
    again = await client.post("/alerts/noise/apply", data=sent)
    assert again.status_code == 400
    assert "was changed meanwhile" in text_of(again.text)


async def test_the_api_has_the_same(context: QueryContext) -> None:
    await noisy(context)
    async with page_client(context, api.handlers) as client:
        answer = (await client.get(f"/api/alerts/noise{RANGE}")).json()
    (rule,) = answer["rules"]
    proposals = [(item["change"], item["before"], item["after"]) for item in rule.pop("proposals")]
    counts = {"noise": 4, "useful": 0, "ignored": 0, "open": 0, "notices": 0}
    assert rule == {"rule": "deep queue", "share": 1.0, "problem": "", **counts}
    assert proposals == [("for 6m instead of 0s", 4, 0), ("above 63 instead of 50", 4, 0)]


@pytest.mark.parametrize(
    "sent",
    [{}, {"rule": "{}", "revision": "1"}, {"rule": "x", "revision": "x"}, {"rule": "[" * 70_000, "revision": "1"}],
)
async def test_what_was_not_proposed_is_refused(client: Client, sent: dict[str, str]) -> None:
    answer = await client.post("/alerts/noise/apply", data=sent)
    assert answer.status_code == 400
    assert "not one that was proposed" in text_of(answer.text)


async def test_names_are_inert(client: Client, context: QueryContext) -> None:
    name = "<b onclick=alert(1)>\u202e"
    await lived(context, 5, minutes=5, rule=name, service=name)
    page = (await client.get(f"/alerts/noise{RANGE}")).text
    assert "<b onclick" not in page
