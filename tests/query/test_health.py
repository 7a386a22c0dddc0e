"""Health of services from what is stored: the window, baselines by hour of week, history, and the API's answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import page_context
from tests.support.samples import HOUR_MS, NOW_MS, MovedClock, a_series, a_span
from vantage.analysis.health import Health, parse_weights
from vantage.core.batch import build_batch
from vantage.core.errors import InputError, NotFoundError
from vantage.core.red_table import RedQuery, RedTable
from vantage.core.sample import Kind
from vantage.core.series import Series
from vantage.core.span import SpanStatus
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.health import WINDOW_MS, read_health, read_healths, read_history, unit_of

MINUTE_MS = 60_000
DAY_MS = 24 * HOUR_MS
HOUR_START_MS = NOW_MS // HOUR_MS * HOUR_MS  # now is 26 minutes later


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context(cache_nbytes_max=10_000_000) as context:
        yield context


def counter(service: str = "api", status: str = "200", environment: str = "test") -> Series:
    return a_series(service, "http.requests", Kind.COUNTER, tags={"status": status}, environment=environment)


def durations(service: str = "api") -> Series:
    return a_series(service, "http.request.duration", Kind.HISTOGRAM, unit="ms")


async def write_hours(
    context: QueryContext,
    hours: Sequence[int],
    *,
    per_hour: float = 36_000,
    p95_ms: float = 200.0,
    service: str = "api",
) -> None:
    """Write a steady rate and one duration for each hour, counted back from the present one."""
    rows = []
    for ago in hours:
        at_ms = HOUR_START_MS - ago * HOUR_MS + 1
        rows += [(counter(service), at_ms, per_hour), (durations(service), at_ms, p95_ms)]
    await write_batch(context, build_batch(rows))


async def write_minutes(
    context: QueryContext, minutes: range, *, per_minute: float = 600, failed: float = 0, p95_ms: float = 200.0,
    service: str = "api", environment: str = "test",
) -> None:  # fmt: skip
    rows = []
    for ago in minutes:
        at_ms = NOW_MS - ago * MINUTE_MS - 1
        rows += [(counter(service, environment=environment), at_ms, per_minute - failed),
                 (counter(service, "503", environment), at_ms, failed)]  # fmt: skip
        rows += [(durations(service), at_ms, p95_ms)] * 40
    await write_batch(context, build_batch(rows))


async def health_of(context: QueryContext, service: str = "api", **options: object) -> Health:
    return (await read_health(context, service, **options)).health  # type: ignore[arg-type]


async def test_four_weeks_of_the_same_hour_are_the_baseline(context: QueryContext) -> None:
    await write_hours(context, range(1, 28 * 24 + 3))
    await write_minutes(context, range(16))
    result = await read_health(context, "api")
    assert (result.health.score, result.health.status) == (100, "HEALTHY")
    rate, response = result.health.factor("request_rate"), result.health.factor("response_time")
    assert rate.value == pytest.approx(10, rel=0.1)
    assert rate.baseline is not None
    assert response.baseline is not None
    assert (rate.baseline.level, rate.baseline.samples, rate.baseline.expected) == ("hour of week", 4, 10)
    assert response.baseline.expected == pytest.approx(200, rel=0.01)
    assert tuple(result.sources) == ("http.requests", "http.requests", "http.request.duration")


async def test_slow_failing_and_fewer(context: QueryContext) -> None:
    await write_hours(context, range(1, 28 * 24 + 3))
    await write_minutes(context, range(16), per_minute=350, failed=35, p95_ms=300)
    health = await health_of(context)
    values = {factor.name: factor.value for factor in health.factors}
    assert values["error_rate"] == pytest.approx(10)
    assert values["response_time"] == pytest.approx(300, rel=0.01)
    assert [factor.score for factor in health.factors] == [pytest.approx(68, abs=4), 19, pytest.approx(53, abs=3), 100]
    assert health.status in ("DEGRADED", "UNHEALTHY")


async def test_silence_is_an_outage_where_traffic_is_usual(context: QueryContext) -> None:
    await write_hours(context, range(1, 8))
    health = await health_of(context)
    assert (health.score, health.status) == (0, "UNHEALTHY")
    assert "No requests at all" in health.reason
    assert health.factor("availability").value == 0


async def test_silence_that_lasts_does_not_become_usual(context: QueryContext) -> None:
    await write_hours(context, range(20, 30))
    assert (await health_of(context)).status == "UNHEALTHY"


async def test_a_night_that_is_always_quiet_is_normal(context: QueryContext) -> None:
    await write_hours(context, [ago for ago in range(2, 28 * 24 + 3) if ago % 24 not in (0, 1, 23)])
    health = await health_of(context)
    assert (health.score, health.status) == (100, "HEALTHY")
    assert health.reason == "No requests, as is usual at this hour of the week (0/s)."


async def test_a_new_service_is_judged_by_what_needs_no_baseline(context: QueryContext) -> None:
    await write_minutes(context, range(3), failed=6)
    result = await read_health(context, "api")
    scores = [factor.score for factor in result.health.factors]
    assert scores == [None, 75, None, 100]
    assert result.health.score == 88
    assert result.window.seconds == pytest.approx(180, abs=60)
    assert "no baseline yet" in result.health.factor("request_rate").sentence


async def test_without_requests_it_is_unknown(context: QueryContext) -> None:
    await write_batch(context, build_batch([(a_series("gauges"), NOW_MS - 1000, 1.0)]))
    assert (await health_of(context, "gauges")).status == "UNKNOWN"
    with pytest.raises(NotFoundError) as caught:
        await read_health(context, "nobody")
    assert caught.value.field == "service"
    with pytest.raises(NotFoundError) as caught:
        await read_health(context, "gauges", environment="nowhere")
    assert caught.value.field == "environment"


async def test_spans_count_where_there_are_no_metrics(context: QueryContext) -> None:
    spans = [
        a_span(f"t{n}", f"s{n}", service="traced", start_ms=NOW_MS - 1000 * n - 1, duration_ms=50,
               status=SpanStatus.ERROR if n % 10 == 0 else SpanStatus.OK)
        for n in range(200)
    ]  # fmt: skip
    await write_batch(context, build_batch((), spans=tuple(spans)))
    result = await read_health(context, "traced")
    assert tuple(result.sources) == ("spans", "spans", "spans")
    assert result.health.factor("error_rate").value == pytest.approx(10)
    assert result.health.factor("response_time").value == pytest.approx(50, rel=0.01)


async def test_an_environment_is_judged_alone(context: QueryContext) -> None:
    await write_minutes(context, range(5), failed=600, environment="staging")
    await write_minutes(context, range(5), environment="production")
    assert (await health_of(context, environment="staging")).status == "UNHEALTHY"
    assert (await health_of(context, environment="production")).factor("error_rate").value == 0
    assert (await health_of(context)).factor("error_rate").value == pytest.approx(50)


async def test_all_services_at_once_are_as_each_alone(context: QueryContext) -> None:
    await write_hours(context, range(1, 12))
    await write_hours(context, range(1, 12), service="shop", per_hour=3600)
    await write_minutes(context, range(16), failed=60)
    await write_minutes(context, range(16), service="shop", per_minute=60)
    infos = {info.service: info.first_ms for info in await context.store.services()}
    together = await read_healths(context, infos)
    assert set(together) == {"api", "shop"}
    for service, result in together.items():
        assert result.health == await health_of(context, service)


async def test_data_that_comes_late_changes_the_baseline(context: QueryContext) -> None:
    await write_minutes(context, range(16))
    assert (await health_of(context)).factor("request_rate").score is None
    batch = build_batch([(counter(), HOUR_START_MS - ago * HOUR_MS + 1, 36_000) for ago in range(1, 9)])
    await write_batch(context, batch)
    context.on_written(batch)
    assert (await health_of(context)).factor("request_rate").score == 100


@pytest.mark.parametrize(("lacking_ms", "status"), [(HOUR_MS, "HEALTHY"), (2 * HOUR_MS, "UNKNOWN")])
async def test_what_is_not_summed_up_is_no_silence(
    context: QueryContext, monkeypatch: pytest.MonkeyPatch, lacking_ms: int, status: str
) -> None:
    await write_hours(context, range(1, 12))
    await write_minutes(context, range(30))
    red = context.store.red

    async def without_narrow(query: RedQuery, *, deadline_s: float) -> RedTable | None:
        return None if query.step_ms < lacking_ms else await red(query, deadline_s=deadline_s)

    monkeypatch.setattr(context.store, "red", without_narrow)
    assert (await health_of(context)).status == status
    points = await read_history(context, "api", TimeRange(NOW_MS - HOUR_MS, NOW_MS), 15 * MINUTE_MS)
    assert {point.health.status for point in points} == {"UNKNOWN"}


async def test_weights(context: QueryContext) -> None:
    await write_minutes(context, range(16), failed=30)
    assert (await health_of(context, weights=parse_weights("error_rate:1"))).score == 25
    assert (await health_of(context, weights=parse_weights("availability:1"))).score == 100


@pytest.mark.parametrize("window_ms", [0, 299_999, 7 * DAY_MS + 1], ids=["none", "short", "long"])
async def test_windows_have_limits(context: QueryContext, window_ms: int) -> None:
    await write_minutes(context, range(3))
    with pytest.raises(InputError) as caught:
        await read_health(context, "api", window_ms=window_ms)
    assert caught.value.field == "window"


@pytest.mark.parametrize("end_ms", [0, 1, NOW_MS - 3 * 365 * DAY_MS, NOW_MS + 365 * DAY_MS, 253_402_300_799_999])
async def test_any_end_has_an_answer(context: QueryContext, end_ms: int) -> None:
    await write_minutes(context, range(3))
    assert (await health_of(context, end_ms=end_ms)).status in ("UNKNOWN", "UNHEALTHY", "HEALTHY")


async def test_a_clock_behind_the_data_ends_with_the_data(context: QueryContext) -> None:
    await write_minutes(context, range(16), failed=6)
    clock = context.clock
    assert isinstance(clock, MovedClock)
    clock.now -= 2 * HOUR_MS
    assert (await health_of(context)).factor("error_rate").value == pytest.approx(1)


async def test_history_shows_the_incident_and_its_end(context: QueryContext) -> None:
    await write_hours(context, range(8, 30))
    await write_minutes(context, range(300, 480))
    await write_minutes(context, range(240, 300), failed=600)
    await write_minutes(context, range(240))
    points = await read_history(context, "api", TimeRange(NOW_MS - 6 * HOUR_MS, NOW_MS), 15 * MINUTE_MS)
    statuses = [point.health.status for point in points]
    assert len(points) in (24, 25)
    assert statuses.count("UNHEALTHY") in (4, 5)
    assert statuses[-1] == "HEALTHY"
    assert points[0].start_ms % (15 * MINUTE_MS) == 0


async def test_history_before_the_first_data_is_unknown(context: QueryContext) -> None:
    await write_minutes(context, range(16))
    points = await read_history(context, "api", TimeRange(NOW_MS - 30 * DAY_MS, NOW_MS), 6 * HOUR_MS)
    assert [point.health.status for point in points[:-1]] == ["UNKNOWN"] * (len(points) - 1)
    assert points[-1].health.status == "HEALTHY"


@pytest.mark.parametrize(("step_ms", "length_ms"), [(MINUTE_MS, HOUR_MS), (450_000, HOUR_MS), (300_000, 30 * DAY_MS)],
                         ids=["short", "odd", "many"])  # fmt: skip
async def test_histories_have_limits(context: QueryContext, step_ms: int, length_ms: int) -> None:
    with pytest.raises(InputError) as caught:
        await read_history(context, "api", TimeRange(NOW_MS - length_ms, NOW_MS), step_ms)
    assert caught.value.field == "step"


@pytest.mark.parametrize(
    ("ago_ms", "window_ms", "unit_ms"),
    [
        (WINDOW_MS, WINDOW_MS, 60_000),
        (6 * HOUR_MS, 6 * HOUR_MS, 60_000),
        (7 * HOUR_MS, 7 * HOUR_MS, 300_000),
        (3 * DAY_MS, WINDOW_MS, 300_000),
        (2 * DAY_MS - MINUTE_MS, WINDOW_MS, 300_000),
        (7 * DAY_MS, 7 * DAY_MS, HOUR_MS),
        (70 * DAY_MS, WINDOW_MS, HOUR_MS),
    ],
)
def test_units_are_those_of_rollups_that_are_there(ago_ms: int, window_ms: int, unit_ms: int) -> None:
    assert unit_of(NOW_MS - ago_ms, window_ms, now_ms=NOW_MS) == unit_ms


async def test_steps_of_long_ago_are_whole_hours(context: QueryContext) -> None:
    await write_minutes(context, range(3))
    long_ago = TimeRange(NOW_MS - 70 * DAY_MS, NOW_MS - 69 * DAY_MS)
    with pytest.raises(InputError) as caught:
        await read_history(context, "api", long_ago, 15 * MINUTE_MS)
    assert caught.value.field == "step"
    assert {point.health.status for point in await read_history(context, "api", long_ago, HOUR_MS)} == {"UNKNOWN"}
