"""HTTP checks: a loop that calls the URLs that are due and sends the results as samples, and what rules say of them.

Any number of processes may run the loop on one metadata database: each check is claimed by one of them.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from vantage.alerting.observation import Observation
from vantage.alerting.outgoing import Outgoing, OutgoingFailed, OutgoingRefused
from vantage.alerting.slo import CHECK_DURATION, CHECK_SERVICE
from vantage.core.alert_rule import CheckCondition
from vantage.core.availability import CheckResult, HttpCheck, StoredCheck
from vantage.core.batch import build_batch
from vantage.core.clock import Clock
from vantage.core.errors import InputError, VantageError
from vantage.core.number_format import utc
from vantage.core.sample import Kind
from vantage.core.series import make_series
from vantage.query.availability import CHECK_METRIC, list_checks
from vantage.query.context import QueryContext
from vantage.storage.metadata.availability_ports import AvailabilityStore
from vantage.stream.ports import Sink

POLL_S: Final = 5.0
AT_ONCE: Final = 16  # calls
PROBLEM_LENGTH_MAX: Final = 300
BODY_NBYTES_MAX: Final = 64 << 10
_log = structlog.get_logger("vantage.checks")


class CheckLoop:
    """Calls the URLs of checks that are due, every POLL_S seconds. Without a ``sink``, results are stored alone."""

    name = "checks"

    def __init__(self, checks: AvailabilityStore, outgoing: Outgoing, sink: Sink | None, *, clock: Clock) -> None:
        self._checks = checks
        self._outgoing = outgoing
        self._sink = sink
        self._clock = clock
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Check until cancelled. Raises what the metadata database raises: it then begins again."""
        try:
            while True:
                await self.start_due()
                await self._clock.sleep(POLL_S)
        finally:
            for task in self._running:
                task.cancel()

    async def start_due(self) -> list[asyncio.Task[None]]:
        """Begin the checks that are due, and return them. A slow one delays no other."""
        room = AT_ONCE * 2 - len(self._running)
        if room <= 0:
            return []
        claimed = await self._checks.claim_checks(now_ms=self._clock.now_ms(), limit=room)
        tasks = [asyncio.create_task(self._check(item.check)) for item in claimed if item.check.enabled]
        for task in tasks:
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return tasks

    async def _check(self, check: HttpCheck) -> None:
        async with self._gate:
            result = await run_check(self._outgoing, check, clock=self._clock)
        try:
            await self._checks.record_result(check.name, result)
            if self._sink is not None:
                service = check.service or CHECK_SERVICE
                tags = {"check": check.name}
                up = make_series(service=service, environment="", metric=CHECK_METRIC, kind=Kind.GAUGE, tags=tags)
                took = make_series(
                    service=service, environment="", metric=CHECK_DURATION, kind=Kind.GAUGE, unit="ms", tags=tags
                )
                rows = [(up, result.at_ms, float(result.is_up)), (took, result.at_ms, result.duration_ms)]
                await self._sink.publish(build_batch(rows))
        except VantageError as error:  # the next run has its own result
            _log.warning("the result of a check is lost", check=check.name, reason=str(error))


async def run_check(outgoing: Outgoing, check: HttpCheck, *, clock: Clock) -> CheckResult:
    """Call a URL once, and return how it went. Never raises for what the URL does."""
    started = time.perf_counter()
    status, problem = 0, ""
    try:
        response = await outgoing.call(
            check.method, check.url, timeout_s=check.timeout_ms / 1000, response_nbytes_max=BODY_NBYTES_MAX
        )
        status = response.status
        if not check.status_from <= status <= check.status_to:
            problem = f"answered with the status {status}"
        elif check.text and check.text.encode() not in response.body:
            problem = "the response lacks the text"
    except (OutgoingRefused, OutgoingFailed) as error:
        problem = str(error)
    took_ms = (time.perf_counter() - started) * 1000
    return CheckResult(clock.now_ms(), not problem, status, round(took_ms, 3), problem[:PROBLEM_LENGTH_MAX])


async def observe_checks(context: QueryContext, condition: CheckCondition) -> list[Observation]:
    """Return whether checks have failed so many times in a row. Raises InputError for one that does not exist."""
    stored = [item for item in await list_checks(context) if condition.name in ("", item.check.name)]
    if condition.name and not stored:
        raise InputError(f"there is no check {condition.name!r}", field="condition.name")
    return [_observation(item, condition) for item in stored if item.check.enabled]


def _observation(item: StoredCheck, condition: CheckCondition) -> Observation:
    check, result = item.check, item.result
    entity = {"check": check.name} | ({"service": check.service} if check.service else {})
    if result is None:
        return Observation(entity, check.service, None, holds=False, recovered=False, text=f"{check.name}: not yet run")
    holds = item.failures >= condition.failures
    if result.is_up:
        text = f"{check.name} is up"
    else:
        since = f" since {utc(item.since_ms)}" if item.since_ms is not None else ""
        text = f"{check.name} is down{since}: {result.problem}"
    return Observation(entity, check.service, float(item.failures), holds, result.is_up, 1, "", text)
