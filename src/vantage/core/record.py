"""The body of a journal row: one commit's samples and spans as bytes.

MessagePack array ``[slots, times, values, exemplar_positions, trace_ids, span_ids, spans]``; the first four are
little-endian uint32, int64, float64 and uint32 arrays as ``bin``, ids are ``bin`` of equal width, padded with NUL. A
CRC-32 of the body stands beside it in the row. Up to format 2 of the journal the ids were arrays of text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from vantage.core.exemplars import NO_EXEMPLARS, Exemplars
from vantage.core.idhash import Ids, encode_ids
from vantage.core.sample import ID_LENGTH_MAX
from vantage.core.sample_columns import SampleColumns
from vantage.core.span import Span, spans_nbytes


class _Body(msgspec.Struct, array_like=True):
    slots: bytes
    times: bytes
    values: bytes
    exemplar_positions: bytes
    trace_ids: bytes | list[str]
    span_ids: bytes | list[str]
    spans: list[Span]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class Record:
    """One commit: samples (``slot`` is the number of their series in the catalogue) and spans, which take about
    ``spans_nbytes`` of memory."""

    samples: SampleColumns
    spans: tuple[Span, ...]
    spans_nbytes: int

    @property
    def newest_ms(self) -> int:
        """Return the time of the newest sample or span, 0 where there is none."""
        times = [int(self.samples.time_ms.max())] if len(self.samples) else [0]
        return max(times + [span.start_ms for span in self.spans])


def encode(record: Record) -> bytes:
    """Return the record's body."""
    samples = record.samples
    return _encoder.encode(
        _Body(
            samples.slot.astype("<u4", copy=False).tobytes(),
            samples.time_ms.astype("<i8", copy=False).tobytes(),
            samples.value.astype("<f8", copy=False).tobytes(),
            samples.exemplars.position.astype("<u4").tobytes(),
            samples.exemplars.trace_id.tobytes(),
            samples.exemplars.span_id.tobytes(),
            list(record.spans),
        )
    )


def decode(body: bytes) -> Record:
    """Return the record of a body. Raises ValueError for bytes that ``encode`` did not write."""
    try:
        raw = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    slot, time_ms = np.frombuffer(raw.slots, "<u4"), np.frombuffer(raw.times, "<i8")
    value, position = np.frombuffer(raw.values, "<f8"), np.frombuffer(raw.exemplar_positions, "<u4")
    if not len(slot) == len(time_ms) == len(value):
        raise ValueError("columns of different length")
    exemplars = NO_EXEMPLARS
    if len(position):
        trace_id, span_id = _ids(raw.trace_ids, len(position)), _ids(raw.span_ids, len(position))
        exemplars = Exemplars(position.astype(np.int64), trace_id, span_id)
    elif raw.trace_ids or raw.span_ids:
        raise ValueError("exemplar columns of different length")
    return Record(SampleColumns(slot, time_ms, value, exemplars), tuple(raw.spans), spans_nbytes(raw.spans))


def _ids(packed: bytes | list[str], count: int) -> Ids:
    if isinstance(packed, list):
        if len(packed) != count:
            raise ValueError("exemplar columns of different length")
        return encode_ids(packed)
    width, rest = divmod(len(packed), count)
    if rest or not 1 <= width <= ID_LENGTH_MAX:
        raise ValueError("exemplar columns of different length")
    return np.frombuffer(packed, f"S{width}")
