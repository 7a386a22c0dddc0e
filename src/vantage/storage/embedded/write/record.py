"""The body of a journal row: one commit's samples and spans as bytes.

MessagePack array ``[slots, times, values, link_positions, link_trace_ids, link_span_ids, spans]``; the first four are
little-endian uint32, int64, float64 and uint32 arrays as ``bin``. A CRC-32 of the body stands beside it in the row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from vantage.core.batch import F64, I64, NO_LINKS, U32, Links
from vantage.core.span import Span


class _Body(msgspec.Struct, array_like=True):
    slots: bytes
    times: bytes
    values: bytes
    link_positions: bytes
    link_trace_ids: list[str]
    link_span_ids: list[str]
    spans: list[Span]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class Record:
    """One commit: sample columns (``slot`` is the series' number in the catalogue) and spans."""

    slot: U32
    time_ms: I64
    value: F64
    links: Links
    spans: tuple[Span, ...]


def encode(record: Record) -> bytes:
    """The record's body."""
    return _encoder.encode(
        _Body(
            record.slot.astype("<u4", copy=False).tobytes(),
            record.time_ms.astype("<i8", copy=False).tobytes(),
            record.value.astype("<f8", copy=False).tobytes(),
            record.links.position.astype("<u4", copy=False).tobytes(),
            list(record.links.trace_id),
            list(record.links.span_id),
            list(record.spans),
        )
    )


def decode(body: bytes) -> Record:
    """Raises ValueError when the body is none of ours."""
    try:
        raw = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    slot, time_ms = np.frombuffer(raw.slots, "<u4"), np.frombuffer(raw.times, "<i8")
    value, position = np.frombuffer(raw.values, "<f8"), np.frombuffer(raw.link_positions, "<u4")
    if not len(slot) == len(time_ms) == len(value):
        raise ValueError("columns of different length")
    if not len(position) == len(raw.link_trace_ids) == len(raw.link_span_ids):
        raise ValueError("link columns of different length")
    links = Links(position, tuple(raw.link_trace_ids), tuple(raw.link_span_ids)) if len(position) else NO_LINKS
    return Record(slot, time_ms, value, links, tuple(raw.spans))
