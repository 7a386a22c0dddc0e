"""The routes of a service as a table: sorted, searched and paged by parameters of the URL, which may be anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from vantage.core.semconv import DURATION, METHOD_TAGS, REQUESTS, ROUTE_TAGS
from vantage.query.catalogue import Metric
from vantage.query.endpoints import SORTS, Endpoint, EndpointPage, SortName, endpoint_page
from vantage.web.pages.ranges import PageRange
from vantage.web.render import explore_query, query_string

DEFAULT_SORT: Final[SortName] = "requests"
TEXT_LENGTH_MAX: Final = 200
COLUMNS: Final[tuple[tuple[SortName, str], ...]] = (
    ("route", "Route"),
    ("requests", "Requests"),
    ("errors", "Errors"),
    ("error_rate", "Error rate"),
    ("p50", "p50"),
    ("p95", "p95"),
    ("p99", "p99"),
    ("time", "Time"),
)


@dataclass(frozen=True, slots=True)
class ColumnHead:
    """``order`` is that of ``aria-sort``, '' where the table is not sorted by the column; ``url`` sorts by it, or turns
    the order round."""

    label: str
    order: str
    url: str


@dataclass(frozen=True, slots=True)
class RoutesView:
    """``state`` are the parameters of the URL that are not the range's, for links and forms; ``problem`` says which of
    them cannot be used."""

    page: EndpointPage
    heads: tuple[ColumnHead, ...]
    text: str
    state: dict[str, str]
    problem: str
    previous_url: str
    next_url: str
    traces_url: str
    explore_url: str  # '' where no metric has routes
    route_tag: str
    method_tag: str

    def traces_of(self, endpoint: Endpoint) -> str:
        """Return the URL of an endpoint's traces."""
        route = endpoint.route
        condition = {"attribute": f"http.route:{route}"} if route.startswith("/") else {"q": route}
        return f"{self.traces_url}&{urlencode(condition)}"

    def explore_of(self, endpoint: Endpoint) -> str:
        """Return the URL of an endpoint's metric in Explore."""
        tags = [f"{self.route_tag}:{endpoint.route}"]
        if self.method_tag and endpoint.method:
            tags.append(f"{self.method_tag}:{endpoint.method}")
        return f"{self.explore_url}&{urlencode({'a.tag': tags}, doseq=True)}"


def routes_view(
    params: Mapping[str, str],
    endpoints: Sequence[Endpoint],
    page_range: PageRange,
    *,
    service: str,
    metrics: Sequence[Metric],
) -> RoutesView:
    """Return the table that the parameters of a URL describe: ``sort``, ``dir``, ``route`` (a text) and ``page``."""
    problems: list[str] = []
    sort, ascending = _order(params, problems)
    text = params.get("route", "").strip()[:TEXT_LENGTH_MAX]
    number = params.get("page", "") or "1"
    if not (is_number := number.isascii() and number.isdecimal() and len(number) < 10):
        problems.append("page is not a number")
    page = endpoint_page(endpoints, sort=sort, ascending=ascending, text=text, page=int(number) if is_number else 1)
    state = {"route": text}
    if (sort, ascending) != (DEFAULT_SORT, False):
        state |= {"sort": sort, "dir": "asc" if ascending else "desc"}
    in_range = {**page_range.state, **state}
    metric = next((item for item in metrics for name in (DURATION, REQUESTS) if item.name == name), None)
    tags = metric.tag_keys if metric else ()
    route_tag = next((tag for tag in ROUTE_TAGS if tag in tags), "")
    return RoutesView(
        page,
        tuple(
            _head(name, label, sort, {**page_range.state, "route": text}, ascending=ascending)
            for name, label in COLUMNS
        ),
        text,
        state,
        "; ".join(problems),
        query_string(in_range, page=page.page - 1) if page.page > 1 else "",
        query_string(in_range, page=page.page + 1) if page.page < page.pages else "",
        f"/traces{query_string(page_range.state, service=service)}",
        _explore_url(service, metric, page_range) if metric and route_tag else "",
        route_tag,
        next((tag for tag in METHOD_TAGS if tag in tags), ""),
    )


def _order(params: Mapping[str, str], problems: list[str]) -> tuple[SortName, bool]:
    wanted, direction = params.get("sort", ""), params.get("dir", "")
    sort = next((name for name in SORTS if name == wanted), DEFAULT_SORT)
    if wanted not in ("", *SORTS):
        problems.append(f"sort is not one of {', '.join(SORTS)}")
    if direction not in ("", "asc", "desc"):
        problems.append("dir is neither asc nor desc")
    return sort, direction == "asc" or (sort == "route" and direction != "desc")


def _head(name: SortName, label: str, sort: SortName, state: Mapping[str, str], *, ascending: bool) -> ColumnHead:
    is_sorted = name == sort
    ascending_next = not ascending if is_sorted else name == "route"
    order = ("ascending" if ascending else "descending") if is_sorted else ""
    return ColumnHead(label, order, query_string(state, sort=name, dir="asc" if ascending_next else "desc"))


def _explore_url(service: str, metric: Metric, page_range: PageRange) -> str:
    agg = "p95" if metric.name == DURATION else "rate"
    return f"/explore{query_string(page_range.state, **explore_query(service, metric.name, agg=agg))}"
