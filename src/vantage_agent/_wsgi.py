"""WSGI applications: a span from the request to the end of the answer, however long that is streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any

from vantage_agent._semconv import http_server
from vantage_agent._span import Span
from vantage_agent._tracer import tracer

MARK = "vantage_agent.span"  # in the environ: the request is measured already, by this span


def call_wsgi(
    app: Callable[..., Any],
    environ: dict[str, Any],
    start_response: Callable[..., Any],
    route_of: Callable[[dict[str, Any]], str | None],
) -> Any:
    """``app(environ, start_response)`` as a span. ``route_of(environ)`` is asked for the route's template when the
    answer begins, and at the end where none did: empty when none matched, None when it does not know."""
    try:
        around: Span | None = environ.get(MARK)
        if around is None:
            traceparent = environ.get("HTTP_TRACEPARENT")
            if traceparent is None:
                span = tracer.begin(http_server, "server")
            else:
                span = tracer.begin(http_server, "server", traceparent, environ.get("HTTP_TRACESTATE", ""))
            span.method = environ.get("REQUEST_METHOD", "")
            environ[MARK] = span
        else:  # where it is measured outside already, the route may not be known there
            span = around
    except Exception:
        return app(environ, start_response)

    def start(status: str, headers: Any = None, *args: Any, **kwargs: Any) -> Any:
        try:
            span.status_code = _CODES.get(status) or _code_of(status)
            route = route_of(environ)
            if route is not None:
                span.route = route
        except Exception:
            pass
        if headers is None or args or kwargs:
            return start_response(status, *(() if headers is None else (headers,)), *args, **kwargs)
        return start_response(status, headers)

    if around is not None:
        return app(environ, start)
    try:
        answer = app(environ, start)
    except BaseException as error:
        span.fail(error)
        _end(span, environ, route_of)
        raise
    try:
        if span.is_complete or _is_complete(answer, environ):
            _end(span, environ, route_of)
            return answer
        tracer.deactivate(span)
        return _Response(answer, span, environ, route_of)
    except Exception:
        return answer


_CODES = {f"{status.value} {status.phrase}": status.value for status in HTTPStatus}


def _code_of(status: str) -> int:
    return int(status[:3])


def _is_complete(answer: Any, environ: dict[str, Any]) -> bool:
    """What has a length is, and the server may look at it; a file wrapper is given to the server as it is, which may
    send the file by itself."""
    if hasattr(answer, "__len__"):
        return True
    file_wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(file_wrapper, type) and isinstance(answer, file_wrapper)


class _Response:
    """The application's answer, still lazy: the server takes each piece from the application's own iterator. What
    the application does to make a piece is a part of the span; what the server does with it is not."""

    def __init__(
        self, answer: Iterable[bytes], span: Span, environ: dict[str, Any], route_of: Callable[..., str | None]
    ) -> None:
        self._answer = answer
        self._pieces: Iterator[bytes] | None = None
        self._span: Span | None = span
        self._environ = environ
        self._route_of = route_of

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        pieces = self._pieces
        span = self._span
        if span is not None:
            _enter(span)
        try:
            if pieces is None:
                pieces = self._pieces = iter(self._answer)
            return next(pieces)
        except StopIteration:
            self._finish(None)
            raise
        except BaseException as error:
            self._finish(error)
            raise
        finally:
            if span is not None:
                _leave(span)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._answer, name)

    def close(self) -> None:
        """Servers call it at the end of every answer (PEP 3333), also of one that breaks off."""
        try:
            close = getattr(self._answer, "close", None)
            if close is not None:
                close()
        finally:
            self._finish(None)

    def _finish(self, error: BaseException | None) -> None:
        span, self._span = self._span, None
        if span is not None:
            if error is not None:
                span.fail(error)
            _end(span, self._environ, self._route_of)


def _enter(span: Span) -> None:
    try:
        tracer.activate(span)
    except Exception:
        pass


def _leave(span: Span) -> None:
    try:
        tracer.deactivate(span)
    except Exception:
        pass


def _end(span: Span, environ: dict[str, Any], route_of: Callable[..., str | None]) -> None:
    try:
        if span.route is None:
            span.route = route_of(environ)
        if span.status_code >= 500 and not span.failed:
            span.fail(str(span.status_code))
        del environ[MARK]
    except Exception:
        pass
    tracer.finish(span)


def no_route(_environ: dict[str, Any]) -> str | None:
    """Of an application whose router is not known."""
    return None
