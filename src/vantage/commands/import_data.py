"""``vantage import``: send an export to a running server."""

from __future__ import annotations

import argparse
import hashlib
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import msgspec
import zstandard
from msgspec import Meta

from vantage.commands.client import Client, open_client
from vantage.commands.console import Progress, notice
from vantage.core.errors import InputError, UnavailableError
from vantage.ingest.wire.decoded import DECODE_ERRORS, input_error

READ_NBYTES: Final = 1 << 17
LINE_NBYTES_MAX: Final = 1 << 20
BATCH_ITEMS_MAX: Final = 5000
BATCH_NBYTES_MAX: Final = 1_000_000  # within the server's limit, however badly it compresses
REASONS_SHOWN: Final = 10
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class _Sample(msgspec.Struct, tag_field="type", tag="sample", omit_defaults=True, gc=False):
    """As ``/v1/metrics`` accepts it, but the timestamp is required: sent again it must be the same sample."""

    metric_name: str
    value: float
    timestamp: _Int64
    service_name: str
    environment: str = ""
    metric_type: str = "gauge"
    unit: str = ""
    tags: dict[str, str] = {}
    service_version: str = ""
    instance: str = ""
    trace_id: str = ""
    span_id: str = ""


class _Span(msgspec.Struct, tag_field="type", tag="span", omit_defaults=True, gc=False):
    """As ``/v1/spans`` accepts it."""

    trace_id: str
    span_id: str
    name: str
    start_ns: _Int64
    duration_ns: _Int64
    service_name: str
    environment: str = ""
    kind: str = "internal"
    status: str = "unset"
    parent_span_id: str = ""
    service_version: str = ""
    instance: str = ""
    attributes: dict[str, str | int | float | bool | None] = {}


_decode: Final = msgspec.json.Decoder(_Sample | _Span).decode
_encode: Final = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _ImportResult:
    """Counts of an import, and the first reasons for what was not accepted."""

    accepted: int = 0
    rejected: int = 0
    skipped: int = 0
    reasons: list[str] = field(default_factory=list)

    def reason(self, text: str) -> None:
        if len(self.reasons) < REASONS_SHOWN:
            self.reasons.append(text)


@dataclass(slots=True)
class _PendingBatch:
    """Lines of one kind that are sent together. The lines alone decide what a batch contains, so that it is the same
    when the file is sent again. So is its id: a hash of its content and of all batches before it, since a file may
    contain the same lines twice."""

    path: str
    name: str  # of the list in the body
    before: bytes = b""
    items: list[bytes] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    nbytes: int = 0

    def has_room(self, item: bytes) -> bool:
        return len(self.items) < BATCH_ITEMS_MAX and self.nbytes + len(item) + 1 <= BATCH_NBYTES_MAX

    def add(self, item: bytes, line: int) -> None:
        self.items.append(item)
        self.lines.append(line)
        self.nbytes += len(item) + 1

    def drain(self) -> tuple[bytes, list[int], str]:
        """Return the body, the line of each of its items, and the batch's id; the batch is empty afterwards."""
        body = b'{"%b":[%b]}' % (self.name.encode(), b",".join(self.items))
        self.before = hashlib.sha256(self.before + body).digest()
        lines = self.lines
        self.items, self.lines, self.nbytes = [], [], 0
        return body, lines, f"import-{self.before.hex()[:48]}"


def run(arguments: argparse.Namespace) -> int:
    """Send a file in batches; exit status 1 when the server rejected any line. Raises InputError for the first line
    that cannot be read (nothing after it is sent), and what the client raises."""
    client = open_client(arguments)
    try:
        with _opened(arguments.file) as file, Progress() as progress:
            result = _Importer(client, progress, skip_invalid=arguments.skip_invalid).run(_lines(_decompress(file)))
    finally:
        client.close()
    for text in result.reasons:
        notice(text)
    skipped = f", {result.skipped} lines skipped" if result.skipped else ""
    print(f"{result.accepted} accepted, {result.rejected} rejected{skipped}")
    return 1 if result.rejected else 0


class _Importer:
    """Groups lines into batches, and sends each when it is full."""

    def __init__(self, client: Client, progress: Progress, *, skip_invalid: bool) -> None:
        self._client = client
        self._progress = progress
        self._skip_invalid = skip_invalid
        self._samples = _PendingBatch("/v1/metrics", "metrics")
        self._spans = _PendingBatch("/v1/spans", "spans")
        self._compress = zstandard.ZstdCompressor(level=1).compress
        self._result = _ImportResult()

    def run(self, lines: Iterator[tuple[int, bytes]]) -> _ImportResult:
        for number, line in lines:
            try:
                item, batch = self._read(line)
            except InputError as error:
                location = f"line {number}: {error}"
                if not self._skip_invalid:
                    raise InputError(
                        f"{location} ({self._result.accepted} before it were accepted, nothing after it was sent)"
                    ) from error
                self._result.skipped += 1
                self._result.reason(location)
                continue
            if not batch.has_room(item):
                self._send(batch)
            batch.add(item, number)
        for batch in (self._samples, self._spans):
            if batch.items:
                self._send(batch)
        return self._result

    def _read(self, line: bytes) -> tuple[bytes, _PendingBatch]:
        """Return what is sent of a line, and its batch. Raises InputError naming the field."""
        try:
            row = _decode(line)
        except DECODE_ERRORS as error:
            raise input_error(error) from error
        item = _encode(row)
        if len(item) + 100 > BATCH_NBYTES_MAX:
            raise InputError("is larger than a server accepts")
        return item, self._samples if isinstance(row, _Sample) else self._spans

    def _send(self, batch: _PendingBatch) -> None:
        body, lines, batch_id = batch.drain()
        response = self._client.post(
            batch.path,
            self._compress(body),
            {
                "Content-Type": "application/json",
                "Content-Encoding": "zstd",
                "Idempotency-Key": batch_id,
            },
            on_wait=lambda reason: self._progress.show(f"waiting: {reason}"),
        )
        try:
            self._result.accepted += response["accepted"]
            self._result.rejected += response["rejected"]
            for error in response["errors"]:
                self._result.reason(f"line {lines[error['index']]} rejected: {error['field']}: {error['reason']}")
        except (KeyError, TypeError, IndexError) as error:
            raise UnavailableError(f"{self._client.url} answered with something else: is it Vantage?") from error
        self._progress.show(f"{self._result.accepted} accepted, {self._result.rejected} rejected")


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115 - closed below; only opening may fail like this
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}") from error
    with file:
        yield file


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while True:
        try:
            block = file.read(READ_NBYTES)
        except OSError as error:
            raise InputError(f"the file cannot be read: {error.strerror}") from error
        if not block:
            return
        yield block


def _decompress(file: BinaryIO) -> Iterator[bytes]:
    """Yield the file's content, decompressed. Raises InputError for compressed data that is damaged or truncated."""
    blocks = _blocks(file)
    first = next(blocks, b"")
    new_decompressor: Callable[[], Any]
    if first.startswith(_GZIP):
        new_decompressor = partial(zlib.decompressobj, wbits=31)
    elif first.startswith(_ZSTD):
        new_decompressor = zstandard.ZstdDecompressor().decompressobj
    else:
        yield first
        yield from blocks
        return
    decompressor, rest = new_decompressor(), first
    try:
        while True:
            yield decompressor.decompress(rest)
            rest = decompressor.unused_data if decompressor.eof else b""
            if not rest and not (rest := next(blocks, b"")):
                break
            if decompressor.eof:  # several streams may follow each other
                decompressor = new_decompressor()
    except (zlib.error, zstandard.ZstdError) as error:
        raise InputError(f"the file is damaged: {error}") from error
    if not decompressor.eof:
        raise InputError("the file is cut short: its compressed data has no end")


def _lines(blocks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers. Raises InputError for one that is too long."""
    number, rest = 0, b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            number += 1
            if line.strip():
                yield number, line
        if len(rest) > LINE_NBYTES_MAX:
            raise InputError(
                f"line {number + 1}: is longer than {LINE_NBYTES_MAX} bytes: this is not an export of Vantage"
            )
    if rest.strip():
        yield number + 1, rest
