"""``vantage query``: VQL from the shell, on a running server or on a data folder that no server uses."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from vantage import log
from vantage.commands.client import Client, open_client
from vantage.commands.config import load
from vantage.commands.console import Progress, notice, paint
from vantage.core.clock import SystemClock
from vantage.core.errors import DataFolderInUse, InputError, QueryError, StartupError, UnavailableError
from vantage.core.number_format import duration_ms, duration_s
from vantage.core.printable import printable
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.table_formats import MEDIA_TYPES, PARQUET, PARQUET_MISSING, encode_table, has_parquet
from vantage.query.vql import VqlResult, run_vql
from vantage.storage.open import open_metadata, open_telemetry_store
from vantage.telemetry import Telemetry
from vantage.vql.table import Table, TableColumn

TABLE: Final = "table"
JSON: Final = "json"
FORMATS: Final = (TABLE, JSON, *MEDIA_TYPES)
TEXT_LENGTH_MAX: Final = 1 << 20
_TICK_S: Final = 0.1
_CONTEXT_LENGTH: Final = 100  # letters of a line that an error shows
_WIDTH_UNLIMITED: Final = 10_000  # of a table that is written to no terminal


@dataclass(frozen=True, slots=True)
class _Query:
    text: str
    params: dict[str, Any]


def run(arguments: argparse.Namespace) -> int:
    """Run a query and print its result. Raises what the client and the store raise, InputError for options that do not
    fit together."""
    if arguments.url and arguments.data:
        raise InputError("give --url or --data, not both")
    if arguments.format == PARQUET and arguments.output == "-" and sys.stdout.isatty():
        raise InputError("Parquet cannot be printed on a terminal: give --output FILE", field="--format")
    query = _Query(_text(arguments.query), dict(_param(text) for text in arguments.param))
    try:
        with _show_elapsed():
            result = _query_folder(arguments, query) if arguments.data else _query_server(arguments, query)
    except QueryError as error:
        _print_error(error, query.text)
        return 1
    try:
        _write(result, arguments.format, arguments.output)
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise UnavailableError(f"the result cannot be written as {arguments.format}: {error}") from error
    return 0


def _text(query: str) -> str:
    if query != "-":
        return query
    text = sys.stdin.read(TEXT_LENGTH_MAX)
    if sys.stdin.read(1):
        raise InputError("standard input is longer than any query may be")
    return text


def _param(text: str) -> tuple[str, Any]:
    """Parse ``name=value``; the value is JSON where it parses as such (5, true, ["a", "b"]), or else text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"{text!r} is not written as name=value", field="--param")
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return name, value
    return name, value if isinstance(parsed, dict) or parsed is None else parsed


def _query_server(arguments: argparse.Namespace, query: _Query) -> VqlResult:
    client = open_client(arguments)
    body = json.dumps({"query": query.text, "params": query.params, "format": JSON}).encode()
    try:
        return _request(client, body)
    except UnavailableError as error:
        if arguments.url:
            raise
        raise UnavailableError(f"{error}; to read a folder that no server uses, give --data DIR") from error
    finally:
        client.close()


def _request(client: Client, body: bytes) -> VqlResult:
    response = client.request("/vql/execute", body)
    try:
        columns = tuple(TableColumn(column["name"], column["type"]) for column in response["columns"])
        data = tuple([row[index] for row in response["rows"]] for index in range(len(columns)))
        return VqlResult(
            Table(columns, data, truncated=response["truncated"]),
            TimeRange(response["range"]["start"], response["range"]["end"]),
            tuple(response["warnings"]),
            response["elapsed_ms"],
            response["cached"],
        )
    except (KeyError, TypeError, IndexError) as error:
        raise UnavailableError(f"{client.url} answered with something else than a table: is it Vantage?") from error


def _query_folder(arguments: argparse.Namespace, query: _Query) -> VqlResult:
    settings = load(arguments).settings
    data = Path(settings.data)
    if not data.is_dir():
        raise StartupError(f"{data} is no folder")
    log.configure(log_format="console", log_level="error")
    clock, telemetry = SystemClock(), Telemetry()
    store = open_telemetry_store(settings, clock=clock, telemetry=telemetry)

    async def execute() -> VqlResult:
        metadata = open_metadata(
            settings.metadata_url, data=data, clock=clock
        )  # not used by a query, and so not opened
        async with store:
            context = QueryContext(store, metadata, clock, telemetry, timeout_s=settings.query_timeout_s)
            return await run_vql(context, query.text, query.params)

    try:
        return asyncio.run(execute())
    except DataFolderInUse as error:
        raise DataFolderInUse(f"{error}; query that server instead, with --url or without --data") from error


def _write(result: VqlResult, kind: str, output: str) -> None:
    if kind == PARQUET and not has_parquet():
        raise StartupError(PARQUET_MISSING.replace(" on the server", ""))
    pieces = _encode_file(result, kind, terminal=output == "-" and sys.stdout.isatty())
    try:
        if output == "-":
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        else:
            with Path(output).open("wb") as file:
                file.writelines(pieces)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StartupError(f"{output} cannot be written: {error.strerror or error}") from error
    for warning in result.warnings:
        notice(f"warning: {warning}")
    if kind == TABLE:
        from vantage.commands.grid import rfc3339

        start, end = (rfc3339(at) for at in (result.time_range.start_ms, result.time_range.end_ms))
        rows = "1 row" if len(result.table) == 1 else f"{len(result.table)} rows"
        cached = ", from the cache" if result.cached else ""
        print(f"{rows}, {start} to {end}, {duration_ms(result.elapsed_ms)}{cached}", file=sys.stderr)


def _encode_file(result: VqlResult, kind: str, *, terminal: bool) -> Iterator[bytes]:
    table = result.table
    if kind == TABLE:
        from vantage.commands.grid import grid

        if terminal:
            width = shutil.get_terminal_size().columns
            lines = grid(table, width=width, paint=lambda text, style: paint(text, style, sys.stdout))
        else:
            lines = grid(table, width=_WIDTH_UNLIMITED)
        yield from (f"{line}\n".encode(errors="replace") for line in lines)
    elif kind == JSON:
        names = [column.name for column in table.columns]
        yield msgspec.json.format(msgspec.json.encode([dict(zip(names, row, strict=True)) for row in table.rows()]))
        yield b"\n"
    else:
        yield from encode_table(table, kind)


def _print_error(error: QueryError, text: str) -> None:
    """Print an error, the line that it is about, and a mark below its column."""
    from rich.cells import cell_len

    notice(str(error))
    lines = text.splitlines()
    if error.line is None or error.column is None or not 1 <= error.line <= len(lines):
        return
    line = lines[error.line - 1].replace("\t", " ")
    start = max(0, error.column - 1 - _CONTEXT_LENGTH // 2)
    excerpt = line[start : start + _CONTEXT_LENGTH]
    mark = paint("^", "bold red", sys.stderr)
    print(f"  {printable(excerpt)}\n  {' ' * cell_len(line[start : error.column - 1])}{mark}", file=sys.stderr)


@contextmanager
def _show_elapsed() -> Iterator[None]:
    """Show the time that has passed while a query takes long."""
    ended = threading.Event()
    began_s = time.monotonic()

    def show() -> None:
        with Progress() as progress:
            while not ended.wait(_TICK_S):
                progress.show(f"running for {duration_s(round(time.monotonic() - began_s))}")

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
