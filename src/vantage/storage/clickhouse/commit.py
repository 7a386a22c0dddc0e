"""The inserts of one commit, encoded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from vantage.core.batch import Batch
from vantage.core.series import Series
from vantage.core.span import Span
from vantage.storage.clickhouse.batch_id_table import BatchId
from vantage.storage.clickhouse.engine import Column, Engine, Insert
from vantage.storage.clickhouse.rows import batch_id_columns, sample_columns, series_columns, span_columns


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
    if ids:
        add("batch_ids", batch_id_columns(ids), token=token)
    return Commit(inserts, fresh, spans, ids)
