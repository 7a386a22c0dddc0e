"""Spans around calls of HTTP clients, and the header that propagates them."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from vantage_agent._context import current
from vantage_agent._semconv import http_client
from vantage_agent._span import Span
from vantage_agent._tracer import traceparent_of, tracer

PEER_LENGTH_MAX = 120


def begin_call(method: str, peer: str | tuple[str, int | None]) -> Span | None:
    """Begin a span, or return None: without an agent, or for a call inside a call (a redirect, or a library on top of
    another). ``peer`` is host and port, or a URL, of which only these are sent."""
    try:
        if not tracer.on:
            return None
        outer = current.get()
        if outer is not None and outer.describe is http_client and outer.duration_ns < 0:
            return None
        # Cut after the host, never before it: that part may be a password.
        if type(peer) is str and len(peer) > PEER_LENGTH_MAX:
            peer = "/".join(peer.split("/", 3)[:3])
        span = tracer.begin(http_client, "client")
        span.method = method
        span.peer = peer
        return span
    except Exception:
        return None


def running_call() -> Span | None:
    """Return the span of the running call, for clients that inject the header in a deeper layer than the span."""
    span = current.get() if tracer.on else None
    return span if span is not None and span.describe is http_client and span.duration_ns < 0 else None


def inject(span: Span, headers: MutableMapping[str, Any], make_item: Callable[[str, str], Any] | None = None) -> None:
    """Add ``traceparent``, unless the application has set one. ``make_item`` turns name and value into an item of
    ``headers``, where that is not the value."""
    try:
        if "traceparent" not in headers:
            value = traceparent_of(span)
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
            return headers
    copied = headers.copy()
    copied["traceparent"] = traceparent_of(span)
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
