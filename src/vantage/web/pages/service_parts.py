"""The parts of a service's page that read more than rollups, each at a URL of its own: ``/services/{name}/{part}``.

The page has a place for each, and ``parts.js`` loads them once they come into view, and again every so many seconds:
so they do not hold the page up, and are not computed with every update. Without a script the place is a link, and the
URL a page. Failed spans, slowest traces and the figures of processes are read with bounds, which the parts state.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from vantage.core import number_format
from vantage.core.errors import BusyError, InputError, NotFoundError, StoreTimeout
from vantage.query.catalogue import has_data
from vantage.query.compared_deployments import deployment_verdicts
from vantage.query.context import QueryContext
from vantage.query.failures import SPANS_MAX, read_failures
from vantage.query.runtime import read_runtime
from vantage.query.slowest import slowest_spans
from vantage.query.thresholds import error_level, is_p95_change_shown, p95_change_level
from vantage.query.traces import find_traces
from vantage.query.version_comparison import REQUESTS_MIN, VersionChange, read_version_changes
from vantage.storage.ports import TraceFilter
from vantage.web.pages.ranges import PageRange, read_range
from vantage.web.render import explore_query, query_string, segment, shared_page

TRACES_MAX: Final = 10
PART_NBYTES: Final = 1 << 17  # of the largest, groups of exceptions with a stack trace each
ERROR_POINTS_SHOWN: Final = 0.001  # a tenth of a percentage point
Variables = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A part: its title, how often it is read again, and what it reads."""

    title: str
    every_s: int
    read: Callable[[QueryContext, PageRange, str], Awaitable[Variables]]


@dataclass(frozen=True, slots=True)
class ChangeCell:
    """A figure before and after, as texts; ``words`` say what the change means, ``level`` colours it."""

    label: str
    before: str
    after: str
    change: str
    words: str
    level: str


@get("/services/{name:str}/{part:str}", include_in_schema=False)
async def service_part(
    request: Request[Any, Any, Any], context: NamedDependency[QueryContext], name: FromPath[str], part: FromPath[str]
) -> Response[bytes]:
    if part not in PARTS:
        raise NotFoundError(f"a service has no part {part[:80]!r}: it has {', '.join(PARTS)}", field="part")
    return await shared_page(
        request, "pages/service_part.html", lambda: _read(request, context, name, part), block="part"
    )


async def _read(request: Request[Any, Any, Any], context: QueryContext, name: str, part: str) -> Variables:
    page_range = await read_range(request, context, service=name)
    if not await has_data(context, service=name):
        raise NotFoundError(f"no service {name[:80]!r} has sent anything", field="name")
    variables: Variables = {}
    problem = ""
    try:
        variables = await _shared(context, page_range, name, part)
    except (BusyError, InputError, StoreTimeout) as error:
        problem = str(error)
    return {
        "section": "overview",
        "range": page_range,
        "name": name,
        "part": part,
        "title": PARTS[part].title,
        "problem": problem,
        "traces_url": f"/traces{query_string(page_range.state, service=name)}",
        **variables,
    }


async def _shared(context: QueryContext, page_range: PageRange, name: str, part: str) -> Variables:
    """Read a part. That of a live page may be half as old as its tabs let it become: they load it at different
    times."""
    wanted = PARTS[part]

    async def read() -> Variables:
        return await wanted.read(context, page_range, name)

    if not page_range.is_live:
        return await read()
    key = ("part", part, name, *page_range.state.items())
    return await context.cache.cached(key, read, ttl_s=wanted.every_s / 2, nbytes=PART_NBYTES)


async def _exceptions(context: QueryContext, page_range: PageRange, service: str) -> Variables:
    failures = await read_failures(context, page_range.time_range, service=service)
    return {"failures": failures, "spans_max": SPANS_MAX}


async def _traces(context: QueryContext, page_range: PageRange, service: str) -> Variables:
    time_range = page_range.time_range
    recent = await find_traces(context, TraceFilter(time_range, service=service, limit=TRACES_MAX))
    slowest = await slowest_spans(context, time_range, service=service, limit=TRACES_MAX)
    longest_ns = max((trace.duration_ns for trace in recent), default=0)
    return {"recent": recent, "slowest": slowest, "longest_ns": longest_ns}


async def _deployments(context: QueryContext, page_range: PageRange, service: str) -> Variables:
    changes = await read_version_changes(context, page_range.time_range, service=service)
    rows = [(change, change_cells(change) if change.is_enough else ()) for change in changes.changes]
    verdicts = await deployment_verdicts(context, service=service)
    return {"changes": rows, "omitted": changes.omitted, "requests_min": REQUESTS_MIN, "verdicts": verdicts}


async def _runtime(context: QueryContext, page_range: PageRange, service: str) -> Variables:
    runtime = await read_runtime(context, page_range.time_range, service=service)
    explore = {
        metric.name: "/explore" + query_string(page_range.state, **explore_query(service, metric.name, by="instance"))
        for metric, _ in runtime.metrics
    }
    return {"runtime": runtime, "explore": explore}


def change_cells(change: VersionChange) -> tuple[ChangeCell, ...]:
    """Return the figures of a version with enough requests before and after."""
    before, after = change.before, change.after
    if before is None or after is None:
        return ()
    rate = change.growth("rate_per_s")
    return (
        _cell("Requests", number_format.rate(before.rate_per_s), number_format.rate(after.rate_per_s), rate,
              ("more", "fewer"), ""),
        _error_cell(change),
        *(
            _cell(
                label,
                number_format.duration_ms(getattr(before, name)),
                number_format.duration_ms(getattr(after, name)),
                growth := change.growth(name),
                ("slower", "faster"),
                p95_change_level(growth) if growth is not None else "",
            )
            for label, name in (("p50", "p50_ms"), ("p95", "p95_ms"))
        ),
    )  # fmt: skip


def _cell(label: str, before: str, after: str, growth: float | None, words: tuple[str, str], level: str) -> ChangeCell:
    if growth is None or not math.isfinite(growth):
        return ChangeCell(label, before, after, "", "", "")
    is_shown = is_p95_change_shown(growth)
    word = words[growth < 0] if is_shown else "about the same"
    return ChangeCell(label, before, after, number_format.change(growth), word, level if is_shown else "")


def _error_cell(change: VersionChange) -> ChangeCell:
    before, after = (side.error_ratio if side else None for side in (change.before, change.after))
    texts = number_format.ratio(before), number_format.ratio(after)
    points = change.error_points
    if points is None:
        return ChangeCell("Errors", *texts, "", "", "")
    if abs(points) < ERROR_POINTS_SHOWN:
        return ChangeCell("Errors", *texts, "", "about the same", "")
    text = f"{points * 100:+.1f} points".replace("-", "−")
    if points < 0:
        return ChangeCell("Errors", *texts, text, "fewer", "good")
    level = error_level(after)
    return ChangeCell("Errors", *texts, text, "more", level if level in ("warn", "bad") else "")


PARTS: Final = {
    "exceptions": Part("Exceptions", 30, _exceptions),
    "traces": Part("Traces", 10, _traces),
    "deployments": Part("Deployments", 30, _deployments),
    "runtime": Part("Runtime", 30, _runtime),
}


def part_urls(name: str, page_range: PageRange) -> dict[str, str]:
    """Return the URL of each part in a range."""
    return {part: f"/services/{segment(name)}/{part}{query_string(page_range.state)}" for part in PARTS}


handlers = [service_part]
