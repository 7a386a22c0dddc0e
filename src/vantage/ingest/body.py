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
_ZSTD_SKIPPABLE: Final = 0x184D2A50
_ZSTD_HEADER_NBYTES_MAX: Final = 18
_ZSTD_REPEATED: Final = 1  # a block of one byte that is repeated


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
    if not _is_complete_zstd(body):
        raise InputError("is zstd data cut short", field="body")
    return unpacked


def _is_complete_zstd(body: bytes) -> bool:
    """Return whether valid zstd data ends where a frame does (RFC 8878, 3.1): the library does not say."""
    at, end = 0, len(body)
    while at < end:
        magic = int.from_bytes(body[at : at + 4], "little")
        if magic & ~0xF == _ZSTD_SKIPPABLE:
            at += 8 + int.from_bytes(body[at + 4 : at + 8], "little")
            continue
        header = body[at : at + _ZSTD_HEADER_NBYTES_MAX]
        has_checksum = len(header) > 4 and bool(header[4] & 0b100)
        try:
            at += zstandard.frame_header_size(header)
        except zstandard.ZstdError:
            return False
        is_last = False
        while not is_last:
            if at + 3 > end:
                return False
            block = int.from_bytes(body[at : at + 3], "little")
            is_last = bool(block & 1)
            at += 3 + (1 if block >> 1 & 0b11 == _ZSTD_REPEATED else block >> 3)
        at += 4 * has_checksum
    return at == end
