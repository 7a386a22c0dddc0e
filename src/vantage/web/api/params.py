"""Parameters and documented problems that the API's handlers share."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Parameter

from vantage.core.errors import InputError
from vantage.core.timerange import TimeRange, parse_time
from vantage.web.problems import MEDIA_TYPE


class ProblemDetails(msgspec.Struct):
    """RFC 9457 problem details; ``field`` is the path of the offending field. For a query, ``line`` and ``column``
    (from 1) are the position, and ``suggestion`` is a likely correction."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    field: str | None = None
    line: int | None = None
    column: int | None = None
    suggestion: str | None = None
    request_id: str | None = None


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """Return the problems that a handler documents: its ``statuses`` and those of every handler."""
    texts = {
        400: "The input is invalid; `field` names it.",
        401: "A key is required.",
        403: "The key lacks the scope.",
        404: "It does not exist.",
        406: "The requested format is not available.",
        409: "It exists already.",
        429: "Too many requests; see Retry-After.",
        503: "A component is unavailable; see Retry-After.",
        504: "The query exceeded its time limit.",
    }
    return {
        status: ResponseSpec(
            ProblemDetails,
            generate_examples=False,
            description=texts[status],
            media_type=MEDIA_TYPE,
        )
        for status in sorted({400, 401, 403, 429, 503, 504, *statuses})
    }


def examples(*values: Any) -> list[Example]:
    return [Example(value=value) for value in values]


Service = Annotated[str, Parameter(description="The service's name.", max_length=255, examples=examples("my-api"))]
Metric = Annotated[
    str, Parameter(description="The metric's name.", max_length=255, examples=examples("http.request.duration"))
]
TIME_TEXT: Final = "Epoch seconds (below 10^11) or milliseconds, RFC 3339, `now` or `now-15m`."
Start = Annotated[
    str,
    Parameter(description=f"Start, inclusive. {TIME_TEXT}", max_length=64, examples=examples("now-1h", "1703001234")),
]
End = Annotated[str, Parameter(description=f"End, exclusive. {TIME_TEXT}", max_length=64, examples=examples("now"))]


def pair(text: str, *, field: str) -> tuple[str, str]:
    """Split ``key:value``; the value may contain colons. Raises InputError naming ``field``."""
    key, colon, value = text.partition(":")
    if not colon or not key:
        raise InputError(f"{text[:80]!r} is not in the form key:value", field=field)
    return key, value


def time_range(start: str, end: str, *, now_ms: int) -> TimeRange:
    """Parse a range. Raises InputError naming ``start`` or ``end``."""
    return TimeRange(
        parse_time(start, now_ms=now_ms, field="start"),
        # "now" includes a sample of the current millisecond, so the end lies after it.
        parse_time(end, now_ms=now_ms + 1, field="end"),
    )
