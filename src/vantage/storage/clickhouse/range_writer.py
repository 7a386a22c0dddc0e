"""Write a range of a broker's messages under the caller's token: written again, it is stored once."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Final

from vantage.core.errors import InputError, StoreUnavailable
from vantage.core.series import Series
from vantage.storage.clickhouse.batch_id_table import BatchId
from vantage.storage.clickhouse.commit import build_commit
from vantage.storage.clickhouse.engine import Engine
from vantage.storage.clickhouse.series_registry import SeriesRegistry
from vantage.storage.clickhouse.series_table import SeriesTable
from vantage.storage.ports import StreamBatch
from vantage.storage.recent_spans import RecentSpans, distinct_spans
from vantage.telemetry import Telemetry

_TOKEN: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,200}")


class RangeWriter:
    """Writes ranges. Its methods block; one thread at a time."""

    def __init__(
        self,
        engine: Engine,
        registry: SeriesRegistry,
        series: SeriesTable,
        recent_spans: RecentSpans,
        *,
        telemetry: Telemetry,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._series = series
        self._recent_spans = recent_spans
        self._telemetry = telemetry

    def write(self, batches: Sequence[StreamBatch], *, token: str, until_s: float) -> None:
        """Insert a range; the rows depend on the messages alone, since under a used token others would be dropped."""
        if not _TOKEN.fullmatch(token):
            raise ValueError(f"{token!r} cannot be a token")
        started = time.perf_counter()
        self._series.known(series.id for item in batches for series in item.batch.series)
        fresh: dict[int, Series] = {}
        try:
            accepted = [(item.batch, self._registry.resolve(item.batch.series, fresh)) for item in batches]
        except ValueError as error:
            raise InputError(str(error)) from error
        sent = [span for item in batches for span in item.batch.spans]
        spans = self._recent_spans.unseen(distinct_spans(sent))
        commit = build_commit(
            self._engine,
            accepted,
            fresh=list(fresh.values()),
            spans=spans,
            ids=[
                BatchId(item.batch.batch_id, item.at_ms, item.partition, item.offset)
                for item in batches
                if item.batch.batch_id
            ],
            at_ms=min((item.at_ms for item in batches), default=0),
            token=token,
        )
        for insert in commit.inserts:
            if time.monotonic() > until_s:  # another worker may have the range, and the table may not know its token
                raise StoreUnavailable("the range took too long: it is claimed and written again")
            self._engine.insert(insert)
        self._registry.add(commit.series)
        self._recent_spans.remember(commit.spans)
        self._telemetry.spans_repeated.inc(len(sent) - len(spans))
        self._telemetry.write_duration.observe(time.perf_counter() - started)
        self._telemetry.commit_batches.observe(len(batches))
