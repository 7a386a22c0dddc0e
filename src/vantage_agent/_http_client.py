"""Spans around calls of HTTP clients, and the header that propagates them."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from vantage_agent._context import current, running, running_around
from vantage_agent._semconv import address_of, http_client
from vantage_agent._span import Span
from vantage_agent._tracer import traceparent_of, tracer

PEER_LENGTH_MAX = 120


def begin_call(library: str, method: str, peer: str | tuple[str, int | None], headers: Any = None) -> Span | None:
    """Begin a span, or return None: without an agent, or for a call that another library, or a redirect, makes on
    behalf of one that runs. ``peer`` is host and port, or a URL, of which only these are sent; ``headers`` are those of
    the request."""
    try:
        if not tracer.on:
            return None
        outer = None if current.get() is None else running_call()
        if outer is not None and _is_same(outer, library, method, peer, headers):
            return None
        # Cut after the host, never before it: that part may be a password.
        if type(peer) is str and len(peer) > PEER_LENGTH_MAX:
            peer = "/".join(peer.split("/", 3)[:3])
        span = tracer.begin(http_client, "client")
        span.library = library
        span.method = method
        span.peer = peer
        return span
    except Exception:
        return None


def _is_same(outer: Span, library: str, method: str, peer: str | tuple[str, int | None], headers: Any) -> bool:
    """Return whether a call inside a call sends the same request: what it carries says so, or else method and peer.

    Clients that add the header below the call, like httpx, do not call themselves for the same request.
    """
    if outer.carried:
        return outer.carried == _traceparent_in(headers)
    if outer.library == library or outer.method.upper() != method.upper():
        return False
    return _address_of(outer.peer) == _address_of(peer)


def _address_of(peer: str | tuple[str, int | None]) -> tuple[str, int | None]:
    host, port = address_of(peer) if isinstance(peer, str) else peer
    return host.lower(), None if port in (80, 443) else port


def _traceparent_in(headers: Any) -> str:
    """Return the value of ``traceparent``, '' without one or for headers that can be read only once."""
    if not hasattr(headers, "keys"):
        return ""
    for name in headers:
        if len(name) == 11 and name.lower() in ("traceparent", b"traceparent"):
            value = headers[name]
            if isinstance(value, tuple):  # an item of requests' mapping: the name as sent, and the value
                value = value[1]
            return value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return ""


def running_call() -> Span | None:
    """Return the span of the running call, whatever spans of the application's run inside it; None without one."""
    span = running() if tracer.on else None
    while span is not None and span.describe is not http_client:
        span = running_around(span.outer)
    return span


def inject(span: Span, headers: MutableMapping[str, Any], make_item: Callable[[str, str], Any] | None = None) -> None:
    """Add ``traceparent``, unless the application has set one. ``make_item`` turns name and value into an item of
    ``headers``, where that is not the value."""
    try:
        if "traceparent" in headers:
            span.carried = _traceparent_in(headers)
        else:
            value = span.carried = traceparent_of(span)
            headers["traceparent"] = value if make_item is None else make_item("traceparent", value)
            span.header_injected = True
            if span.tracestate:
                state = span.tracestate
                headers["tracestate"] = state if make_item is None else make_item("tracestate", state)
    except Exception:
        pass


def with_header(span: Span, headers: Any) -> Any:
    """Return a copy of ``headers`` with ``traceparent``, for clients that only read them; ``headers`` itself if the
    application has set one, in any case. Raises if they cannot be copied."""
    for name in headers:
        if len(name) == 11 and name.lower() in ("traceparent", b"traceparent"):
            span.carried = _traceparent_in(headers)
            return headers
    copied = headers.copy()
    copied["traceparent"] = span.carried = traceparent_of(span)
    if span.tracestate:
        copied["tracestate"] = span.tracestate
    return copied


def remove_injected(span: Span, headers: MutableMapping[str, Any]) -> None:
    """Remove the injected headers: the application may inspect the request and send it again."""
    if span.header_injected:
        span.header_injected = False
        try:
            del headers["traceparent"]
            if span.tracestate:
                del headers["tracestate"]
        except Exception:  # the application has removed it
            pass


def end_call(span: Span, status_code: int, error: BaseException | None) -> None:
    try:
        span.status_code = status_code
        if error is not None:
            span.fail(error)
        elif status_code >= 500:
            span.fail(str(status_code))
    except Exception:
        pass
    tracer.finish(span)


def remove_from_redirects(span: Span, response: Any) -> None:
    """Remove the injected headers from redirected requests, which copied those of the first."""
    try:
        injected = traceparent_of(span)
        for answer in (response, *response.history):
            headers = answer.request.headers
            if headers.get("traceparent") == injected:
                del headers["traceparent"]
                if span.tracestate:
                    headers.pop("tracestate", None)
    except Exception:
        pass
