"""ASGI applications: a span from the request to the last part of the response. Background tasks that run after it are
not measured; WebSockets and the lifespan pass through."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from vantage_agent._lifespan import call_unmeasured
from vantage_agent._request import (
    begin_request,
    end_request,
    enter_layer,
    fail_request,
    leave_request,
    note_cause,
    outer_request,
)
from vantage_agent._runtime import watch_loop
from vantage_agent._span import Span, perf_ns
from vantage_agent._tracer import tracer


def measured(
    call: Callable[..., Awaitable[Any]],
    *,
    route: str | None = None,
    route_of: Callable[[Any], str] | None = None,
) -> Callable[..., Awaitable[Any]]:
    """Wrap ``call(app, scope, receive, send)`` so that each HTTP request is a span.

    The route's template is ``route``, unless the span at ``scope[MARK]`` gets another one or ``route_of(scope)``
    returns one at the end. Empty: none matched. None: unknown.
    """

    async def wrapper(app: Any, scope: Any, receive: Any, send: Any) -> Any:
        span = _begin(scope, route, route_of)
        if span is None:
            return await call_unmeasured(call, app, scope, receive, send)

        async def receiving() -> Any:
            message = await receive()
            if message.__class__ is dict and message.get("type") == "http.disconnect":
                span.client_has_left = True
            return message

        def sending(message: Any) -> Any:
            if span.scope is not None:  # it has not ended
                _note(span, message)
            return send(message)

        try:
            return await call(app, scope, receiving, sending)
        except BaseException as error:
            if span.scope is not None:
                fail_request(span, error)
            raise
        finally:
            if span.scope is not None:
                end_request(span)
            leave_request(span)

    return wrapper


def _note(span: Span, message: Any) -> None:
    """Note a message that the application sends."""
    try:
        kind = message["type"]
        if kind == "http.response.start":
            span.status_code = status = message["status"]
            if status >= 500:
                note_cause(span, sys.exc_info()[1])
        elif kind == "http.response.body" and not message.get("more_body"):
            span.duration_ns = perf_ns() - span.began_ns
            if span.status_code < 500:  # otherwise its exception may follow
                end_request(span)
    except Exception:
        pass


def _begin(scope: Any, route: str | None, route_of: Callable[[Any], str] | None) -> Span | None:
    try:
        if not tracer.on or scope["type"] != "http":
            return None
        outer = outer_request(scope)
        if outer is not None:
            enter_layer(outer, scope, route, route_of)
            return None
        method = scope["method"]
        watch_loop()
        headers = scope["headers"]
        if hasattr(headers, "__next__"):  # an iterator is read once, and the application must read it too
            headers = scope["headers"] = list(headers)
        if b"traceparent" in dict(headers):
            traceparent, tracestate = _value(scope, b"traceparent"), _value(scope, b"tracestate")
            span = begin_request(scope, method, traceparent, tracestate)
        else:
            span = begin_request(scope, method)
        span.route = route
        if route_of is not None:
            span.late_route = route_of, scope
        return span
    except Exception:
        return None


def _value(scope: Any, header: bytes) -> str:
    """Return the value of a header. A repeated header is joined, which is not a valid value."""
    return ",".join([value.decode("latin-1") for name, value in scope["headers"] if name == header])


def call_app(app: Callable[..., Awaitable[Any]], scope: Any, receive: Any, send: Any) -> Awaitable[Any]:
    """Call an application that is a function, for ``measured``."""
    return app(scope, receive, send)
