"""What the HTTP clients have in common: a span around a call, and the header that carries it along."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from vantage_agent._context import current
from vantage_agent._describe import http_client
from vantage_agent._span import Span
from vantage_agent._tracer import traceparent_of, tracer

PEER_LENGTH_MAX = 300  # of a URL: host and port are within


def begin_call(method: str, url: str, headers: MutableMapping[str, str]) -> Span | None:
    """None when there is nothing to do: no agent, or a call inside a call (a redirect, or a library on top of
    another). A ``traceparent`` of the application's own is left as it is."""
    try:
        if not tracer.on:
            return None
        around = current.get()
        if around is not None and around.describe is http_client:
            return None
        span = tracer.begin(http_client, "client")
        span.method = method
        span.peer = url[:PEER_LENGTH_MAX]
        if "traceparent" not in headers:
            headers["traceparent"] = traceparent_of(span)
            if span.tracestate:
                headers["tracestate"] = span.tracestate
        tracer.enter(span)
        return span
    except Exception:
        return None


def end_call(span: Span, headers: MutableMapping[str, str], status_code: int, error: BaseException | None) -> None:
    """The headers lose what they were given: the request is the application's, to look at and to send again."""
    try:
        forget_call(span, headers)
        span.status_code = status_code
        if error is not None:
            span.fail(error)
        elif status_code >= 500:
            span.fail(str(status_code))
    except Exception:
        pass
    tracer.finish(span)


def forget_call(span: Span, headers: MutableMapping[str, Any]) -> None:
    if headers.get("traceparent") == traceparent_of(span):
        del headers["traceparent"]
        if span.tracestate:
            headers.pop("tracestate", None)
