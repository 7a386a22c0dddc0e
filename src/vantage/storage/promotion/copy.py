"""Copy an embedded store to a ClickHouse server and compare the two, hour by hour.

The summary of an hour decides everything. An hour whose summary is the recorded one is on the server already. Any other
is deleted there, written, read back and compared, and only then recorded: a process that is killed in between leaves an
hour that is copied again, and data that arrives late or is deleted between two runs changes the summary of its hour.

What comes later to an hour that is there is appended: the rows of both stores are compared, and those that the server
lacks are written to it. Meanwhile the record has no entry for the hour, so that after a kill it is copied as a whole.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, TypeVar

from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.core.errors import BusyError, InputError, StartupError, StoreTimeout, StoreUnavailable
from vantage.core.rollup import HOUR_MS
from vantage.core.timerange import TimeRange
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.ports import Selector, StreamBatch, TelemetryReader
from vantage.storage.promotion.hour_summary import EMPTY, HourSummary, HourSummer
from vantage.storage.promotion.record import PromotionRecord, write_record
from vantage.storage.promotion.row_counts import RowCounts
from vantage.vql.table import Table
from vantage.vql.text.compile import compile_query

CHUNK_NBYTES_MAX: Final = 8 << 20  # of samples and spans that one insert takes: what a copy has in memory, twice
IDS_MAX: Final = 10_000  # batch ids that one insert takes
RETRY_S_MIN: Final = 1.0
RETRY_S_MAX: Final = 30.0
WAIT_S_MAX: Final = 600.0  # for a server that is away; then the command ends, and continues where it stopped
QUERY_TIMEOUT_S: Final = 60.0
SAME_WITHIN: Final = 1e-9  # sums of floats depend on the order of adding
NO_MESSAGE: Final = -1
CLEARED_HOURS_MAX: Final = 31 * 24  # deleted by one statement
T = TypeVar("T")

_OF_SAMPLES: Final = "count() AS rows, sum(value), avg(value), min(value), max(value), quantile(0.95)(value)"
_OF_SPANS: Final = "count() AS rows, sum(duration_ns), min(start_ns), max(duration_ns), uniq(trace_id)"
_QUERIES: Final = tuple(
    f"SELECT {keys}, {figures} FROM {table} WHERE {{range}} GROUP BY {keys} ORDER BY {keys} LIMIT 1000"  # noqa: S608 - constants
    for table, keys, figures in (
        ("metrics", "service_name, metric_name", _OF_SAMPLES),
        ("metrics", "service_name, environment, metric_type", _OF_SAMPLES),
        ("metrics", "toStartOfHour(timestamp), service_name", "count() AS rows, countIf(trace_id != '')"),
        ("spans", "service_name, name", _OF_SPANS),
        ("spans", "status, kind", _OF_SPANS),
    )
)


class Copier:
    """Copies ``source`` to ``target``; both are open, and nothing else writes to the target.

    ``oldest_ms`` is where retention begins: earlier data expires and is not copied. ``on_progress`` gets the hours that
    are compared and how many there are, ``on_wait`` the reason why the server is waited for, up to ``wait_s_max``.
    After each part it pauses for ``pause_share`` of the time that the part took.
    """

    def __init__(
        self,
        source: EmbeddedStore,
        target: ClickHouseStore,
        data: Path,
        record: PromotionRecord,
        *,
        clock: Clock,
        oldest_ms: int,
        on_progress: Callable[[int, int], None],
        on_wait: Callable[[str], None],
        wait_s_max: float = WAIT_S_MAX,
        pause_share: float = 0.0,
    ) -> None:
        self._source = source
        self._target = target
        self._data = data
        self._record = record
        self._clock = clock
        self._oldest_ms = oldest_ms
        self._on_progress = on_progress
        self._on_wait = on_wait
        self._wait_s_max = wait_s_max
        self._pause_share = pause_share
        self._appended: dict[int, HourSummary] = {}  # hours without an entry in the record, until ``finish``

    async def run(self) -> None:
        """Copy and compare every hour of a store that nothing writes to, then compare answers. Raises StartupError for
        a difference, naming it, and StoreUnavailable for a server that is away for too long."""
        await self.copy_hours()
        await self.copy_batch_ids()
        await self.compare_answers(before_ms=(max(self._record.hours, default=0) + 1) * HOUR_MS)

    async def copy_hours(self) -> None:
        """Copy and compare every hour. Raises StartupError for a difference, StoreUnavailable."""
        hours = await hours_with_data(self._source, oldest_ms=self._oldest_ms)
        self._record.hours_total = len(hours)
        for hour in sorted(set(self._record.hours) - set(hours)):  # expired or deleted since the run before
            await self._clear(hour)
        for done, hour in enumerate(hours):
            self._on_progress(done, len(hours))
            await self._copy_hour(hour)
        self._on_progress(len(hours), len(hours))
        write_record(self._data, self._record)

    async def append(self, time_range: TimeRange) -> None:
        """Copy what the server lacks of a range within one hour. Raises StartupError for a difference, and
        StoreUnavailable."""
        hour = time_range.start_ms // HOUR_MS
        counts = await self._until_available(lambda: _row_counts(self._target, time_range))
        everything, missing = HourSummer(), HourSummer()

        def take(batch: Batch) -> Batch:
            everything.add(batch)
            lacking = counts.take(batch)
            missing.add(lacking)
            return lacking

        self._begin_to_append(hour)
        await self._copy(time_range, take)
        self._appended[hour] = self._appended[hour].with_more(missing.summary())
        wanted = everything.summary()
        if counts.left or await self._until_available(lambda: summarise(self._target, time_range)) != wanted:
            # Data was deleted here meanwhile, or a killed process wrote something there that arrived late.
            del self._appended[hour]
            await self._copy_hour(hour)

    async def check_rollups(self) -> None:
        """Compare the rollups of the hours that were appended to. Raises StartupError, StoreUnavailable."""
        for hour, summary in self._appended.items():
            time_range = _range_of(hour)
            rolled_up = await self._until_available(lambda of=time_range: self._target.rolled_up(of))  # type: ignore[misc]
            if rolled_up != (summary.samples, summary.samples):
                raise StartupError(_difference(time_range, summary, summary, rolled_up))

    def finish(self) -> None:
        """Record the switch, with what was appended. Raises StartupError."""
        self._record.hours |= {hour: summary for hour, summary in self._appended.items() if not summary.is_empty}
        self._record.phase = "switched"
        write_record(self._data, self._record)

    async def _copy_hour(self, hour: int) -> None:
        time_range = _range_of(hour)
        if hour in self._record.hours and self._record.hours[hour] == await self._summarise_source(time_range):
            return
        await self._clear(hour)
        summer = HourSummer()

        def note(batch: Batch) -> Batch:
            summer.add(batch)
            return batch

        await self._copy(time_range, note)
        wanted = summer.summary()
        if wanted.is_empty:
            return
        copied = await self._until_available(lambda: summarise(self._target, time_range))
        rolled_up = await self._until_available(lambda: self._target.rolled_up(time_range))
        if copied != wanted or rolled_up != (wanted.samples, wanted.samples):
            raise StartupError(_difference(time_range, wanted, copied, rolled_up))
        self._record.hours[hour] = wanted
        write_record(self._data, self._record)

    async def _copy(self, time_range: TimeRange, choose: Callable[[Batch], Batch]) -> None:
        """Write to the server what ``choose`` returns of each batch of the source."""
        token = f"promote-{self._record.promotion_id}-{time_range.start_ms}-{secrets.token_hex(6)}"
        chunk: list[Batch] = []
        written = nbytes = 0
        began_s = time.monotonic()
        async for batch in self._exported(time_range):
            chosen = await asyncio.to_thread(choose, batch)
            if not chosen.samples and not chosen.spans:
                continue
            chunk.append(chosen)
            nbytes += chosen.nbytes
            if nbytes >= CHUNK_NBYTES_MAX:
                await self._write(chunk, token=f"{token}-{written}")
                chunk, nbytes, written = [], 0, written + 1
                if self._pause_share:
                    await asyncio.sleep(self._pause_share * (time.monotonic() - began_s))
                    began_s = time.monotonic()
        if chunk:
            await self._write(chunk, token=f"{token}-{written}")

    async def _exported(self, time_range: TimeRange) -> AsyncGenerator[Batch, None]:
        """Yield what the source has; wait for other exports first."""

        async def begin() -> tuple[AsyncGenerator[Batch, None], Batch | None]:
            batches = self._source.export(Selector(), time_range)
            return batches, await anext(batches, None)

        batches, batch = await self._until_available(begin)
        async with aclosing(batches):
            while batch is not None:
                yield batch
                batch = await anext(batches, None)

    def _begin_to_append(self, hour: int) -> None:
        if hour not in self._appended:
            self._appended[hour] = self._record.hours.get(hour, EMPTY)
            if self._record.hours.pop(hour, None) is not None:
                write_record(self._data, self._record)

    async def _clear(self, hour: int) -> None:
        """Delete an hour on the server, and first its entry: a kill in between leaves it to be copied."""
        if self._record.hours.pop(hour, None) is not None:
            write_record(self._data, self._record)
        await self._until_available(lambda: self._target.delete_range(_range_of(hour)))

    async def _summarise_source(self, time_range: TimeRange) -> HourSummary:
        return await self._until_available(lambda: summarise(self._source, time_range))

    async def _write(self, batches: Sequence[Batch], *, token: str) -> None:
        at_ms = self._clock.now_ms()
        messages = [StreamBatch(batch, NO_MESSAGE, NO_MESSAGE, at_ms) for batch in batches]
        await self._until_available(lambda: self._target.write_range(messages, token=token, until_s=math.inf))

    async def copy_batch_ids(self, *, younger_than_ms: float = math.inf) -> None:
        """Copy the ids of recent batches, so that one that is sent again after the switch is not stored twice."""
        now_ms = self._clock.now_ms()
        ids = [
            StreamBatch(Batch(batch_id=name), NO_MESSAGE, NO_MESSAGE, now_ms - age_ms)
            for name, age_ms in self._source.recent_batch_ids()
            if age_ms <= younger_than_ms
        ]
        token = f"promote-{self._record.promotion_id}-ids-{secrets.token_hex(6)}"
        for start in range(0, len(ids), IDS_MAX):
            some_ids = ids[start : start + IDS_MAX]
            await self._until_available(
                lambda some_ids=some_ids, start=start: self._target.write_range(  # type: ignore[misc]
                    some_ids, token=f"{token}-{start}", until_s=math.inf
                )
            )

    async def compare_answers(self, *, before_ms: int) -> None:
        """Run queries of the day before ``before_ms`` on both stores, or of the hour where a day is too much to read.
        Raises StartupError for a difference."""
        for text in _QUERIES:
            for start_ms in (max(self._oldest_ms, before_ms - 24 * HOUR_MS), before_ms - HOUR_MS):
                query = text.format(range=f"timestamp >= {max(0, start_ms)} AND timestamp < {before_ms}")
                now_ms = self._clock.now_ms()
                checked = compile_query(query, now_ms=now_ms, newest_ms=now_ms).query
                try:
                    here = await self._source.select(checked, deadline_s=QUERY_TIMEOUT_S)
                    there = await self._target.select(checked, deadline_s=QUERY_TIMEOUT_S)
                except (BusyError, InputError, StoreTimeout):  # it would read too much: every row is compared already
                    continue
                if not same_answer(here, there):
                    raise StartupError(f"the two stores answer differently, and nothing is switched: {query}")
                break

    async def _until_available(self, step: Callable[[], Awaitable[T]]) -> T:
        """Repeat a step that can be repeated while a store is away or busy with exports. Raises StoreUnavailable and
        BusyError after that took too long."""
        pause_s, ends_s = RETRY_S_MIN, time.monotonic() + self._wait_s_max
        while True:
            try:
                return await step()
            except (StoreUnavailable, BusyError) as error:
                if time.monotonic() > ends_s:
                    raise
                self._on_wait(str(error))
            await self._clock.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_S_MAX)


async def hours_with_data(store: TelemetryReader, *, oldest_ms: int) -> list[int]:
    """Return the hours since 1970 that may have data from ``oldest_ms`` on, in order: those between the first and last
    time of a series, or of a service's spans."""
    times = [(info.first_ms, info.last_ms) for info in await store.list_series()]
    times += [(stats.first_ms, stats.last_ms) for stats in await store.services_with_spans()]
    hours: set[int] = set()
    for first_ms, last_ms in {(first_ms // HOUR_MS, last_ms // HOUR_MS) for first_ms, last_ms in times}:
        hours.update(range(max(first_ms, oldest_ms // HOUR_MS), last_ms + 1))
    return sorted(hours)


async def summarise(store: TelemetryReader, time_range: TimeRange) -> HourSummary:
    """Return the summary of what a store has in a range. Raises what ``export`` raises."""
    summer = HourSummer()
    await _collected(store.export(Selector(), time_range), summer.add)
    return summer.summary()


async def _row_counts(store: TelemetryReader, time_range: TimeRange) -> RowCounts:
    counts = RowCounts()
    await _collected(store.export(Selector(), time_range), counts.add)
    return counts


async def _collected(batches: AsyncIterable[Batch], add: Callable[[Batch], None]) -> None:
    async for batch in batches:
        await asyncio.to_thread(add, batch)


async def clear_all(server: ClickHouseStore) -> None:
    """Delete everything on a server, a month at a time. Raises StoreUnavailable."""
    hours = await hours_with_data(server, oldest_ms=0)
    for start in range(hours[0], hours[-1] + 1, CLEARED_HOURS_MAX) if hours else ():
        await server.delete_range(TimeRange(start * HOUR_MS, (start + CLEARED_HOURS_MAX) * HOUR_MS))


def same_answer(here: Table, there: Table) -> bool:
    """Return whether two tables are equal, floats within SAME_WITHIN."""
    if len(here) != len(there):
        return False
    columns = zip(here.data, there.data, strict=True)
    pairs = (pair for column in columns for pair in zip(*column, strict=True))
    return all(
        math.isclose(left, right, rel_tol=SAME_WITHIN, abs_tol=SAME_WITHIN)
        if isinstance(left, float) and isinstance(right, float)
        else left == right
        for left, right in pairs
    )


def _range_of(hour: int) -> TimeRange:
    return TimeRange(hour * HOUR_MS, (hour + 1) * HOUR_MS)


def _difference(time_range: TimeRange, wanted: HourSummary, copied: HourSummary, rolled_up: tuple[int, int]) -> str:
    return (
        f"the hour from {time_range.start_ms} ms differs, and nothing is switched: {wanted.samples} samples and "
        f"{wanted.spans} spans here, {copied.samples} and {copied.spans} on the server, of which {rolled_up[0]} and "
        f"{rolled_up[1]} samples are in rollups; digests {wanted.digest} and {copied.digest}"
    )
