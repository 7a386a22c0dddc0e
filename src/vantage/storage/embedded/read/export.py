"""Everything in a snapshot, batch by batch, for an export."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Executor
from typing import Final, TypeVar

import numpy as np

from vantage.core.arrays import Mask
from vantage.core.batch import Batch
from vantage.core.errors import StoreUnavailable
from vantage.core.sample_columns import SampleColumns, concat_samples
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.read.reader import SnapshotReader
from vantage.storage.embedded.read.selector import selected_rows
from vantage.storage.ports import Selector
from vantage.vql.exec.series_table import SeriesColumns
from vantage.vql.exec.source import SAMPLE_COLUMNS

SAMPLES_MAX: Final = 8192  # of a batch
SPANS_MAX: Final = 1024
T = TypeVar("T")


def export_batches(source: SnapshotReader, selector: Selector, time_range: TimeRange) -> Iterator[Batch]:
    """Yield samples, then spans, in no particular order. One thread at a time."""
    yield from _samples(source, selector, time_range)
    for table in source.span_reader.spans(time_range, service=selector.service):
        rows = np.flatnonzero(
            table.within(time_range.start_ms, time_range.end_ms)
            & selected_rows(table, selector.service, selector.environment)
        )
        for start in range(0, len(rows), SPANS_MAX):
            yield Batch(spans=tuple(table.spans(rows[start : start + SPANS_MAX])))


def _samples(source: SnapshotReader, selector: Selector, time_range: TimeRange) -> Iterator[Batch]:
    columns = source.series()
    slots = columns.present.copy()
    for name, text in (("service_name", selector.service), ("environment", selector.environment)):
        if text:
            slots &= columns.column(name).mask(lambda value, text=text: value == text)[: len(slots)]  # type: ignore[misc]
    waiting: list[SampleColumns] = []
    for chunk in source.samples(time_range, slots, wanted=SAMPLE_COLUMNS):
        samples = _selected_rows(chunk, slots, time_range)
        if not len(samples):
            continue
        waiting.append(samples)  # many parts have a few samples each: they go out together
        if sum(map(len, waiting)) >= SAMPLES_MAX:
            yield from _batches(concat_samples(waiting), columns)
            waiting = []
    yield from _batches(concat_samples(waiting), columns)


def _selected_rows(samples: SampleColumns, slots: Mask, time_range: TimeRange) -> SampleColumns:
    known = np.minimum(samples.slot, len(slots) - 1)
    keep = slots[known] & (samples.slot < len(slots)) if len(slots) else np.zeros(len(samples), np.bool_)
    return samples.filter(keep & (samples.time_ms >= time_range.start_ms) & (samples.time_ms < time_range.end_ms))


def _batches(samples: SampleColumns, columns: SeriesColumns) -> Iterator[Batch]:
    for start in range(0, len(samples), SAMPLES_MAX):
        batch = samples.slice(start, min(start + SAMPLES_MAX, len(samples)))
        distinct, index = np.unique(batch.slot, return_inverse=True)
        named = [columns.series[slot] for slot in distinct.tolist()]
        if None in named:  # deleted while this export ran
            has_series = np.array([one_series is not None for one_series in named])[index]
            yield from _batches(batch.take(np.flatnonzero(has_series)), columns)
            continue
        series = tuple(one_series for one_series in named if one_series is not None)
        yield Batch(series, index.astype(np.uint32), batch.time_ms, batch.value, batch.exemplars)


async def iterate_in_pool(pieces: Iterator[T], threads: Executor) -> AsyncGenerator[T, None]:
    """Yield items of an iterator, each made in a thread of the pool when it is asked for; no thread is held in between.

    Closing this waits for the item in progress. Raises StoreUnavailable when the pool is shut down.
    """
    loop = asyncio.get_running_loop()
    under_way: asyncio.Future[list[T]] | None = None

    def step() -> list[T]:
        for piece in pieces:
            return [piece]
        return []

    def close() -> None:
        getattr(pieces, "close", lambda: None)()

    try:
        while True:
            try:
                under_way = loop.run_in_executor(threads, step)
            except RuntimeError as error:
                raise StoreUnavailable("the store is closed") from error
            await asyncio.wait([under_way])  # a caller that goes away does not take the thread's work with it
            if under_way.cancelled():
                raise StoreUnavailable("the store is closed")
            pieces_read = under_way.result()
            if not pieces_read:
                return
            yield pieces_read[0]
    finally:
        if under_way is not None and not under_way.done():
            await asyncio.wait([under_way])
        close()
