"""``/services/{name}/health``: how a health score came about. And the scores that other pages show."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from vantage.analysis.health import Health, parse_weights
from vantage.core.errors import BusyError, InputError, StoreTimeout
from vantage.core.timerange import TimeRange, parse_duration_ms, parse_time
from vantage.query.context import QueryContext
from vantage.query.health import HealthPoint, ServiceHealth, read_health, read_healths, read_history, unit_of
from vantage.query.health_explanation import explain_health
from vantage.query.overview import ServiceRow
from vantage.web.pages.ranges import PageRange
from vantage.web.render import query_string, render, segment

WINDOWS: Final = ("15m", "1h", "6h", "24h")
HISTORY_MS: Final = 86_400_000
HISTORY_STEP_MS: Final = 900_000
HISTORY_TTL_S: Final = 60.0
LIVE_TTL_S: Final = 5.0
WAIT_S: Final = 0.3
HEALTH_NBYTES: Final = 3000
HISTORY_NBYTES: Final = 100_000
TEXT_LENGTH_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class HealthPanel:
    """What the page of a service shows of its health; ``problem`` says why there is none."""

    result: ServiceHealth | None
    history: Sequence[HealthPoint]
    problem: str = ""

    @property
    def scores(self) -> tuple[int | None, ...]:
        return tuple(point.health.score for point in self.history)


@get("/services/{name:str}/health", include_in_schema=False)
async def health(
    request: Request[Any, Any, Any], context: NamedDependency[QueryContext], name: FromPath[str]
) -> Response[str]:
    params, now_ms = request.query_params, context.present().now_ms
    state = {key: params.get(key, "")[:TEXT_LENGTH_MAX] for key in ("window", "environment", "weights")}
    window, environment, weights = state.values()
    end_ms = parse_time(params.get("end", "now"), now_ms=now_ms + 1, field="end")
    result = await read_health(
        context,
        name,
        environment=environment,
        end_ms=end_ms,
        window_ms=parse_duration_ms(window or WINDOWS[0], field="window"),
        weights=parse_weights(weights),
    )
    explanation = await explain_health(context, result)
    history_range, step_ms = _history(end_ms, now_ms=now_ms)
    history = await read_history(
        context, name, history_range, step_ms, environment=environment, weights=parse_weights(weights)
    )
    return await render(
        request,
        "pages/health.html",
        section="overview",
        name=name,
        result=result,
        explanation=explanation,
        panel=HealthPanel(result, history),
        step_ms=step_ms,
        windows=WINDOWS,
        window=window or WINDOWS[0],
        state=state,
        fixed=query_string(state, end=result.time_range.end_ms),
        api_url=f"/health/score/{segment(name)}{query_string(state, end=result.time_range.end_ms)}",
        vql_url=lambda text: f"/vql?{urlencode({'query': text})}",
    )


async def healths_of(context: QueryContext, rows: Sequence[ServiceRow], page_range: PageRange) -> Mapping[str, Health]:
    """Return the health of services at the end of a page's range, by name, on live pages LIVE_TTL_S old at most: what
    lasts 15 minutes does not change in seconds. None where it cannot be read, and where that takes longer than WAIT_S,
    as for the first look of all: the next one finds more of it read."""
    first_seen_ms = {row.name: row.first_seen_ms for row in rows}

    async def load() -> Mapping[str, Health]:
        results = await read_healths(context, first_seen_ms, end_ms=_end_ms(page_range))
        return {name: result.health for name, result in results.items()}

    try:
        async with asyncio.timeout(WAIT_S):
            if not page_range.is_live:
                return await load()
            key = ("healths", frozenset(first_seen_ms))
            return await context.cache.cached(key, load, ttl_s=LIVE_TTL_S, nbytes=HEALTH_NBYTES * len(rows))
    except (BusyError, InputError, StoreTimeout, TimeoutError):
        return {}


async def health_panel(context: QueryContext, service: str, page_range: PageRange) -> HealthPanel:
    """Return the health of a service at the end of a page's range, and that of the day before."""
    end_ms = _end_ms(page_range)
    try:
        result = await read_health(context, service, end_ms=end_ms)
        now_ms = context.present().now_ms
        time_range, step_ms = _history(end_ms or now_ms, now_ms=now_ms)

        async def load() -> list[HealthPoint]:
            return await read_history(context, service, time_range, step_ms)

        key = ("health history", service, time_range.end_ms // step_ms if page_range.is_live else time_range.end_ms)
        history = await context.cache.cached(key, load, ttl_s=HISTORY_TTL_S, nbytes=HISTORY_NBYTES)
    except (BusyError, InputError, StoreTimeout) as error:
        return HealthPanel(None, (), str(error))
    return HealthPanel(result, history)


def _history(end_ms: int, *, now_ms: int) -> tuple[TimeRange, int]:
    """Return the day before a time and the step of its history: longer where only hours are there."""
    start_ms = max(0, end_ms - HISTORY_MS)
    step_ms = max(HISTORY_STEP_MS, unit_of(start_ms, HISTORY_STEP_MS, now_ms=now_ms))
    return TimeRange(start_ms, max(1, end_ms)), step_ms


def _end_ms(page_range: PageRange) -> int | None:
    return None if page_range.is_live else page_range.time_range.end_ms


handlers = [health]
