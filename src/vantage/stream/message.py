"""The bytes of a batch in a broker's message.

MessagePack array ``[batch_id, identities, record]``: the canonical identities of its series, and its samples and spans
in the form of ``core.record``, where slots are positions among those identities. The header ``vantage-format`` is the
version of this form.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from vantage.core.batch import Batch
from vantage.core.record import Record, decode, encode
from vantage.core.sample_columns import SampleColumns
from vantage.core.series import Series, series_of

FORMAT: Final = 1
FORMAT_HEADER: Final = "vantage-format"
_SERIES_MAX: Final = 200_000  # remembered, so that most identities need not be decoded again


class _Body(msgspec.Struct, array_like=True):
    batch_id: str
    identities: list[bytes]
    record: bytes


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Body).decode


def encode_batch(batch: Batch) -> bytes:
    """Return the bytes of a batch."""
    samples = SampleColumns(batch.index, batch.time_ms, batch.value, batch.exemplars)
    return _encode(
        _Body(
            batch.batch_id,
            [series.canonical() for series in batch.series],
            encode(Record(samples, batch.spans, batch.spans_nbytes)),
        )
    )


class BatchDecoder:
    """Decodes batches. Series are shared between them, as stores expect; one thread at a time."""

    def __init__(self) -> None:
        self._series: dict[bytes, Series] = {}

    def decode(self, value: bytes, version: int) -> Batch:
        """Return the batch of a message. Raises ValueError with a reason that a person understands."""
        if version != FORMAT:
            raise ValueError(f"format {version} of messages is not known, only {FORMAT}: a newer version wrote it")
        try:
            body = _decode(value)
            record = decode(body.record)
            series = tuple(map(self._series_of, body.identities))
        except (msgspec.DecodeError, ValueError, OverflowError) as error:
            raise ValueError(f"the message is damaged: {error}") from error
        samples = record.samples
        if len(samples) and int(samples.slot.max()) >= len(series):
            raise ValueError("the message is damaged: a sample has no series")
        return Batch(
            series=series,
            index=samples.slot.astype(np.uint32),
            time_ms=samples.time_ms.astype(np.int64),
            value=samples.value.astype(np.float64),
            exemplars=samples.exemplars,
            spans=record.spans,
            batch_id=body.batch_id,
            spans_nbytes=record.spans_nbytes,
        )

    def _series_of(self, identity: bytes) -> Series:
        series = self._series.get(identity)
        if series is None:
            if len(self._series) >= _SERIES_MAX:
                self._series.clear()
            series = self._series[identity] = series_of(identity)
        return series
