"""The packed wire format: MessagePack, as far as it is needed, and the layout of a batch.

Reference: https://github.com/msgpack/msgpack/blob/master/spec.md. The server reads the same bytes; the files in
``tests/contracts/wire`` hold both to them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

MEDIA_TYPE = "application/vnd.vantage.v1+msgpack"

KNOWN_MAX = 2000

_float64 = struct.Struct(">Bd").pack
_u8 = struct.Struct(">BB").pack
_u16 = struct.Struct(">BH").pack
_u32 = struct.Struct(">BI").pack
_u64 = struct.Struct(">BQ").pack
_i8 = struct.Struct(">Bb").pack
_i16 = struct.Struct(">Bh").pack
_i32 = struct.Struct(">Bi").pack
_i64 = struct.Struct(">Bq").pack


class Packed(bytes):
    """A value in its packed form."""


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
        known: dict[tuple[Any, ...], tuple[bytes, bytes]] = {}
        body["spans"] = [_pack_span(span, known) for span in spans]
    if dropped:
        body["dropped"] = dropped
    return pack(body)


def pack(value: Any) -> bytes:
    """Dicts, lists, tuples, texts, numbers, booleans and None, in the shortest form; floats in 64 bits."""
    out = bytearray()  # a list of pieces would take ten times the memory
    _pack_into(value, out, {})
    return bytes(out)


def _pack_span(span: Mapping[str, Any], known: dict[tuple[Any, ...], tuple[bytes, bytes]]) -> Packed:
    """A span as a map. ``known`` holds the fields in which many spans are alike: attributes by their identity, which
    the spans of the batch keep alive."""
    key = (span.get("name"), span.get("kind"), span.get("status"), id(span.get("attributes")))
    alike = known.get(key)
    if alike is None:
        name, *rest = (
            _text(field) + pack(span[field]) if field in span else b""
            for field in ("name", "kind", "status", "attributes")
        )
        alike = known[key] = name, b"".join(rest)
    parent_span_id = span.get("parent_span_id")
    pieces = (
        _head(len(span), 0x80, 15, (0, 0xDE, 0xDF)),
        _TRACE_ID,
        _text(span["trace_id"]),
        _SPAN_ID,
        _text(span["span_id"]),
        alike[0],
        _START_NS,
        _integer(span["start_ns"]),
        _DURATION_NS,
        _integer(span["duration_ns"]),
        b"" if parent_span_id is None else _PARENT_SPAN_ID + _text(parent_span_id),
        alike[1],
    )
    return Packed(b"".join(pieces))


def _pack_into(value: Any, out: bytearray, known: dict[Any, bytes]) -> None:
    """``known`` holds what is said often: the keys of maps, by their text."""
    kind = type(value)
    if kind is str:
        out += _text(value)
    elif kind is int:
        out += _integer(value)
    elif kind is float:
        out += _float64(0xCB, value)
    elif kind is list or kind is tuple:
        out += _head(len(value), 0x90, 15, (0, 0xDC, 0xDD))
        for item in value:
            _pack_into(item, out, known)
    elif kind is dict:
        _pack_map(value, out, known)
    elif kind is Packed:
        out += value
    else:
        _pack_other(value, out, known)


def _pack_map(value: Mapping[str, Any], out: bytearray, known: dict[Any, bytes]) -> None:
    out += _head(len(value), 0x80, 15, (0, 0xDE, 0xDF))
    for key, item in value.items():
        packed = known.get(key)
        if packed is None:
            packed = _text(key)
            if len(known) < KNOWN_MAX:
                known[key] = packed
        out += packed
        if type(item) is str:
            out += _text(item)
        else:
            _pack_into(item, out, known)


def _pack_other(value: Any, out: bytearray, known: dict[Any, bytes]) -> None:
    """What is rare: None, booleans, other mappings, and classes made of those above."""
    if value is None:
        out += b"\xc0"
    elif isinstance(value, bool):
        out += b"\xc3" if value else b"\xc2"
    elif isinstance(value, Mapping):
        _pack_map(value, out, known)
    elif isinstance(value, str):
        out += _text(value)
    elif isinstance(value, int):
        out += _integer(value)
    elif isinstance(value, float):
        out += _float64(0xCB, value)
    elif isinstance(value, (list, tuple)):
        _pack_into(list(value), out, known)
    else:
        raise TypeError(f"MessagePack has no form for {type(value).__name__}")


def _text(value: str) -> bytes:
    raw = value.encode("utf-8", "replace")
    return _head(len(raw), 0xA0, 31, (0xD9, 0xDA, 0xDB)) + raw


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


_TRACE_ID, _SPAN_ID, _PARENT_SPAN_ID = _text("trace_id"), _text("span_id"), _text("parent_span_id")
_START_NS, _DURATION_NS = _text("start_ns"), _text("duration_ns")
