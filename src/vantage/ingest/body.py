"""Request bodies: decompressed within bounds."""

from __future__ import annotations

import zlib
from typing import Final

import zstandard

from vantage.core.errors import InputError

BODY_NBYTES_MAX: Final = 1 << 20  # as sent
UNPACKED_NBYTES_MAX: Final = 8 << 20  # after decompression
GZIP_MEMBERS_MAX: Final = 64
_ZSTD_WINDOW_MAX: Final = 1 << 23


class BodyTooLarge(InputError):
    """The body is larger than allowed, as sent or after decompression."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, field="body")


class UnknownEncoding(InputError):
    """The Content-Encoding is not supported."""


def unpack(body: bytes, encoding: str, *, nbytes_max: int = UNPACKED_NBYTES_MAX) -> bytes:
    """Return the body decompressed, never more than ``nbytes_max`` bytes, whatever the body claims.

    Raises BodyTooLarge, UnknownEncoding, or InputError for damaged data.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding in ("gzip", "x-gzip"):
        return _gunzip(body, nbytes_max)
    if encoding == "zstd":
        return _unzstd(body, nbytes_max)
    raise UnknownEncoding(f"{encoding[:40]!r} is not supported: use gzip, zstd or none", field="Content-Encoding")


def _gunzip(body: bytes, nbytes_max: int) -> bytes:
    parts: list[bytes] = []
    room = nbytes_max
    while body:  # a gzip file may have several members (RFC 1952, 2.2)
        if len(parts) >= GZIP_MEMBERS_MAX:
            raise InputError(f"has more than {GZIP_MEMBERS_MAX} gzip members", field="body")
        member = zlib.decompressobj(wbits=31)
        try:
            part = member.decompress(body, room + 1)
        except zlib.error as error:
            raise InputError(f"is no valid gzip data: {error}", field="body") from error
        room -= len(part)
        if room < 0:
            raise BodyTooLarge(f"is larger than {nbytes_max} bytes after decompression")
        if not member.eof:
            raise InputError("is gzip data cut short", field="body")
        parts.append(part)
        body = member.unused_data
    return b"".join(parts)


def _unzstd(body: bytes, nbytes_max: int) -> bytes:
    unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
    try:
        with unpacker.stream_reader(body, read_across_frames=True) as reader:
            unpacked = reader.read(nbytes_max + 1)
    except zstandard.ZstdError as error:
        raise InputError(f"is no valid zstd data: {error}", field="body") from error
    if len(unpacked) > nbytes_max:
        raise BodyTooLarge(f"is larger than {nbytes_max} bytes after decompression")
    return unpacked
