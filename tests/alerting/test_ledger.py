"""The noise ledger: grades, and proposals that lose nothing that somebody needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tests.support.context_writes import record_deployment, write_batch
from tests.support.pages import page_context
from tests.support.samples import NOW_MS, a_series
from vantage.alerting.ledger import Grade, read_ledger
from vantage.core.alert import Alert, State
from vantage.core.alert_rule import MetricValue, Rule, Severity, Threshold
from vantage.core.batch import build_batch
from vantage.core.deployment import Deployment
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext

MINUTE_MS = 60_000
STEP_MS = 5 * MINUTE_MS
START_MS = NOW_MS // STEP_MS * STEP_MS - 96 * STEP_MS
RANGE = TimeRange(START_MS, START_MS + 96 * STEP_MS)
RULE = Rule("deep queue", Threshold(MetricValue("shop", "queue"), above=50), hold="0s", recover_for="0s", every="5m")


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        yield context


async def write(context: QueryContext, values: dict[int, float]) -> None:
    """Write one sample in each bucket of the range: 10, or the value given for its number."""
    rows = [(a_series("shop", "queue"), START_MS + n * STEP_MS, values.get(n, 10.0)) for n in range(96)]
    await write_batch(context, build_batch(rows))


async def lived(context: QueryContext, bucket: int, *, minutes: float | None, actor: str = "", **fields: Any) -> Alert:
    """Store an alert that fired at the end of a bucket and lasted, or goes on; ``actor`` acknowledged it."""
    alerts: Any = context.metadata.alerts
    fired_ms = START_MS + (bucket + 1) * STEP_MS
    given = {"rule": "deep queue", "service": "shop", **fields}
    entity = {"service": given["service"]}
    alert = Alert(0, entity=entity, severity=Severity.WARNING, state=State.FIRING, since_ms=fired_ms,
                  begun_ms=fired_ms, fired_ms=fired_ms, value=90.0, **given)  # fmt: skip
    alert = await alerts.open_alert(alert, note="", at_ms=fired_ms)
    if actor:
        before, alert = alert, replace(alert, state=State.ACKNOWLEDGED, actor=actor)
        assert await alerts.change_alert(alert, before=before, at_ms=fired_ms + 1)
        alert = replace(alert, revision=2)
    if minutes is not None:
        ended_ms = fired_ms + int(minutes * MINUTE_MS)
        ended = replace(alert, state=State.RESOLVED, ended_ms=ended_ms, since_ms=ended_ms, actor="vantage")
        assert await alerts.change_alert(ended, before=alert, at_ms=ended_ms)
    return alert


async def test_alerts_are_graded_by_what_people_did(context: QueryContext) -> None:
    await record_deployment(context, Deployment("pay", "production", "2", START_MS + 40 * STEP_MS, "reported"))
    await lived(context, 1, minutes=4)
    await lived(context, 10, minutes=4, actor="ann")
    await lived(context, 20, minutes=40)
    await lived(context, 40, minutes=40, service="pay")
    await lived(context, 45, minutes=40, service="pay")
    await lived(context, 60, minutes=None)
    await lived(context, 70, minutes=None, rule="other")
    first, other = await read_ledger(context, RANGE, proposals=False)
    assert [(item.grade, item.at_deployment) for item in reversed(first.alerts)] == [
        (Grade.NOISE, False),
        (Grade.USEFUL, False),
        (Grade.IGNORED, False),
        (Grade.NOISE, True),
        (Grade.IGNORED, False),
        (Grade.OPEN, False),
    ]
    assert [item.reason for item in first.alerts][-2:] == ["acknowledged by ann", "resolved by itself after 4 min"]
    assert (first.rule, first.counts[Grade.NOISE], first.counts[Grade.USEFUL], first.share) == ("deep queue", 2, 1, 0.4)
    assert (other.rule, other.share) == ("other", None)


async def test_a_noisy_rule_gets_proposals_that_lose_no_useful_alert(context: QueryContext) -> None:
    stored = await context.metadata.alerts.save_rule(RULE, actor="ann")  # type: ignore[attr-defined]
    noise, useful = (5, 20, 35, 50), range(70, 80)
    await write(context, {**dict.fromkeys(noise, 60.0), **dict.fromkeys(useful, 95.0)})
    for bucket in noise:
        await lived(context, bucket, minutes=5)
    await lived(context, 70, minutes=50, actor="ann")
    (ledger,) = await read_ledger(context, RANGE)
    assert ledger.problem == ""
    assert [(item.change, item.before, item.after, item.lost) for item in ledger.proposals] == [
        ("for 6m instead of 0s", 5, 1, 0),
        ("above 63 instead of 50", 5, 1, 0),
    ]
    assert {item.revision for item in ledger.proposals} == {stored.revision}
    assert ledger.proposals[1].rule.condition == Threshold(MetricValue("shop", "queue"), above=63)


async def test_a_proposal_that_would_hide_what_somebody_needed_is_not_made(context: QueryContext) -> None:
    await context.metadata.alerts.save_rule(RULE, actor="ann")  # type: ignore[attr-defined]
    noise = (5, 20, 35, 50)
    await write(context, dict.fromkeys((*noise, 70), 60.0))
    for bucket in noise:
        await lived(context, bucket, minutes=5)
    await lived(context, 70, minutes=5, actor="ann")
    (ledger,) = await read_ledger(context, RANGE)
    assert ledger.proposals == ()


async def test_few_noisy_alerts_are_no_reason_to_change_a_rule(context: QueryContext) -> None:
    await context.metadata.alerts.save_rule(RULE, actor="ann")  # type: ignore[attr-defined]
    await write(context, {5: 60.0, 20: 60.0})
    for bucket in (5, 20):
        await lived(context, bucket, minutes=5)
    (ledger,) = await read_ledger(context, RANGE)
    assert (ledger.counts[Grade.NOISE], ledger.proposals) == (2, ())
