"""Bodies that are packed: every cut is noticed, and every way to write a complete one is read."""

from __future__ import annotations

import gzip

import pytest
import zstandard

from vantage.core.errors import InputError
from vantage.ingest.body import unpack

TEXT = b'{"metrics": [%d]}' * 40
SKIPPABLE = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"


def streamed(*pieces: bytes, checksum: bool = False) -> bytes:
    """Return zstd data without its size in front, with a block for each piece."""
    compressor = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=False).compressobj()
    blocks = b"".join(
        compressor.compress(piece) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for piece in pieces
    )
    return blocks + compressor.flush()


COMPLETE = {
    "one frame": zstandard.ZstdCompressor().compress(TEXT),
    "streamed": streamed(TEXT),
    "streamed, with a checksum": streamed(TEXT, checksum=True),
    "many blocks": streamed(*[TEXT[start : start + 10] for start in range(0, len(TEXT), 10)]),
    "two frames": zstandard.ZstdCompressor().compress(TEXT[:100]) + streamed(TEXT[100:]),
    "skippable frames": SKIPPABLE + zstandard.ZstdCompressor().compress(TEXT) + SKIPPABLE,
}


@pytest.mark.parametrize("name", COMPLETE)
def test_complete_zstd_data_is_read_and_every_cut_of_it_refused(name: str) -> None:
    body = COMPLETE[name]
    assert unpack(body, "zstd") == TEXT
    frames = {0, len(SKIPPABLE), len(body) - len(SKIPPABLE), len(zstandard.ZstdCompressor().compress(TEXT[:100]))}
    for length in set(range(1, len(body))) - frames:  # a frame may end there
        with pytest.raises(InputError):
            unpack(body[:length], "zstd")


def test_a_repeated_byte_is_read() -> None:
    text = b" " * 1_000_000
    assert unpack(zstandard.ZstdCompressor(level=19).compress(text), "zstd") == text


@pytest.mark.parametrize("length", range(1, 40))
def test_gzip_data_cut_short_is_refused(length: int) -> None:
    with pytest.raises(InputError):
        unpack(gzip.compress(TEXT)[:-length], "gzip")
