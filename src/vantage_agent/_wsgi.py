"""WSGI applications: a span from the request to the end of the answer, however long that is streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from vantage_agent._describe import http_server
from vantage_agent._span import Span
from vantage_agent._tracer import tracer

_MARK = "vantage_agent.span"  # in the environ: the request is measured already


def call_wsgi(
    app: Callable[..., Any],
    environ: dict[str, Any],
    start_response: Callable[..., Any],
    route_of: Callable[[dict[str, Any]], str | None],
) -> Any:
    """``app(environ, start_response)`` as a span. ``route_of(environ)`` is asked at the end for the route's template:
    empty when none matched, None when it cannot be known."""
    span = _begin(environ)
    if span is None:
        return app(environ, start_response)

    def start(status: str, *args: Any, **kwargs: Any) -> Any:
        try:
            span.status_code = int(status[:3])
        except (ValueError, TypeError):
            pass
        return start_response(status, *args, **kwargs)

    try:
        answer = app(environ, start)
    except BaseException as error:
        span.fail(error)
        _end(span, environ, route_of)
        raise
    try:
        # A list is complete; a file wrapper is given to the server as it is, which may send the file by itself.
        file_wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(answer, (list, tuple)) or (isinstance(file_wrapper, type) and isinstance(answer, file_wrapper)):
            _end(span, environ, route_of)
            return answer
        tracer.leave(span)
        return _Answer(answer, span, environ, route_of)
    except Exception:
        return answer


class _Answer:
    """The application's answer, still lazy: the server takes each piece from the application's own iterator."""

    def __init__(
        self, answer: Iterable[bytes], span: Span, environ: dict[str, Any], route_of: Callable[..., str | None]
    ) -> None:
        self._answer = answer
        self._span: Span | None = span
        self._environ = environ
        self._route_of = route_of

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._answer
        except GeneratorExit:
            raise
        except BaseException as error:
            if self._span is not None:
                self._span.fail(error)
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._answer, name)

    def close(self) -> None:
        """Servers call it at the end of every answer (PEP 3333)."""
        span, self._span = self._span, None
        try:
            close = getattr(self._answer, "close", None)
            if close is not None:
                close()
        finally:
            if span is not None:
                _end(span, self._environ, self._route_of)


def _begin(environ: dict[str, Any]) -> Span | None:
    try:
        if not tracer.on or _MARK in environ:
            return None
        span = tracer.begin(http_server, "server", environ.get("HTTP_TRACEPARENT"), environ.get("HTTP_TRACESTATE", ""))
        span.method = environ.get("REQUEST_METHOD", "")
        environ[_MARK] = span
        tracer.enter(span)
        return span
    except Exception:
        return None


def _end(span: Span, environ: dict[str, Any], route_of: Callable[..., str | None]) -> None:
    try:
        environ.pop(_MARK, None)
        span.route = route_of(environ)
        if span.status_code >= 500 and not span.failed:
            span.fail(str(span.status_code))
    except Exception:
        pass
    tracer.finish(span)


def no_route(environ: dict[str, Any]) -> str | None:
    """Of an application whose router is not known."""
    return None
