"""Promote while serving: the copy catches up with what is written, until writes can wait for the rest.

    copying     every hour that has data, while requests are served
    following   what came meanwhile, minute by minute, again and again, until a round is short
    switching   writes and deletions are answered 503 for some seconds: the rest, the record, a new start of the process

Nothing is written to both stores: a minute that was written to is compared and appended a moment later, so a request
waits for one store alone, and ClickHouse may be away for as long as it likes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final, Literal

import structlog

from vantage.core.clock import Clock
from vantage.core.errors import (
    BusyError,
    ConfigError,
    ConflictError,
    FormatTooNew,
    InputError,
    StartupError,
    StoreTimeout,
    StoreUnavailable,
    UnavailableError,
    sentence,
)
from vantage.core.rollup import HOUR_MS
from vantage.core.timerange import TimeRange
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.embedded.write.touched import MINUTE_MS
from vantage.storage.promotion.copy import Copier, clear_all
from vantage.storage.promotion.record import (
    PromotionRecord,
    host_of,
    is_begun,
    read_record,
    record_for,
    remove_record,
    retained_since_ms,
    write_record,
)

Phase = Literal["none", "copying", "following", "switching", "switched", "failed"]
MOVING: Final = "the data is being moved to ClickHouse"
ROUND_S_MAX: Final = 5.0  # a round that took longer is followed by another before writes are paused
ROUND_PAUSE_S: Final = 0.5
RUNS_MAX: Final = 5  # of minutes in an hour; beyond that the complete hour is compared
COMPARED_BEFORE_MS: Final = 2 * MINUTE_MS  # answers are compared up to so long ago
COMPARISONS: Final = 3  # of answers, as late data may arrive between the two
PAUSED_S_MAX: Final = 30.0  # that writes wait for the last minutes; then all begins again
RETRY_S: Final = 10.0
PAUSE_SHARE: Final = 1.0  # copying takes half of the time of one thread: the rest is for those who are served
MINUTES_PER_HOUR: Final = HOUR_MS // MINUTE_MS
_log = structlog.get_logger("vantage.promotion")


@dataclass(slots=True)
class Progress:
    """How far a promotion is. ``problem`` is why it waits or failed; ``to`` names the server without its password."""

    phase: Phase = "none"
    to: str = ""
    hours: int = 0
    hours_total: int = 0
    round_s: float = 0.0  # that the last round of following took
    problem: str = ""


class ServingPromotion:
    """Promotes the store of a running process; ``source`` is None where that is not an embedded one.

    ``open_target`` returns the store of a URL, not yet opened. ``restart`` requests that the process starts again; it
    finds the record then, and serves from ClickHouse.
    """

    name = "promotion"

    def __init__(
        self,
        source: EmbeddedStore | None,
        data: Path,
        *,
        open_target: Callable[[str], ClickHouseStore],
        clock: Clock,
        retention_days: int | None,
        restart: Callable[[], None],
    ) -> None:
        self._source = source
        self._data = data
        self._open_target = open_target
        self._clock = clock
        self._retention_days = retention_days
        self._restart = restart
        self._wanted = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._progress = Progress()

    def progress(self) -> Progress:
        """Return how far it is. Raises StartupError when the record cannot be read."""
        if self._progress.phase == "none" and (record := read_record(self._data)) is not None:
            phase: Phase = "switched" if record.phase == "switched" else "copying"
            return Progress(phase, host_of(record), len(record.hours), record.hours_total)
        return self._progress

    async def start(self, url: str, *, leave_rollups: bool = False) -> None:
        """Begin, or continue, to copy to the server of ``url``. Returns once that is known to work; the copy itself
        goes on in ``run``. Raises InputError, ConflictError, StoreUnavailable."""
        source = self._writable_source()
        if self._wanted.is_set():
            raise ConflictError(f"a promotion to {self._progress.to} is running")
        if await source.raw_since_ms() and not leave_rollups:
            raise ConflictError("samples have expired by size and only their rollups are left, which cannot be copied")
        try:
            record = record_for(url, read_record(self._data), self._data)
            async with self._open_target(record.url) as target:
                if not is_begun(self._data) and (await target.list_series() or await target.services_with_spans()):
                    raise ConflictError(f"{host_of(record)} has other data: name an empty database, or a new one")
        except StartupError as error:  # it is away, or too new: the caller named it
            raise InputError(str(error), field="to") from error
        record.by_server = True
        write_record(self._data, record)
        self._progress = Progress("copying", host_of(record))
        self._wanted.set()

    async def abandon(self) -> None:
        """End a promotion and delete the copy. Raises ConflictError when there is none, or it is switched."""
        self._writable_source()
        record = read_record(self._data)
        if record is None:
            raise ConflictError("there is no promotion to end")
        if record.phase == "switched" or self._progress.phase == "switching":
            raise ConflictError(f"the data is on {host_of(record)} already")
        self._wanted.clear()
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])
        async with self._open_target(record.url) as target:
            await clear_all(target)
        remove_record(self._data)
        self._progress = Progress()

    async def run(self) -> None:
        """Continue the promotion of the process before, and then each one that is started."""
        if self._source is None:
            await asyncio.Event().wait()
        record = read_record(self._data)
        if record is not None and record.by_server and record.phase == "copying":
            self._wanted.set()
        while True:
            await self._wanted.wait()
            self._work = asyncio.create_task(self._attempt(), name="vantage promotion")
            try:
                await asyncio.wait([self._work])
            finally:  # at the end of the process, too
                self._work.cancel()
                await asyncio.wait([self._work])
                self._work = None
            if self._progress.phase in ("failed", "switched", "none"):
                self._wanted.clear()
            else:
                await self._clock.sleep(RETRY_S)

    async def _attempt(self) -> None:
        """Promote. A server that is away is a reason to try again; any other error ends the promotion."""
        source, record = self._writable_source(), read_record(self._data)
        if record is None:
            self._progress = Progress()
            return
        self._progress = Progress("copying", host_of(record), len(record.hours), record.hours_total)
        source.touched.follow()
        try:
            async with AsyncExitStack() as stack:
                target = await self._opened_target(record, stack)
                await self._promote(source, target, record)
        except (UnavailableError, StoreTimeout, BusyError) as error:
            self._note(error, phase="copying")
        except Exception as error:  # noqa: BLE001 - it ends the promotion, and neither the loop nor the server
            self._note(error, phase="failed")
        finally:
            source.touched.stop()
            if self._progress.phase != "switched":
                source.resume_writes()

    async def _opened_target(self, record: PromotionRecord, stack: AsyncExitStack) -> ClickHouseStore:
        """Open the target. Raises StoreUnavailable when it is away, FormatTooNew and ConfigError for what waiting does
        not mend."""
        try:
            return await stack.enter_async_context(self._open_target(record.url))
        except (FormatTooNew, ConfigError):
            raise
        except StartupError as error:
            raise StoreUnavailable(str(error)) from error

    def _note(self, error: Exception, *, phase: Phase) -> None:
        reason = sentence(error)
        _log.error("promotion interrupted", phase=self._progress.phase, reason=reason, tried_again=phase != "failed")
        self._progress.phase, self._progress.problem = phase, reason

    async def _promote(self, source: EmbeddedStore, target: ClickHouseStore, record: PromotionRecord) -> None:
        progress = self._progress
        copier = Copier(
            source,
            target,
            self._data,
            record,
            clock=self._clock,
            oldest_ms=retained_since_ms(self._clock.now_ms(), self._retention_days),
            on_progress=self._on_hours,
            on_wait=self._on_wait,
            wait_s_max=float("inf"),
            pause_share=PAUSE_SHARE,
        )
        await copier.copy_hours()
        progress.phase = "following"
        first_ms = await self._follow(source, copier)
        await self._compare_answers(source, copier, before_ms=first_ms)
        ids_at_s = self._clock.monotonic_s()
        await copier.copy_batch_ids()
        await self._follow(source, copier)
        progress.phase = "switching"
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(PAUSED_S_MAX):
                await source.pause_writes(MOVING)
                await self._append_touched(source, copier)
                await copier.check_rollups()
                await copier.copy_batch_ids(younger_than_ms=(self._clock.monotonic_s() - ids_at_s) * 1000 + MINUTE_MS)
        except TimeoutError as error:
            raise StoreUnavailable(f"ClickHouse did not take the last minutes within {PAUSED_S_MAX:g} s") from error
        copier.finish()
        progress.phase = "switched"
        _log.info("promoted", to=progress.to, hours=len(record.hours), paused_s=round(time.monotonic() - began_s, 1))
        self._restart()

    async def _follow(self, source: EmbeddedStore, copier: Copier) -> int:
        """Append what came, until a round takes less than ROUND_S_MAX. Return the first time that it was for, in ms."""
        first_ms = self._clock.now_ms()
        while True:
            began_s = time.monotonic()
            first_ms = min(first_ms, await self._append_touched(source, copier))
            self._progress.round_s = round(time.monotonic() - began_s, 2)
            if self._progress.round_s < ROUND_S_MAX:
                return first_ms
            await asyncio.sleep(ROUND_PAUSE_S)

    async def _append_touched(self, source: EmbeddedStore, copier: Copier) -> int:
        """Append what came since the last call. Return the first time that it was for, in ms."""
        minutes = source.touched.take()
        if minutes is None:
            await copier.copy_hours()
            return 0
        for time_range in ranges_of(minutes):
            await copier.append(time_range)
        return minutes[0] * MINUTE_MS if minutes else self._clock.now_ms()

    async def _compare_answers(self, source: EmbeddedStore, copier: Copier, *, before_ms: int) -> None:
        """Compare answers on what is older than the data that still arrives. Raises StartupError for a difference."""
        for _ in range(COMPARISONS):
            before_ms = min(before_ms, self._clock.now_ms() - COMPARED_BEFORE_MS) // MINUTE_MS * MINUTE_MS
            try:
                await copier.compare_answers(before_ms=before_ms)
            except StartupError:
                first_ms = await self._follow(source, copier)
                if first_ms >= before_ms:  # nothing came that explains it
                    raise
                before_ms = first_ms
            else:
                return
        _log.warning("answers were not compared, as data keeps arriving for the past; its rows were")

    def _on_hours(self, hours: int, hours_total: int) -> None:
        self._progress.hours, self._progress.hours_total, self._progress.problem = hours, hours_total, ""

    def _on_wait(self, reason: str) -> None:
        self._progress.problem = f"waiting: {reason}"

    def _writable_source(self) -> EmbeddedStore:
        if self._source is None:
            raise ConflictError("the data of this server is not in an embedded store: there is nothing to promote")
        if reason := self._source.read_only():
            raise BusyError(reason, retry_after_s=60.0)
        return self._source


def ranges_of(minutes: list[int]) -> list[TimeRange]:
    """Return what to compare for minutes since 1970, in order: runs of them within an hour, or all of an hour that has
    many runs."""
    ranges: list[TimeRange] = []
    for hour, group in groupby(minutes, key=lambda minute: minute // MINUTES_PER_HOUR):
        runs: list[tuple[int, int]] = []
        for minute in group:
            if runs and runs[-1][1] == minute:
                runs[-1] = (runs[-1][0], minute + 1)
            else:
                runs.append((minute, minute + 1))
        if len(runs) > RUNS_MAX:
            runs = [(hour * MINUTES_PER_HOUR, (hour + 1) * MINUTES_PER_HOUR)]
        ranges += [TimeRange(start * MINUTE_MS, end * MINUTE_MS) for start, end in runs]
    return ranges
