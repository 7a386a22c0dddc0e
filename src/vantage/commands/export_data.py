"""``vantage export``: the data of a running server as lines of JSON."""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast
from urllib.parse import urlencode

import zstandard

from vantage.commands.client import Client, open_client
from vantage.commands.console import Progress
from vantage.core.errors import StartupError, UnavailableError
from vantage.core.number_format import size
from vantage.core.printable import printable
from vantage.http_client import ConnectionFailed, ResponseStream

_GZIP_LEVEL: Final = 5


def run(arguments: argparse.Namespace) -> int:
    """Write the export to standard output, or to a file that appears when it is complete. Raises what the client
    raises, StartupError when the file cannot be written."""
    client = open_client(arguments)
    options = {name: getattr(arguments, name) for name in ("start", "end", "service", "environment")}
    path = f"/api/export?{urlencode({name: text for name, text in options.items() if text})}"
    try:
        # The request comes first: a refusal leaves no file behind.
        pieces = _pieces(client, client.stream(path))
        name = "standard output" if arguments.file == "-" else arguments.file
        try:
            with _opened(arguments.file) as file, Progress() as progress:
                lines, nbytes = _write(pieces, file, progress)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StartupError(f"{name} cannot be written: {error.strerror or error}") from error
    finally:
        client.close()
    print(f"{printable(name)}: {lines} samples and spans, {size(nbytes)} of lines", file=sys.stderr)
    return 0


def _pieces(client: Client, response: ResponseStream) -> Iterator[bytes]:
    """Yield the export. Raises UnavailableError when the connection breaks off."""
    try:
        yield from response
    except ConnectionFailed as error:
        raise UnavailableError(
            f"{client.url} broke the export off ({type(error.__cause__).__name__}): what was written is incomplete"
        ) from error


def _write(pieces: Iterator[bytes], file: BinaryIO, progress: Progress) -> tuple[int, int]:
    lines = nbytes = 0
    for piece in pieces:
        file.write(piece)
        lines += piece.count(b"\n")
        nbytes += len(piece)
        progress.show(f"{lines} samples and spans, {size(nbytes)}")
    return lines, nbytes


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    """Open a file, compressed as its suffix says. It has another name until it is complete."""
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    if path.exists() and not path.is_file():  # a device or a pipe is written to, never replaced
        with path.open("wb") as file:
            yield file
        return
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            if path.suffix == ".gz":
                with gzip.open(file, "wb", compresslevel=_GZIP_LEVEL) as compressed:
                    yield cast(BinaryIO, compressed)
            elif path.suffix == ".zst":
                with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as writer:
                    yield cast(BinaryIO, writer)
            else:
                yield file
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
