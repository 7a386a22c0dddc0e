"""The packed wire format: MessagePack, as far as it is needed, and the layout of a batch.

Reference: https://github.com/msgpack/msgpack/blob/master/spec.md. The server reads the same bytes; the files in
``tests/contracts/wire`` hold both to them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

MEDIA_TYPE = "application/vnd.vantage.v1+msgpack"

_float64 = struct.Struct(">Bd").pack
_u8 = struct.Struct(">BB").pack
_u16 = struct.Struct(">BH").pack
_u32 = struct.Struct(">BI").pack
_u64 = struct.Struct(">BQ").pack
_i8 = struct.Struct(">Bb").pack
_i16 = struct.Struct(">Bh").pack
_i32 = struct.Struct(">Bi").pack
_i64 = struct.Struct(">Bq").pack


def pack_batch(
    *,
    batch_id: str,
    resource: Mapping[str, str],
    series: Sequence[tuple[str, str, str, Mapping[str, str]]],
    samples: Sequence[tuple[int, Sequence[int], Sequence[float], Sequence[tuple[int, str, str]]]],
    spans: Sequence[Mapping[str, Any]] = (),
    dropped: Mapping[str, int] | None = None,
) -> bytes:
    """One batch. ``series`` are (metric, kind, unit, tags); ``samples`` (series index, times in ms, values, links).

    Raises OverflowError for integers beyond 64 bits and TypeError for values MessagePack has no form for.
    """
    body: dict[str, Any] = {
        "batch": batch_id,
        "resource": resource,
        "series": series,
        "samples": [
            # Values are always float64: the reader's type is float, and the column compresses as well.
            (index, times, [float(value) for value in values], *([links] if links else []))
            for index, times, values, links in samples
        ],
    }
    if spans:
        body["spans"] = spans
    if dropped:
        body["dropped"] = dropped
    return pack(body)


def pack(value: Any) -> bytes:
    """Dicts, lists, tuples, texts, numbers, booleans and None, in the shortest form; floats in 64 bits."""
    out = bytearray()  # a list of pieces would take ten times the memory
    _pack_into(value, out)
    return bytes(out)


def _pack_into(value: Any, out: bytearray) -> None:
    if isinstance(value, str):
        raw = value.encode("utf-8", "replace")
        out += _head(len(raw), 0xA0, 31, (0xD9, 0xDA, 0xDB))
        out += raw
    elif isinstance(value, float):
        out += _float64(0xCB, value)
    elif value is None:
        out += b"\xc0"
    elif isinstance(value, bool):
        out += b"\xc3" if value else b"\xc2"
    elif isinstance(value, int):
        out += _integer(value)
    elif isinstance(value, Mapping):
        out += _head(len(value), 0x80, 15, (0, 0xDE, 0xDF))
        for key, item in value.items():
            _pack_into(key, out)
            _pack_into(item, out)
    elif isinstance(value, (list, tuple)):
        out += _head(len(value), 0x90, 15, (0, 0xDC, 0xDD))
        for item in value:
            _pack_into(item, out)
    else:
        raise TypeError(f"MessagePack has no form for {type(value).__name__}")


def _head(length: int, short: int, short_max: int, forms: tuple[int, int, int]) -> bytes:
    """The header of a text, list or map; ``forms`` are its 8, 16 and 32 bit markers (0: there is none)."""
    if length <= short_max:
        return bytes((short | length,))
    if length <= 0xFF and forms[0]:
        return _u8(forms[0], length)
    if length <= 0xFFFF:
        return _u16(forms[1], length)
    return _u32(forms[2], length)


def _integer(value: int) -> bytes:
    if value >= 0:
        if value < 0x80:
            return bytes((value,))
        for limit, marker, form in ((0xFF, 0xCC, _u8), (0xFFFF, 0xCD, _u16), (0xFFFFFFFF, 0xCE, _u32)):
            if value <= limit:
                return form(marker, value)
        if value < 1 << 64:
            return _u64(0xCF, value)
    else:
        if value >= -32:
            return bytes((value & 0xFF,))
        for limit, marker, form in ((1 << 7, 0xD0, _i8), (1 << 15, 0xD1, _i16), (1 << 31, 0xD2, _i32)):
            if value >= -limit:
                return form(marker, value)
        if value >= -(1 << 63):
            return _i64(0xD3, value)
    raise OverflowError("MessagePack integers have 64 bits")
