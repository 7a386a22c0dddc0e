"""Endpoints: figures equal to those of every request, in any order, with any search, page by page."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.context_writes import write_batch
from tests.support.pages import page_context
from tests.support.samples import HOUR_MS, NOW_MS, a_series, a_span
from vantage.core.batch import Batch, build_batch
from vantage.core.sample import Kind
from vantage.core.sketch import RELATIVE_ERROR
from vantage.core.span import SpanStatus
from vantage.core.timerange import TimeRange
from vantage.query.endpoints import PAGE, SORTS, TREND_POINTS_MAX, Endpoint, SortName, endpoint_page, read_endpoints
from vantage.query.http_semconv import split_buckets

figures = st.one_of(st.none(), st.floats(0, 1e6))
endpoints = st.builds(
    Endpoint,
    method=st.sampled_from(["", "GET", "POST"]),
    route=st.sampled_from(["/", "/pay", "/Pay/{id}", "/straße", "\u202e"]),
    requests=st.floats(0, 1e6),
    rate_per_s=st.just(1.0),
    error_ratio=st.one_of(st.none(), st.floats(0, 1)),
    p50_ms=figures,
    p95_ms=figures,
    p99_ms=figures,
    time_share=st.one_of(st.none(), st.floats(0, 1)),
)


@given(rows=st.lists(endpoints, max_size=30), sort=st.sampled_from(SORTS), ascending=st.booleans())
def test_a_page_is_sorted_with_what_is_unknown_last(*, rows: list[Endpoint], sort: SortName, ascending: bool) -> None:
    page = endpoint_page(rows, sort=sort, ascending=ascending)
    assert sorted(map(id, page.endpoints)) == sorted(map(id, rows))
    if sort == "route":
        names = [(row.route, row.method) for row in page.endpoints]
        assert names == sorted(names, reverse=not ascending)
        return
    values = [row.figure(sort) for row in page.endpoints]
    known = [value for value in values if value is not None]
    assert values == [*known, *[None] * (len(values) - len(known))]
    assert known == sorted(known, reverse=not ascending)


@given(st.lists(endpoints, max_size=30), st.sampled_from(["", "pay", "GET /p", "STRASSE", "nothing"]))
def test_a_search_is_for_a_part_of_method_and_route_in_any_case(rows: list[Endpoint], text: str) -> None:
    page = endpoint_page(rows, text=text)
    expected = [row for row in rows if text.casefold() in f"{row.method} {row.route}".casefold()]
    assert page.matching == len(expected) == len(page.endpoints)
    assert page.total == len(rows)


def test_pages_have_every_endpoint_once_and_the_nearest_page_is_shown() -> None:
    rows = [Endpoint("GET", f"/{n}", float(n), 1.0, None, None, None, None) for n in range(2 * PAGE + 7)]
    pages = [endpoint_page(rows, page=number) for number in (1, 2, 3)]
    assert [len(page.endpoints) for page in pages] == [PAGE, PAGE, 7]
    assert len({row.route for page in pages for row in page.endpoints}) == len(rows)
    assert pages[0].endpoints[0].requests == 2 * PAGE + 6
    assert (endpoint_page(rows, page=99).page, endpoint_page(rows, page=-5).page) == (3, 1)
    assert endpoint_page([], page=4).pages == 1


@pytest.mark.parametrize("exact", [False, True], ids=["rollups", "exact"])
@pytest.mark.parametrize("source", ["metrics", "spans"])
async def test_figures_are_those_of_the_requests(source: str, *, exact: bool) -> None:
    chance = np.random.default_rng(3)
    requests = [
        (NOW_MS - int(chance.integers(1, HOUR_MS)), float(chance.lognormal(3, 1)), int(chance.integers(0, 3)),
         bool(chance.random() < 0.2)) for _ in range(900)
    ]  # fmt: skip
    async with page_context() as context:
        if source == "metrics":
            rows = []
            for at_ms, duration_ms, route, has_failed in requests:
                tags = {"http.route": f"/{route}", "method": "GET", "status": "500" if has_failed else "200"}
                # In seconds: the sum of durations must not depend on the unit.
                series = a_series("api", "http.request.duration", Kind.HISTOGRAM, tags=tags, unit="s")
                rows.append((series, at_ms, duration_ms / 1000))
            await write_batch(context, build_batch(rows))
        else:
            spans = [
                a_span(f"t{n}", start_ms=at_ms, duration_ms=duration_ms, name="GET",
                       status=SpanStatus.ERROR if has_failed else SpanStatus.OK,
                       attributes={"http.route": f"/{route}", "http.request.method": "GET"})
                for n, (at_ms, duration_ms, route, has_failed) in enumerate(requests)
            ]  # fmt: skip
            await write_batch(context, Batch(spans=tuple(spans)))
        buckets = split_buckets(TimeRange(NOW_MS - HOUR_MS, NOW_MS + 1), points=120, now_ms=NOW_MS)
        result = await read_endpoints(context, buckets, service="api", source=source, exact=exact)  # type: ignore[arg-type]
    assert len(result) == 3
    total_ms = sum(request[1] for request in requests)
    for endpoint in result:
        own = [request for request in requests if endpoint.route == f"/{request[2]}"]
        durations_ms = [request[1] for request in own]
        assert endpoint.requests == len(own)
        assert endpoint.errors == pytest.approx(sum(request[3] for request in own))
        assert endpoint.time_share == pytest.approx(sum(durations_ms) / total_ms, rel=1e-5)
        for p, value in ((0.5, endpoint.p50_ms), (0.95, endpoint.p95_ms), (0.99, endpoint.p99_ms)):
            assert value == pytest.approx(np.quantile(durations_ms, p), rel=RELATIVE_ERROR)
        if exact:
            assert endpoint.trend == ()
        else:
            assert 10 <= len(endpoint.trend) <= TREND_POINTS_MAX
            assert max(value for value in endpoint.trend if value is not None) > 0
