"""``GET /api/export``: everything kept, as lines of JSON."""

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
from vantage.storage.ports import Selector
from vantage.web.api.params import TIME_TEXT, examples, problems, time_range
from vantage.web.ndjson import MEDIA_TYPE, encode_lines
from vantage.web.streaming import UNCOMPRESSED, StreamingResponse

_BEGINNING: Final = "1970-01-01"
_END: Final = str(TIME_MS_MAX)


@get(
    "/api/export",
    summary="Everything as lines of JSON",
    responses={
        200: ResponseSpec(
            str,
            generate_examples=False,
            description=(
                "A JSON object a line: `type` is `sample` or `span`, and the other fields are those that /v1/metrics "
                "and /v1/spans take. Breaks off when it cannot go on."
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
    reads: NamedDependency[QueryContext],
    start: Annotated[
        str,
        Parameter(
            description=f"From here on; all unless given. {TIME_TEXT}", max_length=64, examples=examples("now-1h")
        ),
    ] = "",
    end: Annotated[
        str,
        Parameter(description=f"Before this; all unless given. {TIME_TEXT}", max_length=64, examples=examples("now")),
    ] = "",
    service: Annotated[str, Parameter(description="Of this service alone.", max_length=255)] = "",
    environment: Annotated[str, Parameter(description="Of this environment alone.", max_length=255)] = "",
) -> StreamingResponse:
    """Stream every sample and span that is kept, without loss and in no particular order."""
    wanted = time_range(start or _BEGINNING, end or _END, now_ms=reads.clock.now_ms())
    batches = reads.store.export(Selector(service, environment), wanted)
    # TimeseriesQuery for before the answer begins, so that "too many exports" is a status and not a broken connection.
    first = await anext(batches, None)
    return StreamingResponse(_pieces(first, batches), media_type=MEDIA_TYPE)


async def _pieces(first: Batch | None, batches: AsyncGenerator[Batch, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(batches):
        if first is None:
            return
        yield await asyncio.to_thread(encode_lines, first)
        async for batch in batches:
            yield await asyncio.to_thread(encode_lines, batch)


handlers = [export]
