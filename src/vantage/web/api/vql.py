"""``/vql``: queries as text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from itertools import islice
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody
from litestar.response import Response

from vantage.core.errors import InputError
from vantage.query import completion
from vantage.query.context import QueryContext
from vantage.query.table_formats import (
    MEDIA_TYPES,
    PARQUET,
    PARQUET_MISSING,
    ROWS_PER_CHUNK,
    encode_table,
    has_parquet,
)
from vantage.query.vql import VqlResult, run_vql
from vantage.vql.check import TEXT_NBYTES_MAX
from vantage.web.api.params import problems
from vantage.web.problems import NotAcceptable
from vantage.web.streaming import CLIENT_GONE, UNCOMPRESSED, StreamingResponse, while_connected

PARAMS_MAX: Final = 100
JSON: Final = "json"
FORMATS: Final = (JSON, *MEDIA_TYPES)
ParamIn = str | int | float | bool | list[str | int | float]


class VqlIn(msgspec.Struct):
    """``params`` are the values of ``{name:Type}`` and ``:name`` in the query. ``format`` is json, csv, ndjson or
    parquet; by default that of the Accept header."""

    query: Annotated[str, msgspec.Meta(examples=["SELECT count() FROM metrics WHERE service_name = 'my-api'"])]
    params: Annotated[dict[str, ParamIn], msgspec.Meta(max_length=PARAMS_MAX)] = {}
    format: str = ""


class ColumnOut(msgspec.Struct):
    """``type`` is string, float, int, time (epoch milliseconds), bool or map."""

    name: str
    type: str


class RangeOut(msgspec.Struct):
    """Epoch milliseconds; ``end`` is exclusive."""

    start: int
    end: int


class VqlOut(msgspec.Struct):
    """The result. ``truncated``: there are more rows than the server returns, and the query has no LIMIT."""

    columns: list[ColumnOut]
    rows: list[list[Any]]
    row_count: int
    truncated: bool
    range: RangeOut
    warnings: list[str]
    elapsed_ms: float
    cached: bool


@post(
    "/vql/execute",
    summary="Run a query",
    status_code=200,
    responses={
        200: ResponseSpec(
            VqlOut,
            generate_examples=False,
            description=(
                "The table. As CSV, NDJSON or Parquet on request; the headers `Vantage-Truncated`, `Vantage-Range` and "
                "`Vantage-Warnings` then have what JSON has beside the rows."
            ),
        ),
        **problems(406),
    },
    tags=["vql"],
    opt={UNCOMPRESSED: True},
)
async def execute(
    request: Request[Any, Any, Any], context: NamedDependency[QueryContext], data: JSONBody[VqlIn]
) -> Response[Any]:
    """Run a SELECT over `metrics` or `spans`; `EXPLAIN SELECT` returns what it would read. See docs/vql.md."""
    kind = _format(data.format, request.headers.get("accept", ""))
    if kind == PARQUET and not has_parquet():
        raise NotAcceptable(PARQUET_MISSING)
    result = await while_connected(request.receive, run_vql(context, data.query, data.params))
    if result is None:
        return Response(b"", status_code=CLIENT_GONE)
    if kind == JSON:
        if len(result.table) <= ROWS_PER_CHUNK:
            body = await asyncio.to_thread(lambda: b"".join(_json(result)))
            return Response(body, media_type="application/json")
        return StreamingResponse(_stream(_json(result)), media_type="application/json")
    streamed = StreamingResponse(
        _stream(encode_table(result.table, kind)), media_type=MEDIA_TYPES[kind], filename=f"query.{kind}"
    )
    streamed.headers.update(_result_out(result))
    return streamed


class CompletionOut(msgspec.Struct):
    """``kind`` is column, function, keyword, table, metric, service, environment, tag or value; ``insert`` is the text
    to insert, escaped for VQL."""

    label: str
    insert: str
    kind: str


class CompletionsOut(msgspec.Struct):
    """The likeliest first. Each replaces the characters from ``start`` up to ``end``."""

    start: int
    end: int
    items: list[CompletionOut]


class CompletionsIn(msgspec.Struct):
    """``position`` is that of the cursor, in characters (code points); the end when absent."""

    query: Annotated[
        str,
        msgspec.Meta(max_length=TEXT_NBYTES_MAX, examples=["SELECT avg(value) FROM metrics WHERE unit = 'm"]),
    ]
    position: Annotated[int, msgspec.Meta(ge=0)] | None = None


@post("/vql/completions", summary="Complete a query", status_code=200, responses=problems(), tags=["vql"])
async def completions(context: NamedDependency[QueryContext], data: JSONBody[CompletionsIn]) -> CompletionsOut:
    """Return completions for editors: columns, functions, keywords, and stored metrics, services, tags and values."""
    result = await completion.complete(context, data.query, len(data.query) if data.position is None else data.position)
    items = [CompletionOut(item.label, item.insert, item.kind) for item in result.items]
    return CompletionsOut(result.start, result.end, items)


def _format(requested: str, accept: str) -> str:
    """Return the format of the body, or else the first known format of the Accept header."""
    if requested:
        if requested not in FORMATS:
            raise InputError(f"is not one of {', '.join(FORMATS)}", field="format")
        return requested
    accepted = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    kinds = {text: kind for kind, text in MEDIA_TYPES.items()}
    return next((kinds[name] for name in accepted if name in kinds), JSON)


def _json(result: VqlResult) -> Iterator[bytes]:
    """Yield ``VqlOut`` as JSON, ``ROWS_PER_CHUNK`` rows at a time: a complete answer may take 32 MiB."""
    table = result.table
    frame = VqlOut(
        columns=[ColumnOut(column.name, column.type) for column in table.columns],
        rows=[],
        row_count=len(table),
        truncated=table.truncated,
        range=RangeOut(result.time_range.start_ms, result.time_range.end_ms),
        warnings=list(result.warnings),
        elapsed_ms=result.elapsed_ms,
        cached=result.cached,
    )
    before, empty, after = msgspec.json.encode(frame).partition(b'"rows":[]')  # quotes inside texts are escaped
    start, rows = before + empty[:-1], table.rows()
    while chunk := list(islice(rows, ROWS_PER_CHUNK)):
        yield start + msgspec.json.encode(chunk)[1:-1]
        start = b","
    yield (start if not len(table) else b"") + b"]" + after


def _result_out(result: VqlResult) -> dict[str, str]:
    headers = {
        "Vantage-Truncated": "true" if result.table.truncated else "false",
        "Vantage-Range": f"{result.time_range.start_ms}-{result.time_range.end_ms}",
    }
    if result.warnings:
        headers["Vantage-Warnings"] = "; ".join(result.warnings).encode("ascii", "replace").decode()
    return headers


async def _stream(chunks: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    while (chunk := await asyncio.to_thread(next, chunks, b"")) != b"":
        yield chunk


handlers = [execute, completions]
