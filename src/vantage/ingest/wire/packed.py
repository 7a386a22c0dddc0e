"""The agent's packed format, ``application/vnd.vantage.v1+msgpack``: a series dictionary and columns.

``{batch, resource: {service_name, environment, service_version, instance},
series: [[metric, kind, unit, {tags}], …],
samples: [[series_index, [t_ms, …], [value, …], [[position, trace_id, span_id], …]], …],
spans: [{…}], dropped: {reason: n}}``. Golden byte files are in ``tests/contracts/wire``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta, Raw

from vantage.core.batch import BATCH_ID_LENGTH_MAX
from vantage.core.errors import InputError
from vantage.core.series import Series
from vantage.ingest.origin_limits import OriginLimits
from vantage.ingest.series_cache import Resource, SeriesCache, parse_msgpack_tags
from vantage.ingest.wire.decoded import (
    DecodedRequest,
    Rejection,
    SentIds,
    add_spans,
    decode_body,
    validate_samples,
)
from vantage.ingest.wire.native import Int64
from vantage.ingest.wire.spans import LooseSpans, WireSpan, to_span

MEDIA_TYPE: Final = "application/vnd.vantage.v1+msgpack"
DROP_REASONS_MAX: Final = 16


class _Resource(msgspec.Struct):
    service_name: str
    environment: str = ""
    service_version: str = ""
    instance: str = ""


class _Series(msgspec.Struct, array_like=True, gc=False):
    metric: str
    kind: str
    unit: str = ""
    tags: Raw = Raw(b"")


class _Link(msgspec.Struct, array_like=True, gc=False):
    position: Annotated[int, Meta(ge=0)]
    trace_id: str
    span_id: str = ""


class _Samples(msgspec.Struct, array_like=True):
    series: Annotated[int, Meta(ge=0)]
    times: list[Int64]
    values: list[float]
    links: list[_Link] = []


class _Packed(msgspec.Struct, kw_only=True):
    resource: _Resource
    series: list[_Series] = []
    samples: list[_Samples] = []
    batch: Annotated[str, Meta(max_length=BATCH_ID_LENGTH_MAX)] = ""
    dropped: Annotated[dict[str, Annotated[int, Meta(ge=0, le=2**53)]], Meta(max_length=DROP_REASONS_MAX)] = {}


class _TypedPacked(_Packed, kw_only=True):
    spans: list[WireSpan] = []


class _LoosePacked(_Packed, kw_only=True):
    spans: list[Raw] = []


class PackedFormat:
    """Decodes the packed format."""

    def __init__(self, cache: SeriesCache, limits: OriginLimits) -> None:
        self._cache = cache
        self._limits = limits
        self._typed = msgspec.msgpack.Decoder(_TypedPacked)
        self._loose = msgspec.msgpack.Decoder(_LoosePacked)
        self._spans = LooseSpans("msgpack")

    def receive(self, body: bytes, *, batch_id: str, now_ms: int, oldest_ms: int) -> DecodedRequest:
        """Decode a body. Its own batch id has precedence over ``batch_id``. Indexes of rejected samples count through
        all lists in order. Raises InputError when the body cannot be read.
        """
        packed, sent_spans = self._decode(body)
        batch_id = packed.batch or batch_id
        sent = packed.resource
        resource = Resource(sent.service_name, sent.environment, sent.service_version, sent.instance)
        origin = ("packed", resource.service_name, resource.environment, resource.service_version, resource.instance)
        known = self._cache.known(origin)
        series: list[Series | Rejection] = []
        new_series_nbytes = 0
        for entry in packed.series:
            key = (entry.metric, bytes(entry.tags), entry.kind, None, entry.unit)
            entry_series: Series | Rejection | None = known.get(key)
            if entry_series is None:
                entry_series = self._cache.resolve(known, key, resource, parse_msgpack_tags)
                new_series_nbytes += entry_series.nbytes if isinstance(entry_series, Series) else 0
            series.append(entry_series)
        position: dict[Series | Rejection, int] = {}  # of each that a sample has; two entries may be one series
        positions: list[int] = []
        counts: list[int] = []
        times: list[int] = []
        values: list[float] = []
        rows: list[int] = []
        trace_ids: list[str] = []
        span_ids: list[str] = []
        for i, column in enumerate(packed.samples):
            if column.series >= len(series):
                raise InputError(f"names series {column.series} of {len(series)}", field=f"samples[{i}][0]")
            if len(column.times) != len(column.values):
                raise InputError("holds times and values of different length", field=f"samples[{i}]")
            start = len(times)
            for link in sorted(column.links, key=lambda link: link.position) if column.links else ():
                if link.position >= len(column.times):
                    raise InputError("links a sample that is not there", field=f"samples[{i}][3]")
                rows.append(start + link.position)
                trace_ids.append(link.trace_id)
                span_ids.append(link.span_id)
            times += column.times
            values += column.values
            if column.times:
                positions.append(position.setdefault(series[column.series], len(position)))
                counts.append(len(column.times))
        received = DecodedRequest(dropped=packed.dropped)
        if sent_spans:
            spans = [wire if isinstance(wire, Rejection) else to_span(wire, resource) for wire in sent_spans]
            add_spans(received, spans, self._limits, now_ms=now_ms, oldest_ms=oldest_ms, batch_id=batch_id)
        validate_samples(
            received,
            list(position),
            np.repeat(np.array(positions, np.uint32), counts),
            times,
            values,
            SentIds(rows, trace_ids, span_ids),
            now_ms=now_ms,
            oldest_ms=oldest_ms,
            batch_id=batch_id,
            new_series_nbytes=new_series_nbytes,
        )
        return received

    def _decode(self, body: bytes) -> tuple[_Packed, Sequence[WireSpan | Rejection]]:
        decoded = decode_body(body, self._typed, self._loose)
        return decoded, self._spans.decode(decoded.spans) if isinstance(decoded, _LoosePacked) else decoded.spans
