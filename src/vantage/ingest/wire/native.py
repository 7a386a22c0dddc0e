"""The documented envelope of ``POST /v1/metrics``, as JSON or MessagePack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw

from vantage.core.sample import ID_LENGTH_MAX
from vantage.core.series import Series
from vantage.ingest.series_cache import Key, Resource, SeriesCache, parse_json_tags, parse_msgpack_tags
from vantage.ingest.wire.decoded import (
    NO_IDS,
    DecodedRequest,
    Rejection,
    SentIds,
    decode_body,
    decode_each,
    distinct_series,
    validate_samples,
)

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_NO_TAGS: Final = Raw(b"")
_BEYOND_MS: Final = 2**62


_Id = Annotated[str, Meta(min_length=1, max_length=ID_LENGTH_MAX)]


class _FastSample(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The fields of nearly every sample. Any other field, and an id whose length is not allowed, cause the body to be
    decoded again as ``_AnySample``, whose ids are checked one by one; here msgspec checks them nearly for free."""

    metric_name: str
    value: float
    timestamp: Int64 | None = None
    tags: Raw = _NO_TAGS
    metric_type: Literal["counter", "gauge", "histogram", "cumulative"] = "gauge"
    service_name: str | None = None
    unit: str | None = None
    trace_id: _Id | None = None
    span_id: _Id | None = None


class _AnySample(msgspec.Struct, gc=False):
    metric_name: str
    value: float
    timestamp: Int64 | float | None = None  # many send ``time.time() * 1000``: the fraction is cut off
    tags: Raw = _NO_TAGS
    metric_type: str = "gauge"
    service_name: str | None = None
    unit: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    environment: str | None = None
    service_version: str | None = None
    instance: str | None = None


_UNREADABLE: Final = _AnySample("", 0.0)  # its key is that of no series


class _Envelope(msgspec.Struct):
    service_name: str = ""
    environment: str = ""
    service_version: str = ""
    instance: str = ""


class _FastEnvelope(_Envelope, kw_only=True):
    metrics: list[_FastSample]


class _AnyEnvelope(_Envelope, kw_only=True):
    metrics: list[Raw]


class NativeFormat:
    """Decodes one of the two encodings."""

    def __init__(self, encoding: str, cache: SeriesCache) -> None:
        self._encoding = encoding
        self._cache = cache
        module: Any = msgspec.json if encoding == "json" else msgspec.msgpack
        self._fast = module.Decoder(_FastEnvelope)
        self._any = module.Decoder(_AnyEnvelope)
        self._any_sample = module.Decoder(_AnySample)
        self._parse_tags: Callable[[bytes], dict[str, str]] = (
            parse_json_tags if encoding == "json" else parse_msgpack_tags
        )

    def receive(self, body: bytes, *, batch_id: str, now_ms: int, oldest_ms: int) -> DecodedRequest:
        """Decode a body; single samples are rejected one by one. Raises InputError when the body cannot be read."""
        envelope: _FastEnvelope | _AnyEnvelope = decode_body(body, self._fast, self._any)
        resource = (envelope.service_name, envelope.environment, envelope.service_version, envelope.instance)
        known = self._cache.known((self._encoding, *resource))
        samples: Sequence[_FastSample | _AnySample]
        unreadable: dict[int, Rejection] = {}
        keys: list[Key]
        if isinstance(envelope, _FastEnvelope):
            samples = envelope.metrics
            keys = [
                (sample.metric_name, bytes(sample.tags), sample.metric_type, sample.service_name, sample.unit)
                for sample in envelope.metrics
            ]
        else:
            samples, unreadable = self._decode_each(envelope.metrics)
            keys = [
                (
                    sample.metric_name,
                    bytes(sample.tags),
                    sample.metric_type,
                    sample.service_name,
                    sample.unit,
                    sample.environment,
                    sample.service_version,
                    sample.instance,
                )
                for sample in samples
            ]
        new_series_nbytes = 0
        resolved: list[Series | Rejection | None] = list(map(known.get, keys))
        if None in resolved:
            shared = Resource(*resource)
            for i, series in enumerate(resolved):
                if series is None:  # an earlier sample of this request may have resolved the same key
                    resolution: Series | Rejection | None = unreadable.get(i) or known.get(keys[i])
                    if resolution is None:
                        resolution = self._cache.resolve(known, keys[i], shared, self._parse_tags)
                        new_series_nbytes += resolution.nbytes if isinstance(resolution, Series) else 0
                    resolved[i] = resolution
        times = [sample.timestamp for sample in samples]
        if None in times or isinstance(envelope, _AnyEnvelope):
            times = [now_ms if time_ms is None else _integer_ms(time_ms) for time_ms in times]
        received = DecodedRequest()
        validate_samples(
            received,
            *distinct_series(resolved),  # type: ignore[arg-type]  # no None remains
            times,  # type: ignore[arg-type]
            [sample.value for sample in samples],
            _sent_ids([sample.trace_id for sample in samples], [sample.span_id for sample in samples]),
            now_ms=now_ms,
            oldest_ms=oldest_ms,
            batch_id=batch_id,
            new_series_nbytes=new_series_nbytes,
        )
        return received

    def _decode_each(self, raw_samples: Sequence[Raw]) -> tuple[list[_AnySample], dict[int, Rejection]]:
        """Return the samples, with an empty one in place of each that cannot be read, and why it cannot, by index."""
        items = decode_each(raw_samples, self._any_sample.decode, fault="sample")
        unreadable = {i: item for i, item in enumerate(items) if isinstance(item, Rejection)}
        return [_UNREADABLE if isinstance(item, Rejection) else item for item in items], unreadable


def _integer_ms(time_ms: float) -> int:
    """Return integer milliseconds, clamped to what fits 64 bits but is no valid time. NaN is before all times."""
    return int(min(max(time_ms, -_BEYOND_MS), _BEYOND_MS)) if time_ms == time_ms else -_BEYOND_MS


def _sent_ids(trace_ids: list[str | None], span_ids: list[str | None]) -> SentIds:
    """Return the ids of the samples that name a trace or a span; a span without a trace is rejected later."""
    rows: Sequence[int] = range(len(trace_ids))
    if not all(trace_ids):
        rows = [row for row, ids in enumerate(zip(trace_ids, span_ids, strict=True)) if ids[0] or ids[1]]
        if not rows:
            return NO_IDS
        trace_ids, span_ids = [trace_ids[row] or "" for row in rows], [span_ids[row] or "" for row in rows]
    elif not all(span_ids):
        span_ids = [span_id or "" for span_id in span_ids]
    return SentIds(rows, trace_ids, span_ids)  # type: ignore[arg-type]  # no None remains
