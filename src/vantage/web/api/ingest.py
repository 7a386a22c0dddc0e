"""``/v1/*``: a raw ASGI application with its own method table, exception map and timeouts.

It is separate from Litestar because it is the hot path: typed bodies in the framework cost three times as much.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import msgspec
import structlog

from vantage.core.api_key import Scope
from vantage.core.clock import Clock
from vantage.core.errors import ForbiddenError, InputError, NotFoundError
from vantage.ingest.body import BODY_NBYTES_MAX, BodyTooLarge, unpack
from vantage.ingest.receive import Receiver
from vantage.ingest.wire.decoded import DecodedRequest
from vantage.telemetry import Telemetry
from vantage.web.auth import Authenticator, secret_of
from vantage.web.limits import Rates, TrustedProxies
from vantage.web.middleware import Receive, Send, respond
from vantage.web.middleware import Scope as ASGIScope
from vantage.web.problems import MEDIA_TYPE, MethodNotAllowed, problem_of, reason_of
from vantage.web.request_metrics import RequestMetrics

# A path with a slash at its end is the same as one without.
_ENDPOINTS: Final = {"/v1/metrics": "metrics", "/v1/spans": "spans", "/v1/metrics/": "metrics", "/v1/spans/": "spans"}
_THREAD_NBYTES: Final = 256 << 10  # larger bodies are decoded in a thread, not on the event loop
THREADS: Final = 2  # of their own: bodies do not wait for pages
_JSON: Final = b"application/json"
DISCARD_NBYTES_MAX: Final = 8 << 20
DISCARD_S_MAX: Final = 0.2
T = TypeVar("T")
_log = structlog.get_logger("vantage.ingest")


class Disconnected(Exception):
    """The client disconnected before its request was complete; there is nobody to respond to."""


class _Body:
    """The body of one request. The server limits how long it may take, and closes the connection."""

    __slots__ = ("_more", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._more = True

    async def read(self, announced: bytes) -> bytes:
        """Read the complete body. Raises BodyTooLarge, Disconnected, and InputError when it is empty."""
        if announced.isdigit() and (len(announced) > 15 or int(announced) > BODY_NBYTES_MAX):
            raise BodyTooLarge(f"is larger than {BODY_NBYTES_MAX} bytes")
        parts: list[bytes] = []
        size = 0
        while self._more:
            parts.append(await self._next())
            size += len(parts[-1])
            if size > BODY_NBYTES_MAX:
                raise BodyTooLarge(f"is larger than {BODY_NBYTES_MAX} bytes")
        if not size:
            raise InputError("is empty", field="body")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def discard(self) -> None:
        """Read and drop the rest, within limits: a client that is still sending when the connection closes may never
        see the error."""
        size = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S_MAX):
                while self._more and size <= DISCARD_NBYTES_MAX:
                    size += len(await self._next())

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        self._more = message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body


class IngestApp:
    """Receives samples and spans. Checks key, rate and size before it decodes anything."""

    def __init__(
        self,
        receiver: Receiver,
        *,
        authenticator: Authenticator,
        proxies: TrustedProxies,
        rates: Rates,
        telemetry: Telemetry,
        requests: RequestMetrics,
        clock: Clock,
    ) -> None:
        self._receiver = receiver
        self._authenticator = authenticator
        self._proxies = proxies
        self._rates = rates
        self._telemetry = telemetry
        self._requests = requests
        self._monotonic_s = clock.monotonic_s
        self._threads = ThreadPoolExecutor(THREADS, "vantage-decode")
        self._counted = {
            (route, status): telemetry.collector_requests.labels(route, str(status))
            for route in ("/v1/metrics", "/v1/spans")
            for status in (202, 400, 429, 503)
        }

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        path = scope["path"]
        status = 202
        headers = [(b"content-type", _JSON), (b"x-request-id", scope["request_id"].encode())]
        request_body = _Body(receive)
        try:
            body = await self._handle(scope, request_body)
        except Disconnected:
            self._telemetry.collector_errors.labels("disconnected").inc()
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the table has the answer
            problem = problem_of(error)
            if problem.status == 500:
                _log.exception("ingest failed", request_id=scope["request_id"])
            self._telemetry.collector_errors.labels(reason_of(error)).inc()
            status, body = problem.status, problem.body(scope["request_id"])
            headers[0] = (b"content-type", MEDIA_TYPE.encode())
            headers += [(name.encode(), value.encode()) for name, value in problem.headers]
            headers.append((b"connection", b"close"))
            with contextlib.suppress(Disconnected):
                await request_body.discard()
        await respond(send, status, body, headers)
        endpoint = _ENDPOINTS.get(path)
        route = f"/v1/{endpoint}" if endpoint else "(none)"
        counted = self._counted.get((route, status))
        (counted or self._telemetry.collector_requests.labels(route, str(status))).inc()
        self._requests.record(route, scope["method"], status, (time.perf_counter() - started) * 1000)

    async def _handle(self, scope: ASGIScope, request_body: _Body) -> bytes:
        if scope["type"] != "http":
            raise NotFoundError("there is no WebSocket at this address")
        endpoint = _ENDPOINTS.get(scope["path"])
        if endpoint is None:
            raise NotFoundError(f"there is no {scope['path'][:80]!r}: see /schema")
        if scope["method"] != "POST":
            raise MethodNotAllowed("POST")
        headers = scope["header_map"]
        admission = self._admit(scope, headers)
        if admission is not None:
            await admission
        body = await request_body.read(headers.get(b"content-length", b""))
        encoding = headers.get(b"content-encoding", b"").decode("latin-1")
        media_type = headers.get(b"content-type", b"").decode("latin-1")
        batch_id = headers.get(b"idempotency-key", b"").decode("latin-1")

        def decode(body: bytes) -> DecodedRequest:
            return self._receiver.decode(endpoint, media_type, body, batch_id)

        if encoding:  # a few kilobytes may decompress to megabytes
            is_large = len(body) > _THREAD_NBYTES // 8
            body = await self._in_thread(lambda: unpack(body, encoding)) if is_large else unpack(body, encoding)
        received = await self._in_thread(lambda: decode(body)) if len(body) > _THREAD_NBYTES else decode(body)
        await self._receiver.publish(received)
        if not received.rejected:
            return b'{"accepted":%d,"rejected":0,"errors":[]}' % received.accepted
        errors = [
            {"index": index, "field": rejection.field, "reason": rejection.reason}
            for index, rejection in received.errors
        ]
        return msgspec.json.encode({"accepted": received.accepted, "rejected": received.rejected, "errors": errors})

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _admit(self, scope: ASGIScope, headers: dict[bytes, bytes]) -> Awaitable[None] | None:
        """Check key, scope and rate; return what is to be awaited for the rate, None where it is not shared. An unknown
        key counts against the address of the client."""
        peer = scope["client"][0] if scope.get("client") else ""
        address = self._proxies.client(peer, headers)
        now_s = self._monotonic_s()
        try:
            principal = self._authenticator.principal(secret_of(headers))
        except ForbiddenError as error:
            return _refuse(self._rates.take(address, now_s), error)
        pending = self._rates.take(address if principal.id == "local" else principal.id, now_s)
        if not principal.allows(Scope.INGEST):
            return _refuse(pending, ForbiddenError("this key may not ingest"))
        return pending


def _refuse(pending: Awaitable[None] | None, error: ForbiddenError) -> Awaitable[None]:
    """Raise an error, now or once the token has been taken."""
    if pending is None:
        raise error

    async def refuse() -> None:
        await pending
        raise error

    return refuse()
