"""Rollups of requests against the same figures worked out from every sample."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from tests.support.samples import a_series, a_span
from vantage.core import red_table
from vantage.core.red import (
    ENDPOINTS_MAX,
    MINUTE_MS,
    RedKey,
    RedKeys,
    RedSlots,
    by_service,
    of_endpoints,
    red_of_samples,
    red_of_spans,
    regroup,
)
from vantage.core.red_table import RedQuery, RedTable, joined, summarize
from vantage.core.rollup import Partials
from vantage.core.sample import OVERFLOW, Kind
from vantage.core.sample_columns import SampleColumns
from vantage.core.series import Series
from vantage.core.sketch import RELATIVE_ERROR, sketch_keys
from vantage.core.span import SpanKind, SpanStatus
from vantage.core.span_table import build_span_table
from vantage.core.timerange import TimeRange

START_MS = 1_795_000_200_000 // MINUTE_MS * MINUTE_MS
QUANTILES = (0.5, 0.95, 0.99)


def request_series(service: str, **tags: str) -> tuple[Series, Series]:
    version = tags.pop("version", "1")
    return (
        a_series(service, "http.requests", Kind.COUNTER, tags=tags, service_version=version),
        a_series(service, "http.request.duration", Kind.HISTOGRAM, tags=tags, service_version=version, unit="s"),
    )


SERIES = (
    *request_series("api", route="/a", method="GET", status="200"),
    *request_series("api", route="/a", method="GET", status="503"),
    *request_series("api", route="/b", method="POST", status="200", version="2"),
    *request_series("untagged"),
    a_series("quiet", "temperature"),
)


def random_samples(rng: np.random.Generator, size: int, minutes: int) -> SampleColumns:
    slot = rng.integers(0, len(SERIES), size).astype(np.uint32)
    time_ms = START_MS + rng.integers(0, minutes * MINUTE_MS, size)
    is_counter = np.array([series.kind is Kind.COUNTER for series in SERIES])[slot]
    value = np.where(is_counter, rng.integers(1, 4, size), rng.lognormal(-3, 1, size))
    return SampleColumns(slot, time_ms, value)


def slots() -> RedSlots:
    return RedSlots(RedKeys(), list(SERIES))


def table_of(
    samples: SampleColumns, query: RedQuery, known: RedSlots, *, parts: int = 1, width_ms: int = MINUTE_MS
) -> RedTable:
    split = [samples.take(rows) for rows in np.array_split(np.arange(len(samples)), parts)]
    minutes = [red_of_samples(part, known) for part in split]
    levels = {
        "service": lambda part: by_service(part, known.keys),
        "endpoint": lambda part: of_endpoints(part, known.keys, width_ms=MINUTE_MS),
    }
    rows = [regroup(levels[query.level](part), None, width_ms=width_ms) for part in minutes]
    return summarize(rows, known.keys.keys, query)


def exact_counts(samples: SampleColumns, step_ms: int) -> dict[tuple[str, str, int], tuple[float, float, int]]:
    """Return requests, errors and tagged by source, service and bucket."""
    sums: dict[tuple[str, str, int], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for slot, time_ms, value in zip(
        samples.slot.tolist(), samples.time_ms.tolist(), samples.value.tolist(), strict=True
    ):
        series = SERIES[slot]
        source = {"http.requests": "requests", "http.request.duration": "durations"}.get(series.metric, "samples")
        weight = value if source == "requests" else 1
        entry = sums[source, series.service, time_ms // step_ms * step_ms]
        entry[0] += weight
        entry[1] += weight if series.tag("status") == "503" else 0
        entry[2] += bool(series.tag("status"))
    return {key: (entry[0], entry[1], int(entry[2])) for key, entry in sums.items()}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("step_ms", "width_ms"), [(MINUTE_MS, MINUTE_MS), (300_000, MINUTE_MS), (3_600_000, 300_000)])
def test_counts_are_exact_and_quantiles_within_one_percent(seed: int, step_ms: int, width_ms: int) -> None:
    rng = np.random.default_rng(seed)
    samples = random_samples(rng, 5000, 180)
    start_ms = START_MS // step_ms * step_ms
    query = RedQuery(TimeRange(start_ms, start_ms + 4 * 3_600_000), step_ms, quantiles=QUANTILES)
    table = table_of(samples, query, slots(), parts=7, width_ms=width_ms)
    rows = table.buckets
    result = {
        (table.groups[group].source, table.groups[group].service, at_ms): (requests, errors, tagged)
        for group, at_ms, requests, errors, tagged in zip(
            rows.group.tolist(), rows.time_ms.tolist(), rows.requests.tolist(), rows.errors.tolist(),
            rows.tagged.tolist(), strict=True,
        )
    }  # fmt: skip
    assert result == exact_counts(samples, step_ms)
    durations = np.array([series.metric == "http.request.duration" for series in SERIES])
    for row, group in enumerate(table.totals.group.tolist()):
        source, service, *_ = table.groups[group]
        if source != "durations":
            assert np.isnan(table.totals.quantiles_ms[0][row])
            continue
        of_service = np.array([series.service == service for series in SERIES]) & durations
        values = samples.value[of_service[samples.slot]] * 1000
        for quantile, column in zip(QUANTILES, table.totals.quantiles_ms, strict=True):
            assert column[row] == pytest.approx(np.quantile(values, quantile), rel=RELATIVE_ERROR)
        assert (table.totals.min_ms[row], table.totals.max_ms[row]) == pytest.approx((values.min(), values.max()))


def test_two_ranges_joined_are_the_whole() -> None:
    samples = random_samples(np.random.default_rng(4), 3000, 60)
    known, cut_ms, end_ms = slots(), START_MS + 20 * MINUTE_MS, START_MS + 60 * MINUTE_MS

    def read(start_ms: int, end_ms: int) -> RedTable:
        query = RedQuery(TimeRange(start_ms, end_ms), MINUTE_MS, quantiles=QUANTILES, with_cells=True)
        return table_of(samples, query, known)

    complete = read(START_MS, end_ms)
    both = joined(read(START_MS, cut_ms), read(cut_ms, end_ms), QUANTILES)
    assert both.groups == complete.groups
    for part in ("buckets", "totals"):
        for name in ("group", "time_ms", "requests", "errors", "tagged", "first_ms", "sum_ms", "min_ms", "max_ms"):
            columns = [getattr(getattr(table, part), name) for table in (both, complete)]
            assert np.allclose(*columns), name
        for of_both, of_all in zip(getattr(both, part).quantiles_ms, getattr(complete, part).quantiles_ms, strict=True):
            assert np.allclose(of_both, of_all, equal_nan=True)
    assert cells_of(both) == cells_of(complete)
    assert cells_of(complete)


def cells_of(table: RedTable) -> dict[tuple[str, int, int], int]:
    """Return how many durations lie in each sketch bucket, by service, minute and key."""
    columns = zip(table.cells.row.tolist(), table.cells.key.tolist(), table.cells.count.tolist(), strict=True)
    return {
        (table.groups[table.buckets.group[row]].service, int(table.buckets.time_ms[row]), key): count
        for row, key, count in columns
    }


@pytest.mark.parametrize("cells_max", [2 << 20, 500])
def test_cells_are_the_durations_of_each_bucket(monkeypatch: pytest.MonkeyPatch, cells_max: int) -> None:
    monkeypatch.setattr(red_table, "CELLS_MAX", cells_max)
    samples = random_samples(np.random.default_rng(8), 3000, 60)
    query = RedQuery(TimeRange(START_MS, START_MS + 3_600_000), 300_000, quantiles=(0.5,), with_cells=True)
    expected: dict[tuple[str, int, int], int] = defaultdict(int)
    keys = sketch_keys(samples.value * 1000).tolist()
    for slot, time_ms, key in zip(samples.slot.tolist(), samples.time_ms.tolist(), keys, strict=True):
        if SERIES[slot].metric == "http.request.duration":
            expected[SERIES[slot].service, time_ms // 300_000 * 300_000, key] += 1
    assert cells_of(table_of(samples, query, slots(), parts=5)) == expected
    without = RedQuery(TimeRange(START_MS, START_MS + 3_600_000), 300_000, quantiles=(0.5,))
    assert not cells_of(table_of(samples, without, slots()))


@pytest.mark.parametrize("cells_max", [2 << 20, 500])
def test_quantiles_of_the_range_alone_are_the_same(monkeypatch: pytest.MonkeyPatch, cells_max: int) -> None:
    monkeypatch.setattr(red_table, "CELLS_MAX", cells_max)
    samples, known = random_samples(np.random.default_rng(9), 3000, 60), slots()
    cut_ms, end_ms = START_MS + 20 * MINUTE_MS, START_MS + 60 * MINUTE_MS

    def read(start_ms: int, end_ms: int, *, of_buckets: bool) -> RedTable:
        query = RedQuery(TimeRange(start_ms, end_ms), MINUTE_MS, quantiles=QUANTILES, with_bucket_quantiles=of_buckets)
        return table_of(samples, query, known)

    expected, table = (read(START_MS, end_ms, of_buckets=of_buckets) for of_buckets in (True, False))
    both = joined(read(START_MS, cut_ms, of_buckets=False), read(cut_ms, end_ms, of_buckets=False), QUANTILES)
    for other in (table, both):
        assert other.buckets.quantiles_ms == ()
        assert np.allclose(other.buckets.requests, expected.buckets.requests)
        assert np.allclose(other.totals.quantiles_ms, expected.totals.quantiles_ms, equal_nan=True)


def test_endpoints_have_figures_of_their_own() -> None:
    samples = random_samples(np.random.default_rng(5), 2000, 30)
    query = RedQuery(
        TimeRange(START_MS, START_MS + 3_600_000), MINUTE_MS, level="endpoint", services=frozenset({"api"})
    )
    table = table_of(samples, query, slots())
    assert {(group.method, group.route) for group in table.groups} == {("GET", "/a"), ("POST", "/b")}
    requests = {
        (table.groups[group].source, table.groups[group].route): count
        for group, count in zip(table.totals.group.tolist(), table.totals.requests.tolist(), strict=True)
    }
    of_b = np.array([series.tag("route") == "/b" and series.kind is Kind.COUNTER for series in SERIES])
    assert requests["requests", "/b"] == samples.value[of_b[samples.slot]].sum()


def test_spans_are_counted_where_no_metrics_are() -> None:
    keys = RedKeys()
    spans = build_span_table([
        a_span("t1", start_ms=START_MS, duration_ms=10, name="GET /x", attributes={"http.request.method": "GET"}),
        a_span("t2", start_ms=START_MS + 1, duration_ms=30, name="GET /x", status=SpanStatus.ERROR),
    ])  # fmt: skip
    partials = red_of_spans(spans, keys)
    query = RedQuery(TimeRange(START_MS, START_MS + MINUTE_MS), MINUTE_MS, quantiles=(0.5,))
    table = summarize([by_service(partials, keys)], keys.keys, query)
    assert [(group.source, group.service) for group in table.groups] == [("spans", "api")]
    assert (table.totals.requests.tolist(), table.totals.errors.tolist()) == ([2], [1])
    endpoints = summarize(
        [of_endpoints(partials, keys, width_ms=MINUTE_MS)],
        keys.keys,
        RedQuery(TimeRange(START_MS, START_MS + MINUTE_MS), MINUTE_MS, level="endpoint"),
    )
    assert {(group.method, group.route) for group in endpoints.groups} == {("GET", "/x"), ("", "GET /x")}


def test_spans_of_other_kinds_are_no_requests() -> None:
    span = a_span(start_ms=START_MS)
    client = type(span)(**{name: getattr(span, name) for name in span.__struct_fields__} | {"kind": SpanKind.CLIENT})
    assert len(red_of_spans(build_span_table([client]), RedKeys())) == 0


def test_what_lies_outside_the_range_does_not_count() -> None:
    samples = random_samples(np.random.default_rng(6), 500, 10)
    query = RedQuery(TimeRange(START_MS + 2 * MINUTE_MS, START_MS + 4 * MINUTE_MS), MINUTE_MS)
    table = table_of(samples, query, slots())
    assert set(table.buckets.time_ms.tolist()) == {START_MS + 2 * MINUTE_MS, START_MS + 3 * MINUTE_MS}


def test_a_part_may_have_rows_of_the_range_and_sketches_of_others_alone() -> None:
    known = slots()
    samples = SampleColumns(
        np.array([0, 1], np.uint32), np.array([START_MS + MINUTE_MS, START_MS], np.int64), np.array([2.0, 0.1])
    )
    query = RedQuery(TimeRange(START_MS + MINUTE_MS, START_MS + 2 * MINUTE_MS), MINUTE_MS, quantiles=QUANTILES)
    table = table_of(samples, query, known)
    assert [group.source for group in table.groups] == ["requests", "durations"]
    assert table.totals.requests.tolist() == [2.0]
    assert all(np.isnan(column).all() for column in table.totals.quantiles_ms)


def test_without_rows_a_table_is_empty() -> None:
    query = RedQuery(TimeRange(0, MINUTE_MS), MINUTE_MS, quantiles=(0.5,))
    table = summarize([], [], query)
    assert (table.groups, len(table.buckets.group), len(table.totals.group)) == ((), 0, 0)
    assert joined(table, table, (0.5,)).groups == ()


def test_endpoints_beyond_the_limit_are_one() -> None:
    keys = RedKeys()
    codes = {keys.code(RedKey("spans", "api", "", "", "ok", "GET", f"/{n}")) for n in range(ENDPOINTS_MAX + 50)}
    assert len(codes) == ENDPOINTS_MAX + 1
    assert keys.keys[max(codes)].route == OVERFLOW
    assert keys.code(RedKey("spans", "api", "", "2", "ok", "GET", "/0")) != keys.code(
        RedKey("spans", "api", "", "2", "ok", "GET", "/1")
    ), "a new version has the known endpoints"


def test_times_far_apart_take_no_more_memory() -> None:
    samples = SampleColumns(
        np.array([1, 1], np.uint32), np.array([START_MS - 10**12, START_MS], np.int64), np.array([1.0, 2.0])
    )
    partials: Partials = red_of_samples(samples, slots())
    assert partials.time_ms.tolist() == [(START_MS - 10**12) // MINUTE_MS * MINUTE_MS, START_MS]
