"""Receiving a request: pick the format, decode, publish, count."""

from __future__ import annotations

import time
from typing import Final, Protocol

from vantage.core.clock import Clock
from vantage.core.errors import InputError
from vantage.core.sample import TIME_MS_MIN, id_problem
from vantage.ingest.origin_limits import SERVICES_MAX, OriginLimits
from vantage.ingest.series_cache import CACHE_NBYTES_MAX, SeriesCache
from vantage.ingest.wire.decoded import DecodedRequest
from vantage.ingest.wire.native import NativeFormat
from vantage.ingest.wire.packed import MEDIA_TYPE as PACKED
from vantage.ingest.wire.packed import PackedFormat
from vantage.ingest.wire.spans import SpansFormat
from vantage.storage.steady_time import SteadyTime
from vantage.stream.ports import Sink
from vantage.telemetry import Telemetry

JSON: Final = "application/json"
MSGPACK: Final = ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack")


DROP_REASONS_MAX: Final = 32  # each is a time series of /metrics until the process ends
REASON_OTHER: Final = "other"


class WireFormat(Protocol):
    """Decodes a body. Raises InputError when no part of it can be read."""

    def receive(self, body: bytes, *, batch_id: str, now_ms: int, oldest_ms: int) -> DecodedRequest: ...


class UnknownMediaType(InputError):
    """No format of this endpoint has that media type."""


class Receiver:
    """Decodes, checks and publishes. Samples older than ``retention_days`` are rejected; services beyond
    ``services_max`` are recorded as ``__overflow__``. ``cache_nbytes_max`` bounds the cache of series."""

    def __init__(
        self,
        sink: Sink,
        *,
        clock: Clock,
        telemetry: Telemetry,
        steady: SteadyTime | None = None,
        retention_days: int | None = None,
        services_max: int = SERVICES_MAX,
        cache_nbytes_max: int = CACHE_NBYTES_MAX,
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._steady = steady or SteadyTime(clock)
        self._telemetry = telemetry
        self._retention_ms = None if retention_days is None else retention_days * 86_400_000
        self._drop_reasons: set[str] = set()
        limits = OriginLimits(clock=clock, telemetry=telemetry, services_max=services_max)
        cache = SeriesCache(limits, nbytes_max=cache_nbytes_max)
        packed, msgpack = PackedFormat(cache, limits), NativeFormat("msgpack", cache)
        self._formats: dict[str, dict[str, WireFormat]] = {
            "metrics": {JSON: NativeFormat("json", cache), PACKED: packed, **dict.fromkeys(MSGPACK, msgpack)},
            "spans": {
                JSON: SpansFormat("json", limits),
                **dict.fromkeys(MSGPACK, SpansFormat("msgpack", limits)),
            },
        }

    def decode(self, endpoint: str, media_type: str, body: bytes, batch_id: str) -> DecodedRequest:
        """Decode a body of ``endpoint`` (metrics or spans). Raises UnknownMediaType and InputError."""
        formats = self._formats[endpoint]
        wire_format = formats.get(media_type) or formats.get(media_type.partition(";")[0].strip().lower())
        if wire_format is None:
            raise UnknownMediaType(
                f"{media_type[:80]!r} is not supported here: use one of {', '.join(formats)}", field="Content-Type"
            )
        if batch_id and (reason := id_problem(batch_id)):
            raise InputError(reason, field="Idempotency-Key")
        if batch_id and endpoint != "metrics":  # an id belongs to one endpoint
            batch_id = f"{endpoint}:{batch_id}"
        now_ms = self._clock.now_ms()
        oldest_ms = TIME_MS_MIN if self._retention_ms is None else self._steady.now_ms() - self._retention_ms
        return wire_format.receive(body, batch_id=batch_id, now_ms=now_ms, oldest_ms=oldest_ms)

    async def publish(self, received: DecodedRequest) -> None:
        """Publish the batch to the sink; when it returns, the batch is durable. Raises what the sink raises."""
        started = time.perf_counter()
        batch, telemetry = received.batch, self._telemetry
        if batch.samples or batch.spans:
            await self._sink.publish(batch)
            telemetry.publish_duration.observe(time.perf_counter() - started)
            telemetry.samples_accepted.inc(batch.samples)
            if batch.spans:
                telemetry.spans_accepted.inc(len(batch.spans))
        for name, count in received.fields.items():
            telemetry.rejected.labels(name).inc(count)
        for reason, count in received.dropped.items():
            telemetry.agent_dropped.labels(self._drop_reason(reason[:64])).inc(count)

    def _drop_reason(self, reason: str) -> str:
        """Return the reason as a label: clients may send any, so only the first ``DROP_REASONS_MAX`` are distinct."""
        if reason not in self._drop_reasons:
            if len(self._drop_reasons) >= DROP_REASONS_MAX:
                return REASON_OTHER
            self._drop_reasons.add(reason)
        return reason
