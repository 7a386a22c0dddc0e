"""WSGI applications: a span from the request to the end of the response, even a streamed one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any

from vantage_agent._context import Pieces, current
from vantage_agent._request import begin_request, end_request, enter_layer, leave_request, note_cause, outer_request
from vantage_agent._span import Span

BASE = "vantage_agent.base"  # in the environ: what the server mounts under, without what the application does


def call_wsgi(
    app: Callable[..., Any],
    environ: dict[str, Any],
    start_response: Callable[..., Any],
    route_of: Callable[[dict[str, Any]], str | None],
) -> Any:
    """Call ``app(environ, start_response)`` as a span. ``route_of(environ)`` returns the route's template, when the
    response begins or at the end without one: empty when none matched, None when it is unknown."""
    try:
        span, is_outermost = _begin(environ)
    except Exception:
        return app(environ, start_response)

    def start(status: str, headers: Any = None, *args: Any, **kwargs: Any) -> Any:
        try:
            span.status_code = code = _CODES.get(status) or _code_of(status)
            if code >= 500:
                note_cause(span, sys.exc_info()[1] if not args or not args[0] else args[0][1])
            route = route_of(environ)
            if route is not None:
                span.route = route
        except Exception:
            pass
        if headers is None or args or kwargs:
            return start_response(status, *(() if headers is None else (headers,)), *args, **kwargs)
        return start_response(status, headers)

    if not is_outermost:
        return app(environ, start)
    try:
        response = app(environ, start)
    except BaseException as error:
        span.fail_with(error)
        _end(span, environ, route_of)
        raise
    try:
        if span.is_complete or _is_complete(response, environ):
            _end(span, environ, route_of)
            return response
        pieces = Pieces(current.get())
        leave_request(span)
        return _Response(response, span, pieces, environ, route_of)
    except Exception:
        return response


def _begin(environ: dict[str, Any]) -> tuple[Span, bool]:
    """Return the span of the request, and whether it begins here: an outer layer that measures it already may not know
    the route."""
    span = outer_request(environ)
    is_outermost = span is None
    if span is None:
        method = environ.get("REQUEST_METHOD", "")
        traceparent = environ.get("HTTP_TRACEPARENT")
        if traceparent is None:
            span = begin_request(environ, method)
        else:
            span = begin_request(environ, method, traceparent, environ.get("HTTP_TRACESTATE", ""))
    else:
        enter_layer(span, environ, "")
    if BASE in environ:
        span.mount += environ.get("SCRIPT_NAME", "")[len(environ.pop(BASE)) :]
    return span, is_outermost


_CODES = {f"{status.value} {status.phrase}": status.value for status in HTTPStatus}


def _code_of(status: str) -> int:
    return int(status[:3])


def _is_complete(response: Any, environ: dict[str, Any]) -> bool:
    """Return whether a response can be returned unwrapped: one with a length, which the server may use, or a file
    wrapper, whose file the server may send by itself."""
    if hasattr(response, "__len__"):
        return True
    file_wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(file_wrapper, type) and isinstance(response, file_wrapper)


class _Response:
    """The application's response, still lazy: the server reads each chunk from the application's iterator. What runs
    inside is the request's, even if the application has left a span open there; what the server does meanwhile is
    not."""

    def __init__(
        self,
        response: Iterable[bytes],
        span: Span,
        pieces: Pieces,
        environ: dict[str, Any],
        route_of: Callable[..., str | None],
    ) -> None:
        self._response = response
        self._chunks: Iterator[bytes] | None = None
        self._span: Span | None = span
        self._pieces = pieces
        self._environ = environ
        self._route_of = route_of

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunks = self._chunks
        self._pieces.enter()
        try:
            if chunks is None:
                chunks = self._chunks = iter(self._response)
            return next(chunks)
        except StopIteration:
            self._finish(None)
            raise
        except BaseException as error:
            self._finish(error)
            raise
        finally:
            self._pieces.leave()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)

    def close(self) -> None:
        """End the span; servers call this at the end of every response (PEP 3333), also after an error. Before the last
        chunk it means that the reader has left."""
        if self._chunks is not None and self._span is not None:
            self._span.client_has_left = True
        self._pieces.enter()
        try:
            close = getattr(self._response, "close", None)
            if close is not None:
                close()
        finally:
            self._finish(None)
            self._pieces.leave()

    def _finish(self, error: BaseException | None) -> None:
        span, self._span = self._span, None
        if span is not None:
            if error is not None:
                span.fail_with(error)
            _end(span, self._environ, self._route_of)


def _end(span: Span, environ: dict[str, Any], route_of: Callable[..., str | None]) -> None:
    try:
        if span.route is None:
            span.route = route_of(environ)
    except Exception:
        pass
    end_request(span)
    leave_request(span)


def no_route(_environ: dict[str, Any]) -> str | None:
    """Return None, for applications with an unknown router."""
    return None
