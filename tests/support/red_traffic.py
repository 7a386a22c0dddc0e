"""Requests of some services, and a comparison of two stores' rollups of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.support.samples import HOUR_MS, NOW_MS, a_series, a_span
from vantage.core.batch import Batch, build_batch
from vantage.core.red import RedLevel
from vantage.core.red_table import RedQuery, RedTable
from vantage.core.sample import Kind
from vantage.core.series import Series
from vantage.core.span import Span
from vantage.core.timerange import TimeRange
from vantage.storage.ports import TelemetryReader

DAY_MS = 24 * HOUR_MS
STEPS_MS = (60_000, 300_000, HOUR_MS)


def requests_of(service: str, route: str, status: str) -> Series:
    tags = {"route": route, "method": "GET", "status": status}
    return a_series(service, "http.request.duration", Kind.HISTOGRAM, tags=tags, unit="ms")


SERIES = [requests_of(service, route, status) for service in ("api", "shop") for route in ("/a", "/b")
          for status in ("200", "500")]  # fmt: skip


def traffic(seed: int, *, end_ms: int = NOW_MS, hours: float = 3, count: int = 300) -> Batch:
    rng = np.random.default_rng(seed)
    times = (end_ms - rng.integers(1, int(hours * HOUR_MS), count)).tolist()
    values = np.round(rng.lognormal(3, 1, count), 2).tolist()
    picked = rng.integers(0, len(SERIES), count).tolist()
    rows = [(SERIES[which], at_ms, value) for which, at_ms, value in zip(picked, times, values, strict=True)]
    spans: list[Span] = [
        a_span(f"t{seed}-{n}", f"s{n}", service="traced", start_ms=times[n], duration_ms=values[n]) for n in range(20)
    ]
    return build_batch(rows, spans=tuple(spans))


def rows_of(table: RedTable | None) -> dict[Any, Any]:
    assert table is not None
    rows: dict[Any, Any] = {}
    for name, part in (("bucket", table.buckets), ("total", table.totals)):
        columns = zip(
            part.group.tolist(), part.time_ms.tolist(), part.requests.tolist(), part.errors.tolist(),
            part.tagged.tolist(), part.min_ms.tolist(), part.max_ms.tolist(), part.quantiles_ms[0].tolist(),
            strict=True,
        )  # fmt: skip
        for group, at_ms, *values in columns:
            rows[name, table.groups[group], at_ms] = tuple(values)
    return rows


async def assert_same_red(
    store: TelemetryReader,
    expected: TelemetryReader,
    *,
    days: int = 3,
    steps_ms: Sequence[int] = STEPS_MS,
    now_ms: int = NOW_MS,
) -> None:
    """Fail unless both stores have the same requests, errors and durations in every width."""
    levels: tuple[RedLevel, ...] = ("service", "endpoint")
    for level in levels:
        for step_ms in steps_ms:
            if level == "endpoint" and step_ms < 300_000:
                continue
            length_ms = 2 * DAY_MS - 2 * HOUR_MS if step_ms < 300_000 else days * DAY_MS
            time_range = TimeRange((now_ms - length_ms) // step_ms * step_ms + step_ms, now_ms + 1)
            query = RedQuery(time_range, step_ms, level=level, quantiles=(0.95,))
            ours = rows_of(await store.red(query, deadline_s=10))
            wanted = rows_of(await expected.red(query, deadline_s=10))
            assert ours.keys() == wanted.keys()
            for key, values in wanted.items():
                assert ours[key] == pytest.approx(values, rel=1e-9), key
