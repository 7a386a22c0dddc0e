"""The packed wire format: the necessary part of MessagePack, and the layout of a batch.

Reference: https://github.com/msgpack/msgpack/blob/master/spec.md. The files in ``tests/contracts/wire`` check that
agent and server agree.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

MEDIA_TYPE = "application/vnd.vantage.v1+msgpack"

TEXTS_CACHED_MAX = 2000

_float64 = struct.Struct(">Bd").pack
_u8 = struct.Struct(">BB").pack
_u16 = struct.Struct(">BH").pack
_u32 = struct.Struct(">BI").pack
_u64 = struct.Struct(">BQ").pack
_i8 = struct.Struct(">Bb").pack
_i16 = struct.Struct(">Bh").pack
_i32 = struct.Struct(">Bi").pack
_i64 = struct.Struct(">Bq").pack
# A struct packs many values in one call; one call per value would take most of the time.
_MANY = 64
_many_u64 = struct.Struct(">" + "BQ" * _MANY).pack
_many_float64 = struct.Struct(">" + "Bd" * _MANY).pack
_u64_u32 = struct.Struct(">10sQ13sI").pack


class Packed(bytes):
    """A value in its packed form."""


class SpanTemplate:
    """The common part of many spans of a batch: a name, and the fields that follow the span's own fields."""

    __slots__ = ("fields", "name", "packed")

    def __init__(self, name: str, fields: Mapping[str, Any]) -> None:
        self.name = name
        self.fields = fields
        self.packed: tuple[bytes, bytes, bytes, bytes] | None = None

    def pack(self) -> tuple[bytes, bytes, bytes, bytes]:
        """Return the map's header without and with a parent's id, the name, and the further fields, packed."""
        if self.packed is None:
            count = 5 + len(self.fields)
            self.packed = (
                _head(count, 0x80, 15, (0, 0xDE, 0xDF)),
                _head(count + 1, 0x80, 15, (0, 0xDE, 0xDF)),
                _text("name") + _text(self.name),
                b"".join([_text(name) + pack(value) for name, value in self.fields.items()]),
            )
        return self.packed


# Trace id, span id, the parent's id or '', start and duration in ns.
SpanRecord = tuple[str, str, str, int, int, SpanTemplate]


def span_fields(span: SpanRecord) -> dict[str, Any]:
    """Return the span as a map, as in JSON."""
    trace_id, span_id, parent_span_id, start_ns, duration_ns, template = span
    own: dict[str, Any] = {"trace_id": trace_id, "span_id": span_id, "name": template.name}
    own.update(start_ns=start_ns, duration_ns=duration_ns)
    if parent_span_id:
        own["parent_span_id"] = parent_span_id
    return {**own, **template.fields}


def pack_batch(
    *,
    batch_id: str,
    resource: Mapping[str, str],
    series: Sequence[tuple[str, str, str, Mapping[str, str]]],
    samples: Sequence[tuple[int, Sequence[int], Sequence[float], Sequence[tuple[int, str, str]]]],
    spans: Sequence[SpanRecord] = (),
    dropped: Mapping[str, int] | None = None,
) -> bytes:
    """Encode a batch. ``series`` are (metric, kind, unit, tags); ``samples`` (series index, times in ms, values,
    exemplars).

    Raises OverflowError for integers beyond 64 bits and TypeError for values that MessagePack cannot encode.
    """
    body: dict[str, Any] = {
        "batch": batch_id,
        "resource": resource,
        "series": series,
        "samples": [
            # Values are always float64: the reader's type is float, and the column compresses as well.
            (index, _pack_times(times), _pack_values(values), *([exemplars] if exemplars else []))
            for index, times, values, exemplars in samples
        ],
    }
    if spans:
        body["spans"] = Packed(_head(len(spans), 0x90, 15, (0, 0xDC, 0xDD)) + b"".join(map(_pack_span, spans)))
    if dropped:
        body["dropped"] = dropped
    return pack(body)


def pack(value: Any) -> bytes:
    """Encode dicts, lists, tuples, texts, numbers, booleans and None, in the shortest form; floats in 64 bits."""
    out = bytearray()  # a list of parts would take ten times the memory
    _pack_into(value, out, {})
    return bytes(out)


def _pack_span(span: SpanRecord) -> bytes:
    trace_id, span_id, parent_span_id, start_ns, duration_ns, template = span
    head, head_with_parent, name, rest = template.packed or template.pack()
    if 0xFFFF < duration_ns <= 0xFFFFFFFF < start_ns < 1 << 64:  # as nearly always
        times = _u64_u32(_START_NS_U64, start_ns, _DURATION_NS_U32, duration_ns)
    else:
        times = b"".join((_START_NS, _integer(start_ns), _DURATION_NS, _integer(duration_ns)))
    trace, own = trace_id.encode(), span_id.encode()
    if len(trace) == 32 and len(own) == 16:  # as in W3C's format
        ids = (_TRACE_ID_32, trace, _SPAN_ID_16, own)
    else:
        ids = (_TRACE_ID, _text(trace_id), _SPAN_ID, _text(span_id))
    if parent_span_id:
        return b"".join((head_with_parent, *ids, name, times, _PARENT_SPAN_ID, _text(parent_span_id), rest))
    return b"".join((head, *ids, name, times, rest))


def _pack_times(times_ms: Sequence[int]) -> Packed:
    if len(times_ms) >= _MANY and min(times_ms) > 0xFFFFFFFF and max(times_ms) < 1 << 64:  # as nearly always
        return _pack_column(times_ms, 0xCF, _many_u64, _u64)
    return Packed(pack(times_ms))


def _pack_values(values: Sequence[float]) -> Packed:
    # Always float64: the reader's type is float, and the column compresses as well.
    return _pack_column(values, 0xCB, _many_float64, _float64)


def _pack_column(
    values: Sequence[Any], marker: int, pack_many: Callable[..., bytes], pack_one: Callable[[int, Any], bytes]
) -> Packed:
    """Encode a list of numbers in the format of ``marker``."""
    end = len(values) // _MANY * _MANY
    runs = (values[start : start + _MANY] for start in range(0, end, _MANY))
    parts = [_head(len(values), 0x90, 15, (0, 0xDC, 0xDD))]
    parts += [pack_many(*chain.from_iterable(zip(repeat(marker), run))) for run in runs]
    parts += [pack_one(marker, value) for value in values[end:]]
    return Packed(b"".join(parts))


def _pack_into(value: Any, out: bytearray, known: dict[Any, bytes]) -> None:
    """Append a value. ``known`` caches the keys of maps, by their text."""
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
            if len(known) < TEXTS_CACHED_MAX:
                known[key] = packed
        out += packed
        if type(item) is str:
            out += _text(item)
        else:
            _pack_into(item, out, known)


def _pack_other(value: Any, out: bytearray, known: dict[Any, bytes]) -> None:
    """Append rare types: None, booleans, other mappings, and subclasses."""
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
        raise TypeError(f"MessagePack cannot encode {type(value).__name__}")


def _text(value: str) -> bytes:
    raw = value.encode("utf-8", "replace")
    length = len(raw)
    if length <= 31:
        return _SHORT_TEXTS[length] + raw
    return _head(length, 0xA0, 31, (0xD9, 0xDA, 0xDB)) + raw


def _head(length: int, short: int, short_max: int, forms: tuple[int, int, int]) -> bytes:
    """Return the header of a text, list or map; ``forms`` are its 8, 16 and 32 bit markers (0: there is none)."""
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


_SHORT_TEXTS = [bytes((0xA0 | length,)) for length in range(32)]
_TRACE_ID, _SPAN_ID, _PARENT_SPAN_ID = _text("trace_id"), _text("span_id"), _text("parent_span_id")
_TRACE_ID_32, _SPAN_ID_16 = _TRACE_ID + b"\xd9\x20", _SPAN_ID + b"\xb0"
_START_NS, _DURATION_NS = _text("start_ns"), _text("duration_ns")
_START_NS_U64, _DURATION_NS_U32 = _START_NS + b"\xcf", _DURATION_NS + b"\xce"
