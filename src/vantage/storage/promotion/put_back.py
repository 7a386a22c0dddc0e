"""Put what a ClickHouse server has accepted since the switch into the embedded store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import numpy as np

from vantage.core.batch import Batch
from vantage.core.errors import StartupError
from vantage.core.rollup import HOUR_MS
from vantage.core.timerange import TimeRange
from vantage.storage.ports import Selector, TelemetryReader, TelemetryStore
from vantage.storage.promotion.copy import hours_with_data, summarise
from vantage.storage.promotion.record import PromotionRecord
from vantage.storage.recent_spans import identity

HOUR_ROWS_MAX: Final = 5_000_000  # samples and spans of an hour that are compared row by row, in memory


async def put_back(
    server: TelemetryReader,
    folder: TelemetryStore,
    record: PromotionRecord,
    *,
    oldest_ms: int,
    on_progress: Callable[[int, int], None],
) -> tuple[int, int]:
    """Write to the folder what the server has and the folder lacks. Return how many samples and spans were written, and
    how many the folder has that the server deleted.

    Only hours that changed since they were copied are read row by row. What is missing is computed again by each run:
    one that was killed is continued. Raises StartupError for a larger hour, or when rows are missing in the end.
    """
    written = extra = 0
    hours = sorted({*record.hours, *await hours_with_data(server, oldest_ms=oldest_ms)})
    for done, hour in enumerate(hours):
        on_progress(done, len(hours))
        time_range = TimeRange(hour * HOUR_MS, (hour + 1) * HOUR_MS)
        on_server = await summarise(server, time_range)
        if time_range.end_ms <= oldest_ms or on_server == record.hours.get(hour):
            continue
        rows = on_server.samples + on_server.spans
        if rows > HOUR_ROWS_MAX:
            raise StartupError(
                f"the hour from {time_range.start_ms} ms has {rows} samples and spans, and "
                f"only {HOUR_ROWS_MAX} can be compared row by row: keep the server, or export and import that hour"
            )
        surplus = await _rows(folder, time_range)
        missing = [_missing(batch, surplus) async for batch in server.export(Selector(), time_range)]
        extra += sum(surplus.values())
        for batch in missing:
            written += batch.samples + len(batch.spans)
            await folder.write(batch)
        in_folder = await summarise(folder, time_range)
        if in_folder.samples + in_folder.spans - sum(surplus.values()) != rows:
            raise StartupError(f"the hour from {time_range.start_ms} ms differs, and nothing is switched")
    on_progress(len(hours), len(hours))
    return written, extra


async def _rows(store: TelemetryReader, time_range: TimeRange) -> Counter[object]:
    rows: Counter[object] = Counter()
    async for batch in store.export(Selector(), time_range):
        rows.update(_sample_keys(batch))
        for span in batch.spans:
            rows[identity(span)] = 1
    return rows


def _missing(batch: Batch, surplus: Counter[object]) -> Batch:
    """Return the rows of the batch that ``surplus`` lacks, and take the others out of it."""
    lacking = [row for row, key in enumerate(_sample_keys(batch)) if not _take(surplus, key)]
    rows = np.array(lacking, np.int64)
    return Batch(
        series=batch.series,
        index=batch.index[rows],
        time_ms=batch.time_ms[rows],
        value=batch.value[rows],
        exemplars=batch.exemplars.take(rows, batch.samples),
        spans=tuple(span for span in batch.spans if not _take(surplus, identity(span))),
    )


def _take(surplus: Counter[object], key: object) -> bool:
    if key not in surplus:
        return False
    surplus[key] -= 1
    if not surplus[key]:
        del surplus[key]
    return True


def _sample_keys(batch: Batch) -> list[object]:
    ids = {row: (trace_id, span_id) for row, trace_id, span_id in batch.exemplars.rows()}
    columns = zip(batch.index.tolist(), batch.time_ms.tolist(), batch.value.tolist(), strict=True)
    return [
        (batch.series[index].id, time_ms, value, *ids.get(row, ("", "")))
        for row, (index, time_ms, value) in enumerate(columns)
    ]
