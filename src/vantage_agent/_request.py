"""A request that the application answers: one span, however many layers and kinds of servers it passes.

An application may be mounted in another, and one of WSGI in one of ASGI, by a bridge that makes a new environment. The
innermost layer knows the route, the outer ones what it is mounted under.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from vantage_agent._context import current, running, running_around
from vantage_agent._semconv import http_server
from vantage_agent._span import Span, is_cancellation
from vantage_agent._tracer import tracer

MARK = "vantage_agent.span"  # in the scope or environment: the span that measures the request
# Exceptions by which frameworks end a request whose client has left.
_OF_CLIENT = frozenset(("ClientDisconnect", "ClientDisconnected", "RequestAborted"))


def begin_request(scope: dict[str, Any], method: str, traceparent: str | None = None, tracestate: str = "") -> Span:
    """Begin the span of a request, and mark its scope or environment."""
    span = tracer.begin(http_server, "server", traceparent, tracestate)
    span.method = method
    span.scope = scope
    scope[MARK] = span
    return span


def fail_request(span: Span, error: BaseException) -> None:
    """Note an exception that leaves the application."""
    try:
        if _is_of_client(span, error):
            span.client_has_left = True
            span.cause = error
        else:
            span.fail_with(error)
    except Exception:
        pass


def end_request(span: Span) -> None:
    """End the span, with the route that a router has matched and the exception behind an error."""
    scope, span.scope = span.scope, None
    try:
        if span.late_route is not None:
            span.route = _late_route(span)
            span.late_route = None
        if not span.failed and (span.client_has_left or span.status_code >= 500):
            _judge(span)
        if scope is not None:
            del scope[MARK]
    except Exception:
        pass
    span.cause = None
    try:
        tracer.end(span)
    except Exception:
        pass


def leave_request(span: Span) -> None:
    """Make current what was when the request began, even if spans inside it have not ended."""
    current.set(running_around(span.outer))


def _judge(span: Span) -> None:
    """Decide whether a request failed, or whether its client left before the response was complete."""
    cause = span.cause
    if cause is not None and _is_of_client(span, cause):
        span.status_code = 0  # of a response to nobody
    elif not span.client_has_left or span.duration_ns >= 0:
        if span.status_code >= 500:
            if cause is not None:
                span.fail_with(cause)
            if not span.failed:
                span.fail(str(span.status_code))
        return
    span.is_plain = False
    span.tags = {**(span.tags or {}), "client_disconnected": "true"}


def outer_request(scope: dict[str, Any]) -> Span | None:
    """Return the span that measures this request already, None without one."""
    span: Span | None = scope.get(MARK)
    if span is None and current.get() is not None:
        span = running_request()
        if span is not None:
            if span.scope is None or not _is_same(span.scope, scope):
                return None
            scope[MARK] = span
    return span


def running_request() -> Span | None:
    """Return the span of the request that runs here, whatever spans run inside it."""
    span = running()
    while span is not None and span.describe is not http_server:
        span = running_around(span.outer)
    return span


def enter_layer(span: Span, scope: Any, route: str | None = None, route_of: Callable[[Any], str] | None = None) -> None:
    """Enter an application inside the one that measures the request: what matched so far is what it is mounted
    under."""
    if route is None and route_of is None:
        return
    template = "" if span.late_route is None else _late_route(span)
    if template:
        span.mount = template.rstrip("/")
        span.late_route = None
        span.route = ""
    if route_of is not None:
        span.late_route = route_of, scope


def note_cause(span: Span | None, error: BaseException | None) -> None:
    """Note the first exception that is handled: it counts if the response is an error. An exception that only stands
    for a status has the cause that it was raised from."""
    if span is None or error is None or span.cause is not None:
        return
    if any(kind.__name__ == "HTTPException" for kind in type(error).__mro__):
        error = error.__cause__
    if error is not None:
        span.cause = error


def _is_of_client(span: Span, error: BaseException) -> bool:
    """Return whether an exception that ends a request means that its client has left."""
    if type(error).__name__ in _OF_CLIENT:
        return True
    return span.client_has_left and (isinstance(error, OSError) or is_cancellation(error))


def _late_route(span: Span) -> str:
    if span.late_route is None:
        return span.route or ""
    route_of, scope = span.late_route
    route = route_of(scope)
    return span.mount + route if route else ""


def _is_same(outer: dict[str, Any], inner: dict[str, Any]) -> bool:
    """Return whether two scopes or environments are those of one request: its method, path and query."""
    outer_method, outer_paths, outer_query = _target(outer)
    method, paths, query = _target(inner)
    return outer_method == method and outer_query == query and not outer_paths.isdisjoint(paths)


def _target(scope: dict[str, Any]) -> tuple[str, set[bytes], bytes]:
    """Return method, the path as far as it is known, and query."""
    if "REQUEST_METHOD" in scope:
        path = scope.get("PATH_INFO", "").encode("latin-1", "replace")
        base = scope.get("SCRIPT_NAME", "").encode("latin-1", "replace")
        return (
            scope["REQUEST_METHOD"],
            {(base + path).rstrip(b"/")},
            scope.get("QUERY_STRING", "").encode("latin-1", "replace"),
        )
    path, base = scope["path"].encode("utf-8", "replace"), scope.get("root_path", "").encode("utf-8", "replace")
    raw_path = (scope.get("raw_path") or b"").partition(b"?")[0]
    # Litestar replaces the path by what its mount leaves of it, and adds a slash.
    paths = {known.rstrip(b"/") for known in (path, base + path, unquote_to_bytes(raw_path) or path)}
    return scope["method"], paths, scope.get("query_string", b"")
