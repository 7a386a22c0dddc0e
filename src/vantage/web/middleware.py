"""The outermost ASGI application: checks of every request, before routing.

Localhost is not safe by itself: a web page can post to a laptop's port, or make a name of its own resolve to it. So
every Host header is checked against an allow-list, and the Origin header of every change and every WebSocket.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import lru_cache
from typing import Any, Final

import structlog

from vantage.core.errors import ForbiddenError, InputError, NotFoundError, VantageError
from vantage.web.problems import MEDIA_TYPE, Problem, problem_of
from vantage.web.request_metrics import RequestMetrics

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{8,64}")
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:@/\s]+))(?::\d{1,5})?")  # in lower case
# Of two the last would count here and perhaps the first in a proxy. Others may be lists, on several lines.
_SINGLE_HEADERS: Final = (b"host", b"origin", b"authorization", b"x-api-key", b"content-type", b"idempotency-key")
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HOSTS_CACHED_MAX: Final = 256
_HOST_LENGTH_MAX: Final = 261  # of a name and a port; what is longer is not cached
_CORS_METHODS: Final = b"GET, POST, DELETE, OPTIONS"
_CORS_HEADERS: Final = b"content-type, content-encoding, idempotency-key, x-api-key, authorization, x-request-id"
_POLICY: Final = (
    b"default-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; "
    b"base-uri 'self'; form-action 'self'"
)
_SCHEMA_POLICY: Final = _POLICY.replace(b"style-src 'self'", b"style-src 'self' 'unsafe-inline'")  # Swagger UI needs it
_SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_log = structlog.get_logger("vantage.web")


class HostGuard:
    """Allows Host headers: localhost, IP addresses (no name can point a browser at them), this machine's name, the
    address listened on, and the names in the settings. ``*`` allows any."""

    def __init__(self, *, listen_host: str, allowed: Sequence[str]) -> None:
        names = {"localhost", listen_host.lower(), socket.gethostname().lower(), *(name.lower() for name in allowed)}
        self._any = "*" in allowed
        self._names = names
        self._check_cached = lru_cache(_HOSTS_CACHED_MAX)(self._check)

    def allows(self, host: bytes) -> bool:
        return self._any or (self._check_cached if len(host) <= _HOST_LENGTH_MAX else self._check)(host)

    def _check(self, host: bytes) -> bool:
        parts = _HOST.fullmatch(host.decode("latin-1").lower())
        if parts is None:
            return False
        name = (parts[1] or parts[2]).rstrip(".")
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class EdgeMiddleware:
    """Checks Host and Origin, answers CORS, gives every request an id, counts it, and routes it."""

    def __init__(
        self,
        *,
        ingest: ASGIApp | None,
        site: ASGIApp,
        sockets: Sequence[str],
        hosts: HostGuard,
        cors_origins: Sequence[str],
        requests: RequestMetrics,
        log_requests: bool,
    ) -> None:
        self._ingest = ingest
        self._site = site
        self._sockets = frozenset(sockets)
        self._hosts = hosts
        self._cors = frozenset(origin.encode() for origin in cors_origins)
        self._requests = requests
        self._log_requests = log_requests
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._site(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        sent_id = headers.get(b"x-request-id", b"")
        request_id = sent_id.decode() if _REQUEST_ID.fullmatch(sent_id) else f"{self._prefix}-{next(self._numbers):x}"
        scope["request_id"] = request_id
        scope["header_map"] = headers
        if len(headers) != len(scope["headers"]) and (twice := _given_twice(scope["headers"])):
            await self._refuse(scope, receive, send, InputError("is given more than once", field=twice))
            return
        origin = headers.get(b"origin")
        if not self._hosts.allows(headers.get(b"host", b"")):
            refusal = ForbiddenError("this Host is not allowed; see allowed_hosts")
            await self._refuse(scope, receive, send, refusal)
            return
        if origin is not None:
            cross = not _same_origin(headers, origin)
            if cross and origin not in self._cors:
                if kind == "websocket" or scope["method"] not in SAFE_METHODS:
                    refusal = ForbiddenError("requests from this Origin are not allowed")
                    await self._refuse(scope, receive, send, refusal)
                    return
            elif cross and kind == "http":
                if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                    await self._preflight(send, origin)
                    return
                send = _with_headers(send, [(b"access-control-allow-origin", origin), (b"vary", b"Origin")])
        if self._ingest is not None and kind == "http" and scope["path"].startswith("/v1/"):
            await self._ingest(scope, receive, send)
        elif kind == "http":
            await self._http(scope, receive, send, started)
        elif scope["path"].rstrip("/") in self._sockets:
            await self._site(scope, receive, _with_refusals(scope, send))
        else:
            await self._refuse(scope, receive, send, NotFoundError("there is no WebSocket at this address"))

    async def _http(self, scope: Scope, receive: Receive, send: Send, started: float) -> None:
        request_id = scope["request_id"]
        status = 500

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                policy = _SCHEMA_POLICY if scope["path"].startswith("/schema") else _POLICY
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    *_SECURITY,
                    (b"content-security-policy", policy),
                ]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._site(scope, receive, send_on)
            took_ms = (time.perf_counter() - started) * 1000
            route = scope.get("path_template") or "(none)"
            self._requests.record(route, scope["method"], status, took_ms)
            if self._log_requests:
                _log.info("request", method=scope["method"], route=route, status=status, took_ms=round(took_ms, 1))

    async def _preflight(self, send: Send, origin: bytes) -> None:
        headers = [
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-methods", _CORS_METHODS),
            (b"access-control-allow-headers", _CORS_HEADERS),
            (b"access-control-max-age", b"600"),
            (b"vary", b"Origin"),
        ]
        await respond(send, 204, b"", headers)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: VantageError) -> None:
        problem = problem_of(error)
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
            await refuse_websocket(scope, send, problem)
            return
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"connection", b"close")]
        await respond(send, problem.status, problem.body(scope["request_id"]), headers)


def _same_origin(headers: dict[bytes, bytes], origin: bytes) -> bool:
    _, _, authority = origin.partition(b"://")
    return bool(authority) and authority.lower() == headers.get(b"host", b"").lower()


def _given_twice(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Return the name of a header that must not be given twice and is, '' if there is none."""
    names = [name for name, _ in headers]
    return next((name.decode() for name in _SINGLE_HEADERS if names.count(name) > 1), "")


def _with_refusals(scope: Scope, send: Send) -> Send:
    """Return ``send`` for a WebSocket: what Litestar closes before it was accepted is refused like any request."""
    accepted = False

    async def send_on(message: Message) -> None:
        nonlocal accepted
        if message["type"] == "websocket.close" and not accepted:
            _log.error("a WebSocket was not opened", path=scope["path"], reason=message.get("reason"))
            await refuse_websocket(scope, send, problem_of(VantageError("")))
            return
        accepted = accepted or message["type"] == "websocket.accept"
        await send(message)

    return send_on


def _with_headers(send: Send, extra: list[tuple[bytes, bytes]]) -> Send:
    async def send_on(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *extra]
        await send(message)

    return send_on


async def refuse_websocket(scope: Any, send: Any, problem: Problem) -> None:
    """Respond to the handshake of a WebSocket with a problem: the socket is never opened."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": problem.detail[:120]})
        return
    headers = [(b"content-type", MEDIA_TYPE.encode())]
    headers += [(name.encode(), value.encode()) for name, value in problem.headers]
    await send({"type": "websocket.http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": problem.body(scope["request_id"])})


async def respond(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Send a complete response."""
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
