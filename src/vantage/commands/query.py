"""``vantage query``: VQL from the shell, of a running server or of a data folder that none holds."""

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
from vantage.commands.console import Progress, notice, paint, printable
from vantage.core.clock import SystemClock
from vantage.core.errors import DataFolderInUse, InputError, QueryError, StartupError, UnavailableError
from vantage.core.number_format import duration_ms, duration_s
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
_SHOWN: Final = 100
_WIDE: Final = 10_000  # of a table that is written to no terminal


@dataclass(frozen=True, slots=True)
class _Question:
    text: str
    params: dict[str, Any]


def run(arguments: argparse.Namespace) -> int:
    """Ask and print. Raises what the client and the store raise, InputError for options that do not fit."""
    if arguments.url and arguments.data:
        raise InputError("give --url or --data, not both")
    if arguments.format == PARQUET and arguments.output == "-" and sys.stdout.isatty():
        raise InputError("Parquet is not for a terminal: give --output FILE", field="--format")
    asked = _Question(_text(arguments.query), dict(_param(text) for text in arguments.param))
    try:
        with _show_elapsed():
            answer = _ask_folder(arguments, asked) if arguments.data else _ask_server(arguments, asked)
    except QueryError as error:
        _show(error, asked.text)
        return 1
    _write(answer, arguments.format, arguments.output)
    return 0


def _text(query: str) -> str:
    if query != "-":
        return query
    text = sys.stdin.read(TEXT_LENGTH_MAX)
    if sys.stdin.read(1):
        raise InputError("standard input is longer than any query may be")
    return text


def _param(text: str) -> tuple[str, Any]:
    """``name=value``; the value is JSON where it can be read as such (5, true, ["a", "b"]), or else text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"{text!r} is not written as name=value", field="--param")
    try:
        found = json.loads(value)
    except ValueError:
        return name, value
    return name, value if isinstance(found, dict) or found is None else found


def _ask_server(arguments: argparse.Namespace, asked: _Question) -> VqlResult:
    client = open_client(arguments)
    body = json.dumps({"query": asked.text, "params": asked.params, "format": JSON}).encode()
    try:
        return _decoded(client, body)
    except UnavailableError as error:
        if arguments.url:
            raise
        raise UnavailableError(f"{error}; to read a folder that no server holds, give --data DIR") from error
    finally:
        client.close()


def _decoded(client: Client, body: bytes) -> VqlResult:
    answer = client.request("/vql/execute", body)
    try:
        columns = tuple(TableColumn(one["name"], one["type"]) for one in answer["columns"])
        data = tuple([row[place] for row in answer["rows"]] for place in range(len(columns)))
        return VqlResult(
            Table(columns, data, truncated=answer["truncated"]),
            TimeRange(answer["range"]["start"], answer["range"]["end"]),
            tuple(answer["warnings"]),
            answer["elapsed_ms"],
            answer["cached"],
        )
    except (KeyError, TypeError, IndexError) as error:
        raise UnavailableError(f"{client.url} answered with something else than a table: is it Vantage?") from error


def _ask_folder(arguments: argparse.Namespace, asked: _Question) -> VqlResult:
    settings = load(arguments).settings
    data = Path(settings.data)
    if not data.is_dir():
        raise StartupError(f"{data} is no folder")
    log.configure(log_format="console", log_level="error")
    clock, telemetry = SystemClock(), Telemetry()
    store = open_telemetry_store(settings, clock=clock, telemetry=telemetry)

    async def ask() -> VqlResult:
        metadata = open_metadata(settings.metadata_url, data=data, clock=clock)  # asked nothing, so not opened
        async with store:
            reads = QueryContext(store, metadata, clock, telemetry, timeout_s=settings.query_timeout_s)
            return await run_vql(reads, asked.text, asked.params)

    try:
        return asyncio.run(ask())
    except DataFolderInUse as error:
        raise DataFolderInUse(f"{error}; ask that server instead, with --url or without --data") from error


def _write(answer: VqlResult, kind: str, output: str) -> None:
    if kind == PARQUET and not has_parquet():
        raise StartupError(PARQUET_MISSING.replace(" on the server", ""))
    made = _encode_file(answer, kind, terminal=output == "-" and sys.stdout.isatty())
    try:
        if output == "-":
            for piece in made:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        else:
            with Path(output).open("wb") as file:
                file.writelines(made)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StartupError(f"{output} cannot be written: {error.strerror or error}") from error
    for warning in answer.warnings:
        notice(f"warning: {warning}")
    if kind == TABLE:
        from vantage.commands.grid import rfc3339

        start, end = (rfc3339(at) for at in (answer.time_range.start_ms, answer.time_range.end_ms))
        rows = "1 row" if len(answer.table) == 1 else f"{len(answer.table)} rows"
        cached = ", from the cache" if answer.cached else ""
        print(f"{rows}, {start} to {end}, {duration_ms(answer.elapsed_ms)}{cached}", file=sys.stderr)


def _encode_file(answer: VqlResult, kind: str, *, terminal: bool) -> Iterator[bytes]:
    table = answer.table
    if kind == TABLE:
        from vantage.commands.grid import grid

        if terminal:
            width = shutil.get_terminal_size().columns
            lines = grid(table, width=width, paint=lambda text, style: paint(text, style, sys.stdout))
        else:
            lines = grid(table, width=_WIDE)
        yield from (f"{line}\n".encode(errors="replace") for line in lines)
    elif kind == JSON:
        names = [column.name for column in table.columns]
        yield msgspec.json.format(msgspec.json.encode([dict(zip(names, row, strict=True)) for row in table.rows()]))
        yield b"\n"
    else:
        yield from encode_table(table, kind)


def _show(error: QueryError, text: str) -> None:
    """The error, the line it is about and a mark below the place."""
    from rich.cells import cell_len

    notice(str(error))
    lines = text.splitlines()
    if error.line is None or error.column is None or error.line > len(lines):
        return
    line = lines[error.line - 1].replace("\t", " ")
    start = max(0, error.column - 1 - _SHOWN // 2)
    shown = line[start : start + _SHOWN]
    mark = paint("^", "bold red", sys.stderr)
    print(f"  {printable(shown)}\n  {' ' * cell_len(line[start : error.column - 1])}{mark}", file=sys.stderr)


@contextmanager
def _show_elapsed() -> Iterator[None]:
    """Say how long it has been taking, while it takes long."""
    ended = threading.Event()
    began_s = time.monotonic()

    def tell() -> None:
        with Progress() as progress:
            while not ended.wait(_TICK_S):
                progress.show(f"asking for {duration_s(round(time.monotonic() - began_s))}")

    thread = threading.Thread(target=tell, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
