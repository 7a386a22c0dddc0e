"""What limits of memory count is what Python allocates, within a half, whatever shape the data has."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.support.ingest import native_format, spans_format
from tests.support.samples import NOW_MS
from vantage.core.batch import Batch
from vantage.core.span_table import build_span_table
from vantage.storage.embedded.write.catalogue import Catalogue
from vantage.storage.series_overflow import SeriesLimit


def allocated(build: Callable[[], Any]) -> tuple[Any, int]:
    """Return what ``build`` returns, and the bytes that are allocated more than before."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = build()
        gc.collect()
        return result, tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("attributes", "length", "letter"),
    [(0, 0, "x"), (3, 12, "x"), (10, 40, "x"), (64, 2048, "x"), (20, 300, "é"), (20, 300, "漢"), (20, 300, "🙂")],
)
def test_spans_take_the_memory_that_is_counted(attributes: int, length: int, letter: str) -> None:
    count = 400
    spans = [
        {
            "trace_id": f"{i:032x}", "span_id": f"{i:016x}", "parent_span_id": f"{i + 1:016x}",
            "name": f"GET /{i % 10}", "start_ns": NOW_MS * 1_000_000, "duration_ns": 1,
            "attributes": {f"key.of.attribute.{j}": f"{i:08}{letter * (length - 8)}" for j in range(attributes)},
        }
        for i in range(count)
    ]  # fmt: skip
    body = msgspec.json.encode({"service_name": "api", "spans": spans})

    def build() -> tuple[Batch, object]:
        received = spans_format().receive(body, batch_id="", now_ms=NOW_MS, oldest_ms=0)
        assert received.accepted == count
        return received.batch, build_span_table(received.batch.spans)

    (batch, _), nbytes = allocated(build)
    assert nbytes / 1.5 < batch.nbytes < nbytes * 1.5


@pytest.mark.parametrize(("tags", "length"), [(0, 0), (3, 12), (10, 40), (30, 500)])
def test_series_take_the_memory_that_is_counted(tags: int, length: int) -> None:
    count = 2000
    samples = [
        {"metric_name": f"m{i}", "value": 1, "tags": {f"tag_{j}": f"{i:08}{'x' * (length - 8)}" for j in range(tags)}}
        for i in range(count)
    ]
    body = msgspec.json.encode({"service_name": "api", "metrics": samples})
    catalogue = Catalogue(SeriesLimit(series_max=count, nbytes_max=1 << 40))

    def build() -> int:
        batch = native_format().receive(body, batch_id="", now_ms=NOW_MS, oldest_ms=0).batch
        fresh: dict[int, Any] = {}
        catalogue.resolve(batch.series, fresh)
        catalogue.add(list(fresh.values()))
        return batch.new_series_nbytes

    new_series_nbytes, nbytes = allocated(build)
    assert len(catalogue) == count
    assert new_series_nbytes == catalogue.limit.nbytes
    assert nbytes / 1.5 < catalogue.limit.nbytes < nbytes * 1.5
