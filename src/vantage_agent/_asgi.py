"""ASGI applications: a span from the request to the last piece of the answer. Background tasks that run after it
count no more; sockets and the lifespan pass through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from vantage_agent._describe import http_server
from vantage_agent._lifespan import call_lifespan
from vantage_agent._runtime import watch_loop
from vantage_agent._span import Span, perf_ns
from vantage_agent._tracer import tracer

MARK = "vantage_agent.span"  # in the scope: the request is measured already, by this span


async def call_asgi(
    app: Callable[..., Awaitable[Any]],
    scope: Any,
    receive: Any,
    send: Any,
    route_of: Callable[[Any], str | None],
) -> Any:
    """``await app(scope, receive, send)`` as a span. ``route_of(scope)`` is asked at the end for the route's
    template: empty when none matched, None when it does not know."""
    span = _begin(scope)
    if span is None:
        if scope.get("type") == "lifespan":
            return await call_lifespan(app, scope, receive, send)
        return await app(scope, receive, send)
    is_open = True

    def sending(message: Any) -> Any:
        nonlocal is_open
        if is_open:
            try:
                kind = message["type"]
                if kind == "http.response.start":
                    span.status_code = message["status"]
                elif kind == "http.response.body" and not message.get("more_body", False):
                    span.duration_ns = perf_ns() - span.began_ns
                    if span.status_code < 500:  # otherwise the exception behind it may follow
                        is_open = False
                        _end(span, scope, route_of)
            except Exception:
                pass
        return send(message)

    try:
        return await app(scope, receive, sending)
    except BaseException as error:
        if is_open:
            span.fail(error)
        raise
    finally:
        if is_open:
            is_open = False
            _end(span, scope, route_of)
        _leave(span)


def _begin(scope: Any) -> Span | None:
    try:
        if not tracer.on or scope["type"] != "http" or MARK in scope:
            return None
        watch_loop()
        traceparent = tracestate = ""
        for name, value in scope["headers"]:
            if name == b"traceparent":
                # Given twice it is as good as none: joined like this it is not valid.
                traceparent = f"{traceparent},{value.decode('latin-1')}" if traceparent else value.decode("latin-1")
            elif name == b"tracestate":
                tracestate = f"{tracestate},{value.decode('latin-1')}" if tracestate else value.decode("latin-1")
        span = tracer.begin(http_server, "server", traceparent, tracestate)
        span.method = scope["method"]
        tracer.enter(span)
        scope[MARK] = span
        return span
    except Exception:
        return None


def _end(span: Span, scope: Any, route_of: Callable[[Any], str | None]) -> None:
    try:
        route = route_of(scope)
        if route is not None:
            span.route = route
        if not span.failed:
            if span.status_code >= 500:
                span.fail(span.error_type or str(span.status_code))
            else:
                span.error_type = ""
        scope.pop(MARK, None)
        tracer.end(span)
    except Exception:
        pass


def _leave(span: Span) -> None:
    try:
        tracer.leave(span)
    except Exception:
        pass


def no_route(scope: Any) -> str | None:
    """Of an application whose router is not known."""
    return None
