"""``GET /api/export``: all stored samples and spans, as lines of JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final

from litestar import Request, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter

from vantage.core.batch import Batch
from vantage.core.errors import BusyError
from vantage.core.timerange import TIME_MS_MAX
from vantage.query.context import QueryContext
from vantage.query.export import export_batches
from vantage.storage.ports import Selector
from vantage.web.api.params import TIME_TEXT, examples, problems, time_range
from vantage.web.ndjson import MEDIA_TYPE, encode_lines
from vantage.web.streaming import UNCOMPRESSED, Pace, StreamingResponse

RATE_MIN: Final = 20_000  # bytes a second below which an export gives way to one that waits
PATIENCE_S: Final = 30.0  # before that
RETRY_AFTER_S: Final = 2.0  # until an export that was ended has made room
_BEGINNING: Final = "1970-01-01"
_END: Final = str(TIME_MS_MAX)


class OpenExports:
    """The exports under way. Few may run at a time, so the slowest reader gives way when another waits."""

    def __init__(self) -> None:
        self._paces: set[Pace] = set()

    async def counted(self, chunks: AsyncGenerator[bytes, None], pace: Pace) -> AsyncGenerator[bytes, None]:
        """Yield the chunks, and count the export as open meanwhile."""
        self._paces.add(pace)
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
        finally:
            self._paces.discard(pace)

    def end_slowest(self) -> bool:
        """End the export whose client reads slowest, if it has had its time and reads less than ``RATE_MIN``. Return
        whether one was ended."""
        slow = [pace for pace in self._paces if pace.elapsed_s() >= PATIENCE_S and pace.bytes_per_s() < RATE_MIN]
        if not slow:
            return False
        min(slow, key=Pace.bytes_per_s).ended.set()
        return True


@get(
    "/api/export",
    summary="Export all data as lines of JSON",
    responses={
        200: ResponseSpec(
            str,
            generate_examples=False,
            description=(
                "One JSON object per line: `type` is `sample` or `span`, and the other fields are those of /v1/metrics "
                "and /v1/spans. After an error the connection is aborted."
            ),
            media_type=MEDIA_TYPE,
        ),
        **problems(),
    },
    media_type=MEDIA_TYPE,
    tags=["operations"],
    opt={UNCOMPRESSED: True},
)
async def export(
    request: Request[Any, Any, Any],
    context: NamedDependency[QueryContext],
    start: Annotated[
        str,
        Parameter(
            description=f"Start, inclusive; no limit by default. {TIME_TEXT}",
            max_length=64,
            examples=examples("now-1h"),
        ),
    ] = "",
    end: Annotated[
        str,
        Parameter(
            description=f"End, exclusive; no limit by default. {TIME_TEXT}", max_length=64, examples=examples("now")
        ),
    ] = "",
    service: Annotated[str, Parameter(description="Only of this service.", max_length=255)] = "",
    environment: Annotated[str, Parameter(description="Only of this environment.", max_length=255)] = "",
) -> StreamingResponse:
    """Stream all stored samples and spans, without loss and in no particular order."""
    in_range = time_range(start or _BEGINNING, end or _END, now_ms=context.clock.now_ms())
    batches = export_batches(context, Selector(service, environment), in_range)
    exports: OpenExports = request.app.state.exports
    # The first batch is read before the response starts, so that too many exports get a status, not an aborted body.
    try:
        first = await anext(batches, None)
    except BusyError as error:
        if not exports.end_slowest():
            raise
        raise BusyError(str(error), retry_after_s=RETRY_AFTER_S) from error
    pace = Pace(context.clock.monotonic_s)
    return StreamingResponse(
        exports.counted(_chunks(first, batches), pace), media_type=MEDIA_TYPE, filename="vantage.ndjson", pace=pace
    )


async def _chunks(first: Batch | None, batches: AsyncGenerator[Batch, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(batches):
        if first is None:
            return
        yield await asyncio.to_thread(encode_lines, first)
        async for batch in batches:
            yield await asyncio.to_thread(encode_lines, batch)


handlers = [export]
