"""The documented envelope of ``POST /v1/metrics``, as JSON or MessagePack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta, Raw

from vantage.core.batch import NO_LINKS, Batch, Links
from vantage.core.series import Series
from vantage.ingest.resolve import Resource, SeriesCache, parse_json_tags, parse_msgpack_tags
from vantage.ingest.wire.received import DECODE_ERRORS, Received, Rejection, input_error, samples_batch

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_NO_TAGS: Final = Raw(b"")


class _Sample(msgspec.Struct, gc=False):
    metric_name: str
    value: float
    timestamp: Int64 | None = None
    tags: Raw = _NO_TAGS
    metric_type: str = "gauge"
    service_name: str | None = None
    environment: str | None = None
    unit: str | None = None
    service_version: str | None = None
    instance: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


class _Envelope(msgspec.Struct):
    metrics: list[_Sample]
    service_name: str = ""
    environment: str = ""
    service_version: str = ""
    instance: str = ""


class NativeFormat:
    """Decodes one of the two encodings."""

    def __init__(self, encoding: str, cache: SeriesCache) -> None:
        self._encoding = encoding
        self._cache = cache
        self._decoder: Any = (msgspec.json if encoding == "json" else msgspec.msgpack).Decoder(_Envelope)
        self._parse_tags: Callable[[bytes], dict[str, str]] = (
            parse_json_tags if encoding == "json" else parse_msgpack_tags
        )

    def receive(self, body: bytes, *, batch_id: str, now_ms: int, oldest_ms: int) -> Received:
        """Raises InputError when the body as a whole cannot be read; single samples are rejected one by one."""
        try:
            envelope: _Envelope = self._decoder.decode(body)
        except DECODE_ERRORS as error:
            raise input_error(error) from error
        resource = (envelope.service_name, envelope.environment, envelope.service_version, envelope.instance)
        samples = envelope.metrics
        known = self._cache.known((self._encoding, *resource))
        keys = [
            (
                one.metric_name,
                bytes(one.tags),
                one.service_name,
                one.metric_type,
                one.environment,
                one.unit,
                one.service_version,
                one.instance,
            )
            for one in samples
        ]
        resolved: list[Series | Rejection | None] = list(map(known.get, keys))
        if None in resolved:
            of_all = Resource(*resource)
            for i, one in enumerate(resolved):
                if one is None:  # an earlier sample of this request may have resolved the same key
                    resolved[i] = known.get(keys[i]) or self._cache.resolve(known, keys[i], of_all, self._parse_tags)
        times = [one.timestamp for one in samples]
        if None in times:
            times = [now_ms if time_ms is None else time_ms for time_ms in times]
        received = Received(Batch(batch_id=batch_id))
        samples_batch(
            received,
            resolved,  # type: ignore[arg-type]  # no None is left
            times,  # type: ignore[arg-type]
            [one.value for one in samples],
            _links([one.trace_id for one in samples], [one.span_id for one in samples]),
            now_ms=now_ms,
            oldest_ms=oldest_ms,
        )
        return received


def _links(trace_ids: list[str | None], span_ids: list[str | None]) -> Links:
    """The links of the samples that name a trace or a span; a span without a trace is rejected later on."""
    if all(trace_ids):
        rows = np.arange(len(trace_ids), dtype=np.uint32)
    else:
        held = [row for row, ids in enumerate(zip(trace_ids, span_ids, strict=True)) if ids[0] or ids[1]]
        if not held:
            return NO_LINKS
        trace_ids, span_ids = [trace_ids[row] for row in held], [span_ids[row] for row in held]
        rows = np.array(held, np.uint32)
    return Links(rows, _known(trace_ids), _known(span_ids))


def _known(ids: list[str | None]) -> list[str]:
    return ids if all(ids) else [one or "" for one in ids]  # type: ignore[return-value]
