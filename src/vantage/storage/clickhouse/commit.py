"""The inserts of one commit, encoded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vantage.core.batch import Batch
from vantage.core.red import (
    MINUTE_MS,
    RedKeys,
    RedLevel,
    RedSlots,
    by_service,
    of_endpoints,
    red_of_samples,
    red_of_spans,
    regroup,
)
from vantage.core.rollup import FIVE_MINUTES_MS, Partials, concat_partials
from vantage.core.sample_columns import SampleColumns
from vantage.core.series import Series
from vantage.core.span import Span
from vantage.core.span_table import build_span_table
from vantage.storage.clickhouse.batch_id_table import BatchId
from vantage.storage.clickhouse.engine import Column, Engine, Insert
from vantage.storage.clickhouse.rows import (
    batch_id_columns,
    red_columns,
    sample_columns,
    series_columns,
    span_columns,
)
from vantage.storage.clickhouse.table_settings import DAY_MS, RED_MINUTES_DAYS


@dataclass(frozen=True, slots=True)
class Commit:
    """The inserts of one commit, and what is known once all are stored."""

    inserts: Sequence[Insert]
    series: Sequence[Series]
    spans: Sequence[Span]
    ids: Sequence[BatchId]


def build_commit(
    engine: Engine,
    accepted: Sequence[tuple[Batch, Sequence[Series]]],
    *,
    fresh: Sequence[Series],
    spans: Sequence[Span],
    ids: Sequence[BatchId],
    at_ms: int,
    token: str,
) -> Commit:
    """Encode a commit. Each batch comes with the series that take its samples; ``fresh`` are the new ones among them,
    first seen at ``at_ms``. Series come first, so that no sample lacks its series, and batch ids last."""
    inserts = []

    def add(table: str, rows: dict[str, Column], *, token: str) -> None:
        inserts.append(engine.encode(table, rows, token=token))

    if fresh:
        # Which series are new may have changed when a range is written again. A series that is stored twice is one.
        names = ",".join(sorted(str(series.id) for series in fresh))
        digest = hashlib.sha256(names.encode()).hexdigest()[:16]
        add("series", series_columns(fresh, now_ms=at_ms), token=f"{token}-{digest}")
    if spans:
        add("spans", span_columns(spans), token=token)
    if any(batch.samples for batch, _ in accepted):
        add("samples", sample_columns(accepted), token=token)
    keys = RedKeys()
    for table, levels in red_tables(_red_minutes(accepted, spans, keys), keys, at_ms=at_ms).items():
        add(table, red_columns(levels, keys.keys), token=token)
    if ids:
        add("batch_ids", batch_id_columns(ids), token=token)
    return Commit(inserts, fresh, spans, ids)


def _red_minutes(accepted: Sequence[tuple[Batch, Sequence[Series]]], spans: Sequence[Span], keys: RedKeys) -> Partials:
    """Return the rollups of requests over minutes, by endpoint."""
    parts = [red_of_samples(SampleColumns(batch.index, batch.time_ms, batch.value), RedSlots(keys, series))
             for batch, series in accepted if batch.samples]  # fmt: skip
    parts.append(red_of_spans(build_span_table(spans), keys))
    return regroup(concat_partials([part for part in parts if len(part)]), None, width_ms=MINUTE_MS)


def red_tables(minutes: Partials, keys: RedKeys, *, at_ms: int) -> dict[str, dict[RedLevel, Partials]]:
    """Return the rollups of requests by table and level. Minutes are only kept of the days around ``at_ms``: each is a
    partition, of which an insert may have few."""
    if not len(minutes):
        return {}
    by_minute = by_service(minutes, keys)
    recent = by_minute.take(np.flatnonzero(np.abs(by_minute.time_ms - at_ms) < RED_MINUTES_DAYS * DAY_MS))
    tables: dict[str, dict[RedLevel, Partials]] = {"red_1m": {"service": recent}} if len(recent) else {}
    tables["red_5m"] = {
        "service": regroup(by_minute, None, width_ms=FIVE_MINUTES_MS),
        "endpoint": of_endpoints(minutes, keys, width_ms=FIVE_MINUTES_MS),
    }
    return tables
