"""WSGI applications: a span from the request to the end of the response, even a streamed one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any

from vantage_agent._semconv import http_server
from vantage_agent._span import Span
from vantage_agent._tracer import tracer

MARK = "vantage_agent.span"  # in the environ: the span that already measures the request


def call_wsgi(
    app: Callable[..., Any],
    environ: dict[str, Any],
    start_response: Callable[..., Any],
    route_of: Callable[[dict[str, Any]], str | None],
) -> Any:
    """Call ``app(environ, start_response)`` as a span. ``route_of(environ)`` returns the route's template, when the
    response begins or at the end without one: empty when none matched, None when it is unknown."""
    try:
        outer: Span | None = environ.get(MARK)
        if outer is None:
            traceparent = environ.get("HTTP_TRACEPARENT")
            if traceparent is None:
                span = tracer.begin(http_server, "server")
            else:
                span = tracer.begin(http_server, "server", traceparent, environ.get("HTTP_TRACESTATE", ""))
            span.method = environ.get("REQUEST_METHOD", "")
            environ[MARK] = span
        else:  # an outer layer measures the request, but may not know the route
            span = outer
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

    if outer is not None:
        return app(environ, start)
    try:
        response = app(environ, start)
    except BaseException as error:
        span.fail(error)
        _end(span, environ, route_of)
        raise
    try:
        if span.is_complete or _is_complete(response, environ):
            _end(span, environ, route_of)
            return response
        tracer.deactivate(span)
        return _Response(response, span, environ, route_of)
    except Exception:
        return response


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
    """The application's response, still lazy: the server reads each chunk from the application's iterator. The time to
    create a chunk belongs to the span; the server's time does not."""

    def __init__(
        self, response: Iterable[bytes], span: Span, environ: dict[str, Any], route_of: Callable[..., str | None]
    ) -> None:
        self._response = response
        self._chunks: Iterator[bytes] | None = None
        self._span: Span | None = span
        self._environ = environ
        self._route_of = route_of

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunks = self._chunks
        span = self._span
        if span is not None:
            _enter(span)
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
            if span is not None:
                _leave(span)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)

    def close(self) -> None:
        """End the span; servers call this at the end of every response (PEP 3333), also after an error."""
        try:
            close = getattr(self._response, "close", None)
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
    """Return None, for applications with an unknown router."""
    return None
