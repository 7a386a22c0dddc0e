"""``vantage import``: sends what an export wrote to a running server."""

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
BATCH_NBYTES_MAX: Final = 1_000_000  # below what a server takes as it was sent, however little it can be packed
REASONS_SHOWN: Final = 10
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class _Sample(msgspec.Struct, tag_field="type", tag="sample", omit_defaults=True, gc=False):
    """As ``/v1/metrics`` takes it, but that the time must be told: sent again it must be the same sample."""

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
    """As ``/v1/spans`` takes it."""

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
    """What came of it."""

    accepted: int = 0
    rejected: int = 0
    skipped: int = 0
    reasons: list[str] = field(default_factory=list)

    def reason(self, text: str) -> None:
        if len(self.reasons) < REASONS_SHOWN:
            self.reasons.append(text)


@dataclass(slots=True)
class _PendingBatch:
    """Lines of one kind that go out together. What a batch holds follows from the lines alone, so that it is the same
    when the same file is sent again. So is its id: a hash of its content and of all batches before it, for a file may
    well hold the same lines twice."""

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

    def taken(self) -> tuple[bytes, list[int], str]:
        """The body, the line of each of its items, and the batch's id; nothing waits any more."""
        body = b'{"%b":[%b]}' % (self.name.encode(), b",".join(self.items))
        self.before = hashlib.sha256(self.before + body).digest()
        lines = self.lines
        self.items, self.lines, self.nbytes = [], [], 0
        return body, lines, f"import-{self.before.hex()[:48]}"


def run(arguments: argparse.Namespace) -> int:
    """Send a file, batch by batch; exit status 1 when the server rejected something. Raises InputError for the first
    line that cannot be read (after it nothing is sent), and what the client raises."""
    client = open_client(arguments)
    try:
        with _opened(arguments.file) as file, Progress() as progress:
            told = _Importer(client, progress, skip_invalid=arguments.skip_invalid).run(_lines(_unpacked(file)))
    finally:
        client.close()
    for text in told.reasons:
        notice(text)
    skipped = f", {told.skipped} lines skipped" if told.skipped else ""
    print(f"{told.accepted} accepted, {told.rejected} rejected{skipped}")
    return 1 if told.rejected else 0


class _Importer:
    """Groups lines, and sends what is full."""

    def __init__(self, client: Client, progress: Progress, *, skip_invalid: bool) -> None:
        self._client = client
        self._progress = progress
        self._skip_invalid = skip_invalid
        self._samples = _PendingBatch("/v1/metrics", "metrics")
        self._spans = _PendingBatch("/v1/spans", "spans")
        self._pack = zstandard.ZstdCompressor(level=1).compress
        self._told = _ImportResult()

    def run(self, lines: Iterator[tuple[int, bytes]]) -> _ImportResult:
        for number, line in lines:
            try:
                item, waiting = self._read(line)
            except InputError as error:
                where = f"line {number}: {error}"
                if not self._skip_invalid:
                    raise InputError(
                        f"{where} ({self._told.accepted} before it were accepted, nothing after it was sent)"
                    ) from error
                self._told.skipped += 1
                self._told.reason(where)
                continue
            if not waiting.has_room(item):
                self._send(waiting)
            waiting.add(item, number)
        for waiting in (self._samples, self._spans):
            if waiting.items:
                self._send(waiting)
        return self._told

    def _read(self, line: bytes) -> tuple[bytes, _PendingBatch]:
        """What is sent of a line, and with which others. Raises InputError naming the field."""
        try:
            one = _decode(line)
        except DECODE_ERRORS as error:
            raise input_error(error) from error
        item = _encode(one)
        if len(item) + 100 > BATCH_NBYTES_MAX:
            raise InputError("is larger than a server takes")
        return item, self._samples if isinstance(one, _Sample) else self._spans

    def _send(self, waiting: _PendingBatch) -> None:
        body, lines, batch_id = waiting.taken()
        answer = self._client.post(
            waiting.path,
            self._pack(body),
            {
                "Content-Type": "application/json",
                "Content-Encoding": "zstd",
                "Idempotency-Key": batch_id,
            },
            on_wait=lambda reason: self._progress.show(f"waiting: {reason}"),
        )
        try:
            self._told.accepted += answer["accepted"]
            self._told.rejected += answer["rejected"]
            for error in answer["errors"]:
                self._told.reason(f"line {lines[error['index']]} rejected: {error['field']}: {error['reason']}")
        except (KeyError, TypeError, IndexError) as error:
            raise UnavailableError(f"{self._client.url} answered something else: is it Vantage?") from error
        self._progress.show(f"{self._told.accepted} accepted, {self._told.rejected} rejected")


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


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    """The file's content, whether packed or not. Raises InputError for packed data that is damaged or cut short."""
    blocks = _blocks(file)
    first = next(blocks, b"")
    fresh: Callable[[], Any]
    if first.startswith(_GZIP):
        fresh = partial(zlib.decompressobj, wbits=31)
    elif first.startswith(_ZSTD):
        fresh = zstandard.ZstdDecompressor().decompressobj
    else:
        yield first
        yield from blocks
        return
    unpacker, rest = fresh(), first
    try:
        while True:
            yield unpacker.decompress(rest)
            rest = unpacker.unused_data if unpacker.eof else b""
            if not rest and not (rest := next(blocks, b"")):
                break
            if unpacker.eof:  # several may lie one behind the other
                unpacker = fresh()
    except (zlib.error, zstandard.ZstdError) as error:
        raise InputError(f"the file is damaged: {error}") from error
    if not unpacker.eof:
        raise InputError("the file is cut short: its packed data has no end")


def _lines(blocks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines that hold something, with their numbers. Raises InputError for one that has no end."""
    number, rest = 0, b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            number += 1
            if line.strip():
                yield number, line
        if len(rest) > LINE_NBYTES_MAX:
            raise InputError(f"line {number + 1}: is longer than {LINE_NBYTES_MAX} bytes: this is no export of Vantage")
    if rest.strip():
        yield number + 1, rest
