"""Watching stored series: what is noticed, stored once, and what of restarts, gaps and limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.samples import NOW_MS, MovedClock, a_series
from vantage.core.anomaly import Anomaly
from vantage.core.batch import build_batch
from vantage.core.errors import InputError, NotFoundError, StoreUnavailable
from vantage.core.sample import Kind
from vantage.core.timerange import TimeRange
from vantage.core.turns import Turns
from vantage.query import anomaly_points
from vantage.query.anomalies import find_anomaly, list_anomalies, read_band, read_forecast, series_key
from vantage.query.anomaly_points import SeriesKey
from vantage.query.anomaly_watch import AnomalyWatch
from vantage.query.context import QueryContext
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.storage.ports import Selector
from vantage.telemetry import Telemetry

STEP_MS = 300_000
END_MS = NOW_MS // STEP_MS * STEP_MS
DAYS = 4
POINTS = DAYS * 288
START_MS = END_MS - POINTS * STEP_MS


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[QueryContext]:
    clock = MovedClock(END_MS + 61_000)
    telemetry = Telemetry()
    async with (
        MemoryMetadataStore(clock) as metadata,
        EmbeddedStore(tmp_path, clock=clock, telemetry=telemetry) as store,
    ):
        yield QueryContext(store, metadata, clock, telemetry)


def watch_of(context: QueryContext, **settings: object) -> AnomalyWatch:
    context = QueryContext(context.store, context.metadata, context.clock, Telemetry())
    return AnomalyWatch(
        context,
        context.metadata,  # type: ignore[arg-type]
        turns=Turns(),
        **settings,  # type: ignore[arg-type]
    )


async def write(context: QueryContext, service: str, metric: str, values: np.ndarray, **other: object) -> None:
    """Write one sample a bucket, in its middle; NaN for none. The last value is that of the newest bucket."""
    series = a_series(service, metric, **other)  # type: ignore[arg-type]
    first_ms = END_MS - len(values) * STEP_MS + STEP_MS // 2
    rows = [(series, first_ms + i * STEP_MS, float(value)) for i, value in enumerate(values) if value == value]
    for i in range(0, len(rows), 5000):
        await context.store.write(build_batch(rows[i : i + 5000]))  # type: ignore[attr-defined]


def calm(points: int = POINTS, *, seed: int = 1, level: float = 100) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return level * (1 + 0.3 * np.sin(2 * np.pi * np.arange(points) / 288)) + rng.normal(0, level * 0.02, points)


async def test_an_incident_of_a_metric_is_stored_with_what_was_expected(context: QueryContext) -> None:
    values = calm()
    values[-30:-20] = 400
    await write(context, "shop", "queue.depth", values, unit="jobs")
    watch = watch_of(context)
    await watch.advance()
    (anomaly,) = await list_anomalies(context)
    assert (anomaly.service, anomaly.figure, anomaly.metric, anomaly.unit) == ("shop", "metric", "queue.depth", "jobs")
    assert anomaly.start_ms == END_MS - 30 * STEP_MS
    assert anomaly.end_ms == END_MS - 20 * STEP_MS
    assert anomaly.value == 400
    assert anomaly.expected is not None
    assert 60 < anomaly.expected < 140
    assert anomaly.score > 1
    assert anomaly.text.startswith("queue.depth was 400 jobs; ")
    assert sum(pair["share"] for pair in anomaly.evidence["pairs"]) == pytest.approx(anomaly.evidence["score"])
    assert await find_anomaly(context, anomaly.id) == anomaly
    assert (watch.status.series, watch.status.ready, watch.status.behind_ms) == (1, 1, 0)


async def test_a_process_that_begins_again_stores_nothing_twice(context: QueryContext) -> None:
    values = calm()
    values[-30:] = 400
    await write(context, "shop", "queue.depth", values)
    await watch_of(context).advance()
    first = await list_anomalies(context)
    # The second has another day of history, and so another state.
    await write(context, "shop", "queue.depth", np.append(calm(288, seed=9), np.full(POINTS, np.nan)))
    await watch_of(context).advance()
    second = await list_anomalies(context)
    assert [(row.id, row.start_ms) for row in second] == [(row.id, row.start_ms) for row in first]
    assert len(first) == 1


async def test_it_advances_with_the_clock_a_bucket_at_a_time(context: QueryContext) -> None:
    values = calm(POINTS + 6)
    values[-6:] = 500
    series = a_series("shop", "queue.depth")
    await write(context, "shop", "queue.depth", values[:POINTS])
    watch = watch_of(context)
    await watch.advance()
    assert await list_anomalies(context) == []
    for i, value in enumerate(values[POINTS:].tolist()):
        at_ms = END_MS + i * STEP_MS
        await context.store.write(build_batch([(series, at_ms + 1000, value)]))  # type: ignore[attr-defined]
        context.clock.now = at_ms + STEP_MS + 61_000  # type: ignore[attr-defined]
        await watch.advance()
    (anomaly,) = await list_anomalies(context)
    assert (anomaly.start_ms, anomaly.end_ms) == (END_MS, END_MS + 6 * STEP_MS)


async def test_the_past_of_a_new_service_is_learnt(context: QueryContext) -> None:
    await write(context, "shop", "m", calm(400))
    watch = watch_of(context)
    await watch.advance()
    await write(context, "imported", "m", calm(400, seed=3))
    await watch.advance()
    assert watch.status.ready == 1  # not so soon again
    context.clock.now += 13 * STEP_MS  # type: ignore[attr-defined]
    await write(context, "late", "m", calm(400, seed=4))
    await watch.advance()
    assert (watch.status.series, watch.status.ready) == (3, 3)


async def requests(context: QueryContext, service: str, per_bucket: np.ndarray, failed: np.ndarray) -> None:
    """Write durations of requests: some a bucket, of which some failed."""
    rows = []
    for status, counts in (("200", per_bucket - failed), ("500", failed)):
        series = a_series(service, "http.request.duration", Kind.HISTOGRAM, unit="ms", tags={"status": status})
        first_ms = END_MS - len(counts) * STEP_MS
        for i, count in enumerate(counts.tolist()):
            rows += [(series, first_ms + i * STEP_MS + 1000 * n, 20.0 + n % 7) for n in range(int(count))]
    for i in range(0, len(rows), 20_000):
        await context.store.write(build_batch(rows[i : i + 20_000]))  # type: ignore[attr-defined]


async def test_errors_and_an_outage_of_requests_are_noticed(context: QueryContext) -> None:
    rng = np.random.default_rng(4)
    count = rng.poisson(30, POINTS)
    failed = np.zeros(POINTS, np.int64)
    failed[-100:-90] = count[-100:-90] // 2
    count[-10:] = 0
    await requests(context, "shop", count, failed)
    await write(context, "other", "m", calm())  # something else goes on
    await watch_of(context).advance()
    rows = await list_anomalies(context, service="shop")
    by_figure = {row.figure: row for row in rows}
    assert by_figure["errors"].start_ms == END_MS - 100 * STEP_MS
    assert by_figure["errors"].unit == "%"
    assert 0.3 < by_figure["errors"].value < 0.6
    outage = by_figure["rate"]
    assert (outage.value, outage.unit) == (0.0, "/s")
    assert END_MS - 10 * STEP_MS <= outage.start_ms <= END_MS - 5 * STEP_MS


async def test_a_deleted_service_has_not_stopped(context: QueryContext) -> None:
    await requests(context, "shop", np.full(POINTS, 30), np.zeros(POINTS, np.int64))
    await write(context, "other", "m", calm())
    watch = watch_of(context)
    await watch.advance()
    await context.store.delete(Selector("shop", ""))  # type: ignore[attr-defined]
    context.clock.now += 12 * STEP_MS  # type: ignore[attr-defined]
    other = a_series("other", "m")
    rows = [(other, END_MS + i * STEP_MS + 1000, 100.0) for i in range(12)]
    await context.store.write(build_batch(rows))  # type: ignore[attr-defined]
    await watch.advance()
    assert [row for row in await list_anomalies(context) if row.service == "shop"] == []


async def test_series_beyond_the_limit_are_counted(context: QueryContext) -> None:
    for number in range(5):
        await write(context, "shop", f"m{number}", calm(20))
    watch = watch_of(context, series_max=3)
    await watch.advance()
    assert (watch.status.series, watch.status.omitted, watch.status.ready) == (3, 2, 0)


async def test_more_rows_than_are_read_at_once_are_read_in_parts(
    context: QueryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await write(context, "shop", f"m{number}", calm(60, seed=number))
    part = TimeRange(END_MS - 60 * STEP_MS, END_MS)
    complete, _ = await anomaly_points.read_points(context, part, services={"shop": 0})
    monkeypatch.setattr(anomaly_points, "ROWS_MAX", 10)
    in_parts, _ = await anomaly_points.read_points(context, part, services={"shop": 0})
    assert len(complete) == 3
    for key, values in complete.items():
        assert np.isfinite(values).all()
        assert np.array_equal(values, in_parts[key])


async def test_vantage_itself_running_totals_and_hostile_names(context: QueryContext) -> None:
    await write(context, "vantage", "m", calm(20))
    await write(context, "shop", "total", calm(20), kind=Kind.CUMULATIVE)
    await write(context, "<script>\u202e'\"", "😀 <b>", calm(20))
    watch = watch_of(context)
    await watch.advance()
    assert watch.status.series == 1


async def test_what_cannot_be_stored_now_is_stored_later(
    context: QueryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = calm()
    values[-30:] = 400
    await write(context, "shop", "queue.depth", values)
    watch = watch_of(context)

    async def fail(*_: object, **__: object) -> int:
        raise StoreUnavailable("no")

    with monkeypatch.context() as patched:
        patched.setattr(MemoryMetadataStore, "record_anomalies", fail)
        await watch.advance()
    assert await list_anomalies(context) == []
    context.clock.now += STEP_MS  # type: ignore[attr-defined]
    await watch.advance()
    assert len(await list_anomalies(context)) == 1


async def test_a_name_that_cannot_be_stored_keeps_no_other_from_it(
    context: QueryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = calm()
    values[-30:] = 400
    await write(context, "shop", "queue.depth", values)
    await write(context, "shop", "odd", values)
    record = MemoryMetadataStore.record_anomalies

    async def refuse(self: MemoryMetadataStore, anomalies: Sequence[Anomaly], *, since_ms: int) -> int:
        if any(anomaly.metric == "odd" for anomaly in anomalies):
            raise InputError("cannot be stored", field="metric")
        return await record(self, anomalies, since_ms=since_ms)

    monkeypatch.setattr(MemoryMetadataStore, "record_anomalies", refuse)
    await watch_of(context).advance()
    assert [row.metric for row in await list_anomalies(context)] == ["queue.depth"]


async def test_without_data_nothing_happens(context: QueryContext) -> None:
    watch = watch_of(context)
    await watch.advance()
    assert watch.status.until_ms == 0


async def test_the_band_is_what_the_watch_expected(context: QueryContext) -> None:
    values = calm()
    values[-30:-20] = 400
    await write(context, "shop", "queue.depth", values)
    await watch_of(context).advance()
    (anomaly,) = await list_anomalies(context)
    band = await read_band(
        context, SeriesKey("shop", "metric", "queue.depth"), TimeRange(END_MS - 3_600_000 * 6, END_MS)
    )
    (at,) = np.flatnonzero(band.time_ms == anomaly.start_ms).tolist()
    assert band.value[at] == anomaly.value
    assert band.expected[at] == pytest.approx(anomaly.expected)
    assert (band.low[at], band.high[at]) == (pytest.approx(anomaly.low), pytest.approx(anomaly.high))
    coarse = await read_band(
        context, SeriesKey("shop", "metric", "queue.depth"), TimeRange(START_MS, END_MS), points=96
    )
    assert coarse.step_ms == 12 * STEP_MS
    assert len(coarse.time_ms) <= 97


async def test_a_forecast_crosses_a_limit(context: QueryContext) -> None:
    await write(context, "shop", "disk.used", np.arange(POINTS) / 12.0, unit="GB")
    result, unit = await read_forecast(context, SeriesKey("shop", "metric", "disk.used"), limit=106, hours=24)
    assert unit == "GB"
    assert result.crossing_ms is not None
    assert abs(result.crossing_ms - END_MS - 10 * 3_600_000) <= 2 * 3_600_000
    with pytest.raises(InputError, match="hours"):
        await read_forecast(context, SeriesKey("shop", "metric", "disk.used"), limit=106, hours=0)
    with pytest.raises(NotFoundError):
        await read_forecast(context, SeriesKey("none", "rate"), limit=1, hours=1)


@pytest.mark.parametrize(
    ("service", "figure", "metric", "field"),
    [
        ("", "rate", "", "service"),
        ("a", "x", "", "figure"),
        ("a", "metric", "", "metric"),
        ("a", "rate", "m", "metric"),
    ],
)
def test_a_series_is_named_completely(service: str, figure: str, metric: str, field: str) -> None:
    with pytest.raises(InputError) as caught:
        series_key(service, figure, metric)
    assert caught.value.field == field


async def test_unknown_ids_are_not_found(context: QueryContext) -> None:
    for anomaly_id in (-1, 0, 5, 1 << 70):
        with pytest.raises(NotFoundError):
            await find_anomaly(context, anomaly_id)


def test_anomalies_are_told_apart_by_series_and_start() -> None:
    from vantage.core.anomaly import Anomaly

    first = Anomaly("a", "rate", "", 1, 2, 1.0, 1.0, None, None, None, "seasonal", "/s", "")
    assert first.key == replace(first, end_ms=5, score=9.0).key
    assert first.key != replace(first, start_ms=2).key
