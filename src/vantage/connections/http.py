"""HTTP connections: uvicorn's protocol with bounds on their number, their headers, and the time requests take."""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from enum import Enum
from typing import Any, Final, NoReturn

import structlog
from uvicorn._types import ASGI3Application, ASGISendEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from vantage.connections.limits import (
    HEADERS_NBYTES_MAX,
    UPGRADE_HEADERS_MAX,
    UPGRADE_LINE_NBYTES_MAX,
    ConnectionLimits,
    EndReason,
)
from vantage.connections.websocket import WebSocketConnection
from vantage.web.problems import MEDIA_TYPE, Problem

INGEST_PREFIX: Final = "/v1/"
_log = structlog.get_logger("vantage.server")


class _ReadState(Enum):
    """What a connection has still to send."""

    NOTHING = "nothing"
    HEADERS = "headers"
    BODY = "body"


class _Refused(Exception):
    """Ends the parser; the connection knows the problem."""


class HttpConnection(HttpToolsProtocol):
    """A connection that sends headers and bodies within limits of size and time. A request that arrives in one piece
    never starts a timer."""

    limits: ConnectionLimits

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.drains = 0
        self._awaited = _ReadState.HEADERS
        self._timed = _ReadState.NOTHING
        self._timer: TimerHandle | None = None
        self._header_nbytes = 0
        self._read_nbytes = 0
        self._has_body = False  # whether the last bytes contained part of a body
        self._running: RequestResponseCycle | None = None  # cycle is the request read last, which may wait for others
        self._problem: Problem | None = None  # why the parser was ended
        self._is_ending = False  # nothing more is read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections_max:
            self.limits.count_end(EndReason.TOO_MANY)
            transport.abort()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._awaited = _ReadState.NOTHING
        self._watch()
        if self._running is not None and not self._running.response_complete:
            # uvicorn says so only to the request read last, which may wait for this one.
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_ending:
            return
        cycle: RequestResponseCycle | None = self.cycle
        if self._awaited is _ReadState.NOTHING and (cycle is None or cycle.response_complete):
            # Anything between two requests begins one, even an empty line, which the parser does not report.
            self._awaited = _ReadState.HEADERS
            self._header_nbytes = 0
        self._has_body = False
        self._read_nbytes = len(data)
        super().data_received(data)
        # What is neither body nor headers is trailers or the framing of chunks, with the same limit.
        if self._awaited is not _ReadState.NOTHING and not self._has_body:
            self._header_nbytes += len(data)
            if self._header_nbytes > HEADERS_NBYTES_MAX:
                self._refuse(_too_large(), EndReason.LARGE_HEADERS)
                return
        if self._awaited is not self._timed:
            self._watch()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._awaited = _ReadState.HEADERS
        self._header_nbytes = 0

    def on_headers_complete(self) -> None:
        if self._header_nbytes + self._read_nbytes > HEADERS_NBYTES_MAX:  # perhaps with the body, so count
            nbytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if nbytes > HEADERS_NBYTES_MAX:
                self._end_parser(_too_large())
        if self.parser.should_upgrade() and not self._should_upgrade() and _has_body(self.headers):
            # The parser takes the body for the other protocol's bytes.
            detail = "only a WebSocket is an upgrade here: send the request without the header Upgrade"
            self._end_parser(Problem(400, "Bad Request", detail))
        self._awaited = _ReadState.BODY
        self._header_nbytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._has_body = True
        self._header_nbytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._awaited = _ReadState.NOTHING
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.limits.on_unread(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self.drains += 1
        super().resume_writing()

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except Exception:  # noqa: BLE001 - one connection never keeps the others from draining
            _log.exception("a connection could not be closed")
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser could not read, or what a callback of the parser refused."""
        if self._problem is not None:
            too_large = self._problem.status == 431
            self._refuse(self._problem, EndReason.LARGE_HEADERS if too_large else EndReason.BAD_UPGRADE)
        else:
            self._refuse(Problem(400, "Bad Request", msg), EndReason.BAD_REQUEST)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over, unless the parser of WebSockets would not answer this request."""
        problem = _upgrade_problem(self.scope["method"], self.scope["http_version"], self.url, self.headers)
        if self._running is not None and not self._running.response_complete:
            problem = Problem(400, "Bad Request", "a request for a WebSocket waits for the answers before it")
        if problem is None:
            super().handle_websocket_upgrade()
            websocket = self.transport.get_protocol()
            assert isinstance(websocket, WebSocketConnection)
            if not websocket.handshake_initiated:
                problem = Problem(400, "Bad Request", "this is no request for a WebSocket")
        if problem is not None:
            self._refuse(problem, EndReason.BAD_UPGRADE)
            return
        self._awaited = _ReadState.NOTHING
        self._watch()

    def _unsupported_upgrade_warning(self) -> None:
        """Answer a CONNECT, or an upgrade to another protocol, as if it were none, and close: the parser reads nothing
        behind it."""
        if not self._end_after_answers():
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        if cycle.scope["path"].startswith(INGEST_PREFIX):
            cycle.send = SingleWriteResponse(cycle)  # type: ignore[method-assign]
        super()._start_asgi_task(cycle, app)

    def _watch(self) -> None:
        """Start the timer of the current state."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timed = self._awaited
        if self._awaited is _ReadState.HEADERS:
            self._timer = self.loop.call_later(self.limits.header_timeout_s, self._headers_late)
        elif self._awaited is _ReadState.BODY:
            self._timer = self.loop.call_later(self.limits.body_timeout_s, self._body_late)

    def _headers_late(self) -> None:
        if not self.transport.is_closing():
            self.limits.count_end(EndReason.SLOW_HEADERS)
            if not self._end_after_answers():
                self.transport.close()

    def _body_late(self) -> None:
        detail = f"the body did not arrive within {self.limits.body_timeout_s:g} s"
        self._refuse(Problem(408, "Request Timeout", detail), EndReason.SLOW_BODY)

    def _end_parser(self, problem: Problem) -> NoReturn:
        """Leave a callback of the parser, which then calls ``send_400_response``."""
        self._problem = problem
        raise _Refused

    def _refuse(self, problem: Problem, reason: EndReason) -> None:
        """Read nothing more, and close the connection once the complete requests that it sent before are answered. If
        there are none, respond with the problem, unless a response has begun; the application sees a disconnect."""
        if self._is_ending or self.transport.is_closing():
            return
        self.limits.count_end(reason)
        if self._end_after_answers():
            return
        cycle: RequestResponseCycle | None = self.cycle
        is_answered = cycle is not None and cycle.response_started and (cycle.more_body or not cycle.response_complete)
        if not is_answered:
            body = problem.body("")
            headers = "".join(f"{name}: {value}\r\n" for name, value in problem.headers)
            self.transport.write(
                f"HTTP/1.1 {problem.status} {problem.title}\r\ncontent-type: {MEDIA_TYPE}\r\n{headers}"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
                + body
            )
        self.transport.close()

    def _end_after_answers(self) -> bool:
        """Read nothing more. Return whether complete requests are still to be answered; the connection closes after the
        answer to the last of them."""
        self._is_ending = True
        self._awaited = _ReadState.NOTHING
        self._watch()
        last: RequestResponseCycle | None = self.cycle
        if last is not None and last.more_body and last is not self._running and self.pipeline:
            self.pipeline.popleft()  # its body will not come
            last = self.pipeline[0][0] if self.pipeline else self._running
        if last is None or last.response_complete or last.more_body:
            return False
        last.keep_alive = False
        return True


def _too_large() -> Problem:
    return Problem(431, "Request Header Fields Too Large", f"more than {HEADERS_NBYTES_MAX} bytes of headers")


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers)


def _upgrade_problem(method: str, http_version: str, url: bytes, headers: list[tuple[bytes, bytes]]) -> Problem | None:
    """Return why a request cannot become a WebSocket, None if it may. The rest is checked by ``websockets``, which
    answers what it can parse."""
    if method != "GET":
        return Problem(405, "Method Not Allowed", "a WebSocket is opened with GET", headers=(("allow", "GET"),))
    if http_version != "1.1":
        return Problem(400, "Bad Request", "a WebSocket is opened with HTTP/1.1")
    if _has_body(headers):
        return Problem(400, "Bad Request", "a request for a WebSocket has no body")
    if len(url) + len(b"GET  HTTP/1.1\r\n") > UPGRADE_LINE_NBYTES_MAX:
        return Problem(414, "URI Too Long", f"more than {UPGRADE_LINE_NBYTES_MAX} bytes")
    if len(headers) > UPGRADE_HEADERS_MAX:
        detail = f"more than {UPGRADE_HEADERS_MAX} headers in a request for a WebSocket"
        return Problem(431, "Request Header Fields Too Large", detail)
    if any(len(name) + len(value) + len(b": \r\n") > UPGRADE_LINE_NBYTES_MAX for name, value in headers):
        detail = f"a header of more than {UPGRADE_LINE_NBYTES_MAX} bytes in a request for a WebSocket"
        return Problem(431, "Request Header Fields Too Large", detail)
    return None


class SingleWriteResponse:
    """Sends a response of one start and one body with a single write, and so in one packet; uvicorn takes two of each
    and checks every header again. Only for our own short responses to ingest."""

    __slots__ = ("_cycle", "_start")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._start: HTTPResponseStartEvent | None = None

    async def __call__(self, message: ASGISendEvent) -> None:
        cycle = self._cycle
        if message["type"] == "http.response.start":
            self._start = message
            cycle.response_started = True
            return
        assert self._start is not None
        assert message["type"] == "http.response.body"
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        headers = [*cycle.default_headers, *self._start["headers"]]
        if (b"connection", b"close") in headers:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            headers.append((b"connection", b"close"))
        head = b"".join([b"%b: %b\r\n" % header for header in headers])
        body = b"" if cycle.scope["method"] == "HEAD" else message["body"]
        cycle.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[self._start["status"]], head, body))
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        del cycle.send  # a reference cycle would keep the request and its body in memory until a garbage collection
        cycle.on_response()
