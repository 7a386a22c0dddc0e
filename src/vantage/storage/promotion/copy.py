"""Copy an embedded store to a ClickHouse server and compare the two, hour by hour.

The summary of an hour decides everything. An hour whose summary is the recorded one is on the server already. Any other
is deleted there, written, read back and compared, and only then recorded: a process that is killed in between leaves an
hour that is copied again, and data that arrives late or is deleted between two runs changes the summary of its hour.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.core.errors import InputError, StartupError, StoreTimeout, StoreUnavailable
from vantage.core.rollup import HOUR_MS
from vantage.core.timerange import TimeRange
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.ports import Selector, StreamBatch, TelemetryReader
from vantage.storage.promotion.hour_summary import HourSummary, HourSummer
from vantage.storage.promotion.record import PromotionRecord, write_record
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

_FIGURES: Final = "count() AS samples, sum(value) AS total, avg(value) AS mean, min(value) AS low, max(value) AS high"
_QUERIES: Final = tuple(
    f"SELECT {keys}, {_FIGURES} FROM metrics WHERE {{range}} GROUP BY {keys} ORDER BY {keys} LIMIT 1000"  # noqa: S608 - constants
    for keys in ("service_name, metric_name", "service_name, environment, metric_type")
)


class Copier:
    """Copies ``source`` to ``target``; both are open, and nothing else writes to either.

    ``oldest_ms`` is where retention begins: earlier data expires and is not copied. ``on_progress`` gets the hours that
    are compared and how many there are, ``on_wait`` the reason why the server is waited for.
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
    ) -> None:
        self._source = source
        self._target = target
        self._data = data
        self._record = record
        self._clock = clock
        self._oldest_ms = oldest_ms
        self._on_progress = on_progress
        self._on_wait = on_wait

    async def run(self) -> None:
        """Copy and compare every hour, then compare answers. Raises StartupError for a difference, naming it, and
        StoreUnavailable for a server that is away for too long."""
        hours = await hours_with_data(self._source, oldest_ms=self._oldest_ms)
        self._record.hours_total = len(hours)
        for hour in sorted(set(self._record.hours) - set(hours)):  # expired or deleted since the run before
            await self._clear(hour)
        for done, hour in enumerate(hours):
            self._on_progress(done, len(hours))
            await self._copy_hour(hour)
        self._on_progress(len(hours), len(hours))
        await self._copy_batch_ids()
        write_record(self._data, self._record)
        await self._compare_answers(hours)

    async def _copy_hour(self, hour: int) -> None:
        time_range = _range_of(hour)
        wanted = await summarise(self._source, time_range)
        if self._record.hours.get(hour) == wanted:
            return
        await self._clear(hour)
        if wanted.is_empty:
            return
        token = f"promote-{self._record.promotion_id}-{hour}-{secrets.token_hex(6)}"
        chunk: list[Batch] = []
        written = nbytes = 0
        async for batch in self._source.export(Selector(), time_range):
            chunk.append(batch)
            nbytes += batch.nbytes
            if nbytes >= CHUNK_NBYTES_MAX:
                await self._write(chunk, token=f"{token}-{written}")
                chunk, nbytes, written = [], 0, written + 1
        if chunk:
            await self._write(chunk, token=f"{token}-{written}")
        copied = await self._until_available(lambda: summarise(self._target, time_range))
        rolled_up = await self._until_available(lambda: self._target.rolled_up(time_range))
        if copied != wanted or rolled_up != (wanted.samples, wanted.samples):
            raise StartupError(_difference(time_range, wanted, copied, rolled_up))
        self._record.hours[hour] = wanted
        write_record(self._data, self._record)

    async def _clear(self, hour: int) -> None:
        """Delete an hour on the server, and first its entry: a kill in between leaves it to be copied."""
        if self._record.hours.pop(hour, None) is not None:
            write_record(self._data, self._record)
        await self._until_available(lambda: self._target.delete_range(_range_of(hour)))

    async def _write(self, batches: Sequence[Batch], *, token: str) -> None:
        at_ms = self._clock.now_ms()
        messages = [StreamBatch(batch, NO_MESSAGE, NO_MESSAGE, at_ms) for batch in batches]
        await self._until_available(lambda: self._target.write_range(messages, token=token, until_s=math.inf))

    async def _copy_batch_ids(self) -> None:
        """Copy the ids of recent batches, so that one that is sent again after the switch is not stored twice."""
        now_ms = self._clock.now_ms()
        ids = [
            StreamBatch(Batch(batch_id=name), NO_MESSAGE, NO_MESSAGE, now_ms - age_ms)
            for name, age_ms in self._source.recent_batch_ids()
        ]
        token = f"promote-{self._record.promotion_id}-ids-{secrets.token_hex(6)}"
        for start in range(0, len(ids), IDS_MAX):
            some_ids = ids[start : start + IDS_MAX]
            await self._until_available(
                lambda some_ids=some_ids, start=start: self._target.write_range(  # type: ignore[misc]
                    some_ids, token=f"{token}-{start}", until_s=math.inf
                )
            )

    async def _compare_answers(self, hours: Sequence[int]) -> None:
        """Run queries of the last day of data on both stores, or of its last hour where a day is too much to read."""
        if not hours:
            return
        end_ms = (hours[-1] + 1) * HOUR_MS
        for text in _QUERIES:
            for start_ms in (max(self._oldest_ms, end_ms - 24 * HOUR_MS), end_ms - HOUR_MS):
                query = text.format(range=f"timestamp >= {start_ms} AND timestamp < {end_ms}")
                now_ms = self._clock.now_ms()
                checked = compile_query(query, now_ms=now_ms, newest_ms=now_ms).query
                try:
                    here = await self._source.select(checked, deadline_s=QUERY_TIMEOUT_S)
                    there = await self._target.select(checked, deadline_s=QUERY_TIMEOUT_S)
                except (InputError, StoreTimeout):  # it would read too much: every row is compared already
                    continue
                if not same_answer(here, there):
                    raise StartupError(f"the two stores answer differently, and nothing is switched: {query}")
                break

    async def _until_available(self, step: Callable[[], Awaitable[T]]) -> T:
        """Repeat a step that can be repeated while the server is away. Raises StoreUnavailable after WAIT_S_MAX."""
        pause_s, ends_s = RETRY_S_MIN, time.monotonic() + WAIT_S_MAX
        while True:
            try:
                return await step()
            except StoreUnavailable as error:
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
    async for batch in store.export(Selector(), time_range):
        summer.add(batch)
    return summer.summary()


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
