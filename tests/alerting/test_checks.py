"""Heartbeats and HTTP checks: when a job is late, how a URL is judged, and that each check runs once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.pages import page_context
from tests.support.samples import NOW_MS
from vantage.alerting.availability import AvailabilityEditing
from vantage.alerting.checks import CheckLoop, observe_checks, run_check
from vantage.alerting.heartbeats import heartbeat_state, observe_heartbeats
from vantage.alerting.outgoing import Outgoing, OutgoingFailed, OutgoingResponse
from vantage.core.alert_rule import CheckCondition, HeartbeatCondition
from vantage.core.availability import Heartbeat, HttpCheck, StoredHeartbeat, checked_check, checked_heartbeat
from vantage.core.errors import InputError, NotFoundError
from vantage.ingest.store_sink import StoreSink
from vantage.query.context import QueryContext

HOUR_MS = 3_600_000
URL = "https://shop.example.com/"


class Answers(Outgoing):
    """Gives the responses of a test, without a network."""

    def __init__(self, *responses: OutgoingResponse | OutgoingFailed) -> None:
        super().__init__()
        self.responses = list(responses)
        self.calls: list[str] = []

    async def call(self, method: str, url: str, **_options: Any) -> OutgoingResponse:
        self.calls.append(f"{method} {url}")
        response = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        if isinstance(response, OutgoingFailed):
            raise response
        return response


def response(status: int = 200, body: bytes = b"all is well") -> OutgoingResponse:
    return OutgoingResponse(status, {}, body)


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        yield context


def editing(context: QueryContext, outgoing: Outgoing | None = None) -> AvailabilityEditing:
    store: Any = context.metadata.availability
    return AvailabilityEditing(context, store, outgoing or Outgoing())


def stored(heartbeat: Heartbeat, **fields: Any) -> StoredHeartbeat:
    return StoredHeartbeat(heartbeat, "t", 1, "ann", NOW_MS, **{"created_ms": NOW_MS, **fields})


def test_a_job_is_late_after_its_interval_and_grace() -> None:
    heartbeat = Heartbeat("n", every="1h", grace="10m")
    ran = stored(heartbeat, last_ms=NOW_MS)
    states = [heartbeat_state(ran, now_ms=NOW_MS + minutes * 60_000) for minutes in (59, 65, 71)]
    assert [state.word for state in states] == ["on time", "on time", "late"]
    assert states[2].late_ms == 60_000
    assert heartbeat_state(stored(heartbeat), now_ms=NOW_MS + 71 * 60_000).word == "late"


def test_a_job_that_started_runs_and_one_that_failed_has() -> None:
    heartbeat = Heartbeat("n", every="1h")
    assert (
        heartbeat_state(stored(heartbeat, last_ms=NOW_MS, started_ms=NOW_MS + 1), now_ms=NOW_MS + 2).word == "running"
    )
    failed = stored(heartbeat, last_ms=NOW_MS, started_ms=NOW_MS + 1, failed_ms=NOW_MS + 2)
    assert heartbeat_state(failed, now_ms=NOW_MS + 3).word == "failed"
    again = stored(heartbeat, last_ms=NOW_MS + 4, started_ms=NOW_MS + 1, failed_ms=NOW_MS + 2)
    assert heartbeat_state(again, now_ms=NOW_MS + 5).word == "on time"


def test_cron_is_in_the_zone_also_when_clocks_change() -> None:
    heartbeat = Heartbeat("n", cron="0 3 * * *", timezone="Europe/Berlin", grace="0s")
    saturday_ms = 1_774_746_000_000  # 2026-03-29T01:00:00Z, when clocks go forward: 02:00 becomes 03:00
    before = stored(heartbeat, created_ms=saturday_ms - 2 * HOUR_MS)
    assert heartbeat_state(before, now_ms=saturday_ms).expected_ms == saturday_ms
    ran = stored(heartbeat, last_ms=saturday_ms, created_ms=0)
    assert heartbeat_state(ran, now_ms=saturday_ms).expected_ms == saturday_ms + 24 * HOUR_MS


async def test_a_late_job_is_observed_by_its_rule(context: QueryContext) -> None:
    edit = editing(context)
    saved = await edit.save_heartbeat(Heartbeat("nightly", service="jobs", every="1h"), actor="ann")
    await edit.save_heartbeat(Heartbeat("off", every="1h", enabled=False), actor="ann")
    later_ms = NOW_MS + 3 * HOUR_MS
    (observation,) = await observe_heartbeats(context, HeartbeatCondition(), now_ms=later_ms)
    assert (observation.holds, observation.service) == (True, "jobs")
    assert "nightly did not run" in observation.text
    assert "has never reported" in observation.text
    await edit.ping(saved.token, "success")
    (observation,) = await observe_heartbeats(context, HeartbeatCondition("nightly"), now_ms=NOW_MS + HOUR_MS)
    assert (observation.holds, observation.recovered) == (False, True)
    await edit.ping(saved.token, "fail")
    (observation,) = await observe_heartbeats(context, HeartbeatCondition("nightly"), now_ms=NOW_MS)
    assert observation.recovered  # at the same moment, success counts
    with pytest.raises(InputError, match="there is no heartbeat"):
        await observe_heartbeats(context, HeartbeatCondition("odd"), now_ms=NOW_MS)
    for token, state, error in (
        ("x", "success", NotFoundError),
        ("", "success", NotFoundError),
        ("x", "odd", InputError),
    ):
        with pytest.raises(error):
            await edit.ping(token, state)


@pytest.mark.parametrize(
    ("check", "answer", "problem"),
    [
        (HttpCheck("c", URL), response(), ""),
        (HttpCheck("c", URL, text="well"), response(), ""),
        (HttpCheck("c", URL, text="ill"), response(), "the response lacks the text"),
        (HttpCheck("c", URL), response(503), "answered with the status 503"),
        (HttpCheck("c", URL, status_from=401, status_to=401), response(401), ""),
        (HttpCheck("c", URL), OutgoingFailed("shop cannot be reached"), "shop cannot be reached"),
    ],
    ids=["up", "text", "no text", "status", "wanted status", "away"],
)
async def test_a_url_is_judged(context: QueryContext, check: HttpCheck, answer: Any, problem: str) -> None:
    result = await run_check(Answers(answer), check, clock=context.clock)
    assert (result.is_up, result.problem) == (not problem, problem)


async def test_checks_run_when_due_once_and_send_samples(context: QueryContext) -> None:
    store: Any = context.metadata.availability
    telemetry: Any = context.store
    outgoing = Answers(response(), response(500))
    await editing(context).save_check(HttpCheck("home", URL, service="shop"), actor="ann")
    await editing(context).save_check(HttpCheck("off", URL, enabled=False), actor="ann")
    loops = [CheckLoop(store, outgoing, StoreSink(telemetry, []), clock=context.clock) for _ in range(3)]

    async def round_of_all() -> None:
        for tasks in await asyncio.gather(*(loop.start_due() for loop in loops)):
            await asyncio.gather(*tasks)

    await round_of_all()
    await round_of_all()
    assert outgoing.calls == [f"GET {URL}"]
    (home, _) = await store.checks()
    assert home.result is not None
    assert home.result.is_up
    infos = await context.store.list_series(service="shop")
    assert {info.series.metric for info in infos} == {"check.up", "check.duration"}
    clock: Any = context.clock
    for failures in (1, 2):
        clock.now += 61_000
        await round_of_all()
        (observation,) = await observe_checks(context, CheckCondition("home"))
        assert (observation.value, observation.holds) == (failures, failures == 2)
    assert "home is down" in observation.text
    assert "status 500" in observation.text
    with pytest.raises(InputError, match="there is no check"):
        await observe_checks(context, CheckCondition("odd"))


async def test_a_private_address_is_refused_when_it_is_saved(context: QueryContext) -> None:
    with pytest.raises(InputError, match="outgoing_networks"):
        await editing(context).save_check(HttpCheck("c", "http://169.254.169.254/"), actor="ann")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"url": "ftp://x"}, "url"),
        ({"url": "http://[x"}, "url"),
        ({"every": "1s"}, "every"),
        ({"timeout": "5m"}, "timeout"),
        ({"status_from": 300, "status_to": 200}, "status_from"),
        ({"method": "HEAD", "text": "x"}, "text"),
        ({"name": ""}, "name"),
    ],
    ids=["scheme", "no url", "too often", "too slow", "statuses", "head", "no name"],
)
def test_a_check_that_cannot_be_is_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as error:
        checked_check(HttpCheck(**{"name": "c", "url": URL, **fields}))
    assert error.value.field == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"every": "1s"}, "every"), ({"grace": "99d"}, "grace"), ({"cron": "odd"}, "cron"),
     ({"timezone": "X"},
     "timezone"), ({"cron": "0 0 30 2 *"}, "cron")],
    ids=["too often", "grace", "cron", "zone", "never"],
)  # fmt: skip
async def test_a_heartbeat_that_cannot_be_is_refused(context: QueryContext, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as error:
        await editing(context).save_heartbeat(checked_heartbeat(Heartbeat(**{"name": "n", **fields})), actor="ann")
    assert error.value.field == field
