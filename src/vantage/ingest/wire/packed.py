"""The agent's packed format, ``application/vnd.vantage.v1+msgpack``: a series dictionary and columns.

``{batch, resource: {service_name, environment, service_version, instance},
series: [[metric, kind, unit, {tags}], …],
samples: [[series_index, [t_ms, …], [value, …], [[position, trace_id, span_id], …]], …],
spans: [{…}], dropped: {reason: n}}``. Golden byte files are in ``tests/contracts/wire``.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from vantage.core.batch import BATCH_ID_LENGTH_MAX
from vantage.core.errors import InputError
from vantage.core.series import Series
from vantage.ingest.series_cache import Key, Resource, SeriesCache, parse_msgpack_tags
from vantage.ingest.wire.decoded import (
    DECODE_ERRORS,
    DecodedRequest,
    Rejection,
    SentIds,
    add_spans,
    input_error,
    validate_samples,
)
from vantage.ingest.wire.native import Int64
from vantage.ingest.wire.spans import WireSpan, to_span

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


class _Packed(msgspec.Struct):
    resource: _Resource
    series: list[_Series] = []
    samples: list[_Samples] = []
    spans: list[WireSpan] = []
    batch: Annotated[str, Meta(max_length=BATCH_ID_LENGTH_MAX)] = ""
    dropped: Annotated[dict[str, Annotated[int, Meta(ge=0, le=2**53)]], Meta(max_length=DROP_REASONS_MAX)] = {}


class PackedFormat:
    """Decodes the packed format."""

    def __init__(self, cache: SeriesCache) -> None:
        self._cache = cache
        self._decoder = msgspec.msgpack.Decoder(_Packed)

    def receive(self, body: bytes, *, batch_id: str, now_ms: int, oldest_ms: int) -> DecodedRequest:
        """Decode a body. Its own batch id has precedence over ``batch_id``. Indexes of rejected samples count through
        all lists in order. Raises InputError when the body cannot be read.
        """
        try:
            packed = self._decoder.decode(body)
        except DECODE_ERRORS as error:
            raise input_error(error) from error
        batch_id = packed.batch or batch_id
        sent = packed.resource
        resource = Resource(sent.service_name, sent.environment, sent.service_version, sent.instance)
        origin = ("packed", resource.service_name, resource.environment, resource.service_version, resource.instance)
        known = self._cache.known(origin)
        series = [self._resolve(known, entry, resource) for entry in packed.series]
        resolved: list[Series | Rejection] = []
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
            resolved += [series[column.series]] * len(column.times)
        received = DecodedRequest(dropped=packed.dropped)
        if packed.spans:
            spans = [to_span(wire, resource) for wire in packed.spans]
            add_spans(received, spans, now_ms=now_ms, oldest_ms=oldest_ms, batch_id=batch_id)
        validate_samples(
            received,
            resolved,
            times,
            values,
            SentIds(rows, trace_ids, span_ids),
            now_ms=now_ms,
            oldest_ms=oldest_ms,
            batch_id=batch_id,
        )
        return received

    def _resolve(self, known: dict[Key, Series], entry: _Series, resource: Resource) -> Series | Rejection:
        key = (entry.metric, bytes(entry.tags), entry.kind, None, entry.unit)
        return known.get(key) or self._cache.resolve(known, key, resource, parse_msgpack_tags)
