"""``GET /api/export``: all stored samples and spans, as lines of JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Final

from litestar import get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter

from vantage.core.batch import Batch
from vantage.core.timerange import TIME_MS_MAX
from vantage.query.context import QueryContext
from vantage.query.export import export_batches
from vantage.storage.ports import Selector
from vantage.web.api.params import TIME_TEXT, examples, problems, time_range
from vantage.web.ndjson import MEDIA_TYPE, encode_lines
from vantage.web.streaming import UNCOMPRESSED, StreamingResponse

_BEGINNING: Final = "1970-01-01"
_END: Final = str(TIME_MS_MAX)


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
    # The first batch is read before the response starts, so that too many exports get a status, not an aborted body.
    first = await anext(batches, None)
    return StreamingResponse(_chunks(first, batches), media_type=MEDIA_TYPE)


async def _chunks(first: Batch | None, batches: AsyncGenerator[Batch, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(batches):
        if first is None:
            return
        yield await asyncio.to_thread(encode_lines, first)
        async for batch in batches:
            yield await asyncio.to_thread(encode_lines, batch)


handlers = [export]
