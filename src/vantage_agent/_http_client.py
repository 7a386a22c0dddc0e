"""What the HTTP clients have in common: a span around a call, and the header that carries it along."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from vantage_agent._context import current
from vantage_agent._semconv import http_client
from vantage_agent._span import Span
from vantage_agent._tracer import traceparent_of, tracer

PEER_LENGTH_MAX = 120


def begin_call(method: str, peer: str | tuple[str, int | None]) -> Span | None:
    """None when there is nothing to do: no agent, or a call inside a call (a redirect, or a library on top of
    another). ``peer`` is host and port, or a URL, of which no more is told."""
    try:
        if not tracer.on:
            return None
        around = current.get()
        if around is not None and around.describe is http_client and around.duration_ns < 0:
            return None
        # Cut behind the host, never within what stands before it: that may be a password.
        if type(peer) is str and len(peer) > PEER_LENGTH_MAX:
            peer = "/".join(peer.split("/", 3)[:3])
        span = tracer.begin(http_client, "client")
        span.method = method
        span.peer = peer
        return span
    except Exception:
        return None


def running_call() -> Span | None:
    """The call that this code is a part of, for clients that give the header further down than they are measured."""
    span = current.get() if tracer.on else None
    return span if span is not None and span.describe is http_client and span.duration_ns < 0 else None


def inject(span: Span, headers: MutableMapping[str, Any], made: Callable[[str, str], Any] | None = None) -> None:
    """A ``traceparent`` of the application's own is left as it is. ``made`` turns name and value into what
    ``headers`` holds, where that is not the value."""
    try:
        if "traceparent" not in headers:
            value = traceparent_of(span)
            headers["traceparent"] = value if made is None else made("traceparent", value)
            span.header_injected = True
            if span.tracestate:
                headers["tracestate"] = span.tracestate if made is None else made("tracestate", span.tracestate)
    except Exception:
        pass


def with_header(span: Span, headers: Any) -> Any:
    """A copy of ``headers`` that carries the trace, for clients that only read them; the same ones where one of the
    application's own is among them, in whatever case. Raises where they cannot be copied."""
    for name in headers:
        if len(name) == 11 and name.lower() in ("traceparent", b"traceparent"):
            return headers
    copied = headers.copy()
    copied["traceparent"] = traceparent_of(span)
    if span.tracestate:
        copied["tracestate"] = span.tracestate
    return copied


def remove_injected(span: Span, headers: MutableMapping[str, Any]) -> None:
    """The headers lose what they were given: the request is the application's, to look at and to send again."""
    if span.header_injected:
        span.header_injected = False
        try:
            del headers["traceparent"]
            if span.tracestate:
                del headers["tracestate"]
        except Exception:  # the application took it out meanwhile
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


def forget_redirects(span: Span, response: Any) -> None:
    """Redirected requests copied the headers of the first."""
    try:
        given = traceparent_of(span)
        for one in (response, *response.history):
            headers = one.request.headers
            if headers.get("traceparent") == given:
                del headers["traceparent"]
                if span.tracestate:
                    headers.pop("tracestate", None)
    except Exception:
        pass
