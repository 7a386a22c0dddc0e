"""Put what a ClickHouse server has accepted since the switch into the embedded store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from vantage.core.errors import StartupError
from vantage.core.rollup import HOUR_MS
from vantage.core.timerange import TimeRange
from vantage.storage.ports import Selector, TelemetryReader, TelemetryStore
from vantage.storage.promotion.copy import hours_with_data, summarise
from vantage.storage.promotion.record import PromotionRecord
from vantage.storage.promotion.row_counts import RowCounts

HOUR_ROWS_MAX: Final = 20_000_000  # samples and spans of an hour that are compared row by row, in memory


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
        counts = RowCounts()
        async for batch in folder.export(Selector(), time_range):
            await asyncio.to_thread(counts.add, batch)
        async for batch in server.export(Selector(), time_range):
            missing = await asyncio.to_thread(counts.take, batch)
            written += missing.samples + len(missing.spans)
            await folder.write(missing)
        extra += counts.left
        in_folder = await summarise(folder, time_range)
        if in_folder.samples + in_folder.spans - counts.left != rows:
            raise StartupError(f"the hour from {time_range.start_ms} ms differs, and nothing is switched")
    on_progress(len(hours), len(hours))
    return written, extra
