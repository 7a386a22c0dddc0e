"""ASGI applications: a span from the request to the last part of the response. Background tasks that run after it are
not measured; WebSockets and the lifespan pass through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from vantage_agent._lifespan import call_unmeasured
from vantage_agent._runtime import watch_loop
from vantage_agent._semconv import http_server
from vantage_agent._span import Span, perf_ns
from vantage_agent._tracer import tracer

MARK = "vantage_agent.span"  # in the scope: the span that already measures the request


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
        span = _begin(scope, route)
        if span is None:
            return await call_unmeasured(call, app, scope, receive, send)
        is_open = True

        def sending(message: Any) -> Any:
            nonlocal is_open
            if is_open:
                try:
                    kind = message["type"]
                    if kind == "http.response.start":
                        span.status_code = message["status"]
                    elif kind == "http.response.body" and not message.get("more_body"):
                        span.duration_ns = perf_ns() - span.began_ns
                        if span.status_code < 500:  # otherwise its exception may follow
                            is_open = False
                            _end(span, scope, route_of)
                except Exception:
                    pass
            return send(message)

        try:
            return await call(app, scope, receive, sending)
        except BaseException as error:
            if is_open:
                span.fail(error)
            raise
        finally:
            if is_open:
                is_open = False
                _end(span, scope, route_of)
            tracer.deactivate(span)

    return wrapper


def _begin(scope: Any, route: str | None) -> Span | None:
    try:
        if not tracer.on or scope["type"] != "http" or MARK in scope:
            return None
        method = scope["method"]
        watch_loop()
        headers = scope["headers"]
        if hasattr(headers, "__next__"):  # an iterator is read once, and the application must read it too
            headers = scope["headers"] = list(headers)
        if b"traceparent" in dict(headers):
            traceparent, tracestate = _value(scope, b"traceparent"), _value(scope, b"tracestate")
            span = tracer.begin(http_server, "server", traceparent, tracestate)
        else:
            span = tracer.begin(http_server, "server")
        span.method = method
        span.route = route
        scope[MARK] = span
        return span
    except Exception:
        return None


def _value(scope: Any, header: bytes) -> str:
    """Return the value of a header. A repeated header is joined, which is not a valid value."""
    return ",".join([value.decode("latin-1") for name, value in scope["headers"] if name == header])


def _end(span: Span, scope: Any, route_of: Callable[[Any], str] | None) -> None:
    try:
        if route_of is not None:
            span.route = route_of(scope)
        if not span.failed:
            if span.status_code >= 500:
                span.fail(span.error_type or str(span.status_code))
            elif span.error_type:
                span.error_type = ""
        del scope[MARK]
        tracer.end(span)
    except Exception:
        pass


def call_app(app: Callable[..., Awaitable[Any]], scope: Any, receive: Any, send: Any) -> Awaitable[Any]:
    """Call an application that is a function, for ``measured``."""
    return app(scope, receive, send)
