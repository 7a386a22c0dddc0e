"""What changed in a window, from what is stored: an incident comes first, and what was left out is said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import page_context
from tests.support.samples import HOUR_MS, NOW_MS, a_series, a_span
from vantage.core.batch import build_batch
from vantage.core.errors import InputError
from vantage.core.sample import Kind
from vantage.core.span import SpanStatus
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.what_changed import CHANGES_MAX, TAG_KEYS_MAX, Changes, read_changes, scope_of

MINUTE_MS = 60_000
DAY_MS = 24 * HOUR_MS
CUT_MS = NOW_MS // 300_000 * 300_000 - 1_800_000  # half an hour ago, on 5 minutes


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        yield context


async def write_traffic(context: QueryContext, service: str = "api", *, changes: bool = True, hours: int = 2) -> None:
    """Write requests of two routes by the minute, whose errors and durations of one rise at CUT_MS, and two gauges, of
    which one rises."""
    rng = np.random.default_rng(sum(service.encode()))
    rows: list[Any] = []
    for at_ms in range(CUT_MS - hours * HOUR_MS, NOW_MS, MINUTE_MS):
        is_after = changes and at_ms >= CUT_MS
        for route in ("/a", "/b"):
            is_bad = is_after and route == "/b"
            failed = float(rng.poisson(30 if is_bad else 1))
            for status, count in (("200", 100 - failed), ("500", failed)):
                tags = {"route": route, "method": "GET", "status": status}
                rows.append((a_series(service, "http.requests", Kind.COUNTER, tags=tags), at_ms, count))
            times = a_series(service, "http.request.duration", Kind.HISTOGRAM, unit="ms",
                             tags={"route": route, "method": "GET", "status": "200"})  # fmt: skip
            scale = 100 if is_bad else 20
            rows += [(times, at_ms, float(value)) for value in scale * rng.lognormal(0, 0.2, 10)]
        for name, usual in (("queue", 10.0), ("temperature", 40.0)):
            value = usual * (3 if is_after and name == "queue" else 1) * float(rng.lognormal(0, 0.05))
            rows.append((a_series(service, name, tags={"zone": "z1"}), at_ms, value))
    await write_batch(context, build_batch(rows))


def names(changes: Changes) -> list[tuple[str, str, str, str]]:
    return [(change.item.what, change.item.metric, change.item.tag, change.item.value)
            for change in changes.changes if change.is_beyond_chance]  # fmt: skip


WINDOW = TimeRange(CUT_MS, NOW_MS)


async def test_what_moved_comes_first_and_what_did_not_is_not_there(context: QueryContext) -> None:
    await write_traffic(context)
    await write_traffic(context, "calm", changes=False)
    changes = await read_changes(context, WINDOW)
    assert {change.item.service for change in changes.changes if change.is_beyond_chance} == {"api"}
    assert set(names(changes)) >= {("errors", "http.requests", "", ""), ("p95", "http.request.duration", "", ""),
                                   ("metric", "queue", "", "")}  # fmt: skip
    assert not any(change.item.metric == "temperature" for change in changes.changes)
    errors = next(change for change in changes.changes if change.item.what == "errors")
    assert errors.before == pytest.approx(0.01, abs=0.003)
    assert errors.after == pytest.approx(0.155, abs=0.02)
    assert errors.growth == pytest.approx(14, rel=0.4)
    assert changes.requests.step_ms == MINUTE_MS
    assert changes.metrics.step_ms == 300_000
    effects = [change.effect for change in changes.changes if change.is_beyond_chance]
    assert effects == sorted(effects, reverse=True)


async def test_of_one_service_the_route_is_named(context: QueryContext) -> None:
    await write_traffic(context)
    changes = await read_changes(context, WINDOW, service="api")
    moved = names(changes)
    assert ("errors", "http.requests", "route", "GET /b") in moved
    assert ("errors", "http.requests", "route", "GET /a") not in moved
    assert ("p95", "http.request.duration", "route", "GET /b") in moved
    assert ("metric", "queue", "zone", "z1") in moved


async def test_a_version_that_went_and_one_that_came(context: QueryContext) -> None:
    rows = []
    for at_ms in range(CUT_MS - 2 * HOUR_MS, NOW_MS, MINUTE_MS):
        version = "2" if at_ms >= CUT_MS else "1"
        series = a_series("api", "http.requests", Kind.COUNTER, tags={"service_version": version})
        rows.append((series, at_ms, 100.0 + at_ms // MINUTE_MS % 3))
    await write_batch(context, build_batch(rows))
    changes = await read_changes(context, WINDOW, service="api")
    by_version = {change.item.value: change for change in changes.changes
                  if change.item.tag == "version" and change.item.what == "requests"}  # fmt: skip
    assert by_version["1"].effect == by_version["2"].effect == 1
    assert (by_version["1"].after, by_version["2"].before) == (0, 0)
    assert not any(change.item.tag == "" and change.item.what == "requests" for change in changes.changes)


async def test_spans_are_compared_where_there_are_no_metrics(context: QueryContext) -> None:
    spans = []
    for number, at_ms in enumerate(range(CUT_MS - 2 * HOUR_MS, NOW_MS, 5000)):
        failed = at_ms >= CUT_MS and number % 2
        spans.append(a_span(f"t{number}", f"s{number}", service="traced", start_ms=at_ms, duration_ms=10 + number % 7,
                            status=SpanStatus.ERROR if failed else SpanStatus.OK))  # fmt: skip
    await write_batch(context, build_batch((), spans=tuple(spans)))
    assert names(await read_changes(context, WINDOW)) == [("errors", "spans", "", "")]


async def test_a_week_before_is_compared_where_it_is_wanted(context: QueryContext) -> None:
    await write_traffic(context)
    changes = await read_changes(context, WINDOW, against="week")
    assert changes.requests.before.end_ms == changes.requests.window.end_ms - 7 * DAY_MS
    requests = next(change for change in changes.changes if change.item.what == "requests")
    assert (requests.before, requests.growth) == (0, None)
    assert next(change for change in changes.changes if change.item.metric == "queue").before is None


async def test_nothing_to_compare(context: QueryContext) -> None:
    changes = await read_changes(context, WINDOW)
    assert (changes.changes, changes.moved, changes.compared) == ((), 0, 0)
    await write_batch(context, build_batch([(a_series("new"), NOW_MS - 1000, 1.0)]))
    assert (await read_changes(context, WINDOW, service="new")).moved == 0


async def test_running_totals_are_not_compared(context: QueryContext) -> None:
    series = a_series("api", "total", Kind.CUMULATIVE)
    times = range(CUT_MS - HOUR_MS, NOW_MS, MINUTE_MS)
    await write_batch(context, build_batch([(series, at_ms, float(at_ms)) for at_ms in times]))
    assert (await read_changes(context, WINDOW, service="api")).compared == 0


async def test_lists_are_cut_and_say_so(context: QueryContext) -> None:
    rows: list[Any] = []
    for at_ms in range(CUT_MS - HOUR_MS, NOW_MS, 300_000):
        rows += [(a_series("api", f"m{n}"), at_ms, (1.0 + n) * (5 if at_ms >= CUT_MS else 1)) for n in range(60)]
        rows += [(a_series("api", "t", tags={f"k{n}": "v"}), at_ms, 1.0) for n in range(TAG_KEYS_MAX + 2)]
    await write_batch(context, build_batch(rows))
    changes = await read_changes(context, WINDOW, service="api")
    assert len(changes.changes) == CHANGES_MAX
    assert changes.listed == 60
    assert any("not compared by tags" in note for note in changes.notes)


async def test_routes_of_long_ago_are_left_out(context: QueryContext) -> None:
    await write_traffic(context)
    long_ago = TimeRange(NOW_MS - 5 * DAY_MS, NOW_MS - 5 * DAY_MS + HOUR_MS)
    changes = await read_changes(context, long_ago, service="api")
    assert changes.requests == changes.metrics


@pytest.mark.parametrize(
    ("start_ms", "end_ms", "against", "field"),
    [
        (NOW_MS + HOUR_MS, NOW_MS + 2 * HOUR_MS, "before", "start"),
        (NOW_MS - 32 * DAY_MS, NOW_MS, "before", "start"),
        (NOW_MS - 2 * DAY_MS, NOW_MS, "day", "start"),
        (0, HOUR_MS, "before", "start"),
    ],
    ids=["future", "long", "longer than a day", "1970"],
)
def test_windows_that_cannot_be_compared(start_ms: int, end_ms: int, against: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        scope_of(TimeRange(start_ms, end_ms), against, now_ms=NOW_MS, step_ms_min=MINUTE_MS)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("length_ms", "step_ms_min", "step_ms", "buckets", "before"),
    [
        (1000, 60_000, 60_000, 3, 60),
        (HOUR_MS, 60_000, 300_000, 13, 24),
        (HOUR_MS // 2, 60_000, 60_000, 30, 60),
        (1000, 300_000, 300_000, 3, 24),
        (DAY_MS, 60_000, 1_800_000, 48, 48),
        (31 * DAY_MS, 60_000, DAY_MS, 31, 31),
    ],
)
def test_buckets_of_windows(length_ms: int, step_ms_min: int, step_ms: int, buckets: int, before: int) -> None:
    selected = TimeRange(NOW_MS - length_ms, NOW_MS)
    scope = scope_of(selected, "before", now_ms=NOW_MS, step_ms_min=step_ms_min)
    assert scope.step_ms == step_ms
    assert scope.window.length_ms // step_ms == pytest.approx(buckets, abs=1)
    assert scope.before.length_ms // step_ms == pytest.approx(before, abs=1)
    assert scope.before.end_ms == scope.window.start_ms
    assert scope.window.end_ms <= NOW_MS
