"""The time range of a page: a preset such as ``1h``, or two times. Both are part of the URL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from litestar import Request

from vantage.core.errors import InputError
from vantage.core.timerange import TimeRange, parse_time
from vantage.query.catalogue import first_data_ms
from vantage.query.context import QueryContext

PRESETS: Final = {
    "5m": 300_000,
    "15m": 900_000,
    "1h": 3_600_000,
    "6h": 21_600_000,
    "24h": 86_400_000,
    "7d": 604_800_000,
}
DEFAULT: Final = "1h"
LENGTH_MS_MAX: Final = 400 * 86_400_000
LENGTH_MS_MIN: Final = 1000


@dataclass(frozen=True, slots=True)
class PageRange:
    """``preset`` is empty when the URL has two times; then the page is not live."""

    time_range: TimeRange
    preset: str
    state: dict[str, str]  # parameters of the URL, for links to the same range

    @property
    def is_exact(self) -> bool:
        """Return whether quantiles are to be read from samples and spans rather than from rollups."""
        return self.state.get("exact") == "1"

    @property
    def is_live(self) -> bool:
        return bool(self.preset)

    @property
    def presets(self) -> tuple[str, ...]:
        return tuple(PRESETS)


async def read_range(request: Request[Any, Any, Any], context: QueryContext, *, service: str = "") -> PageRange:
    """Return the range in a request's URL. Without one it is DEFAULT, or shorter where the data is younger, of the
    service if it is given: charts of the first minutes are charts. Raises InputError."""
    params, now_ms = request.query_params, context.present().now_ms
    preset, start = params.get("range", ""), params.get("start", "")
    if preset not in PRESETS and not start:
        preset = _covering(now_ms - await first_data_ms(context, service=service, now_ms=now_ms))
    parsed = page_range(preset=preset, start=start, end=params.get("end", ""), now_ms=now_ms)
    if params.get("exact") == "1":
        parsed.state["exact"] = "1"
    return parsed


def _covering(age_ms: int) -> str:
    """Return the shortest preset that covers data of an age, DEFAULT at most."""
    return next((preset for preset, length_ms in PRESETS.items() if age_ms < length_ms or preset == DEFAULT), DEFAULT)


def page_range(*, preset: str, start: str, end: str, now_ms: int) -> PageRange:
    """Return the range of a URL. An unknown preset is replaced by the default, so that an old link still opens. Raises
    InputError for invalid times."""
    if start:
        start_ms = parse_time(start, now_ms=now_ms, field="start")
        end_ms = parse_time(end or "now", now_ms=now_ms, field="end")
        time_range = TimeRange(start_ms, max(end_ms, start_ms + LENGTH_MS_MIN) if end_ms > start_ms else end_ms)
        if time_range.length_ms > LENGTH_MS_MAX:
            raise InputError(f"lies more than {LENGTH_MS_MAX // 86_400_000} days before end", field="start")
        return PageRange(time_range, "", {"start": start, "end": end})
    preset = preset if preset in PRESETS else DEFAULT
    return PageRange(TimeRange(now_ms + 1 - PRESETS[preset], now_ms + 1), preset, {"range": preset})
