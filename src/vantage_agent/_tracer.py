"""Begins and ends spans, and decides which are kept. What instrumentations record with.

There is one tracer a process, and wrapped functions outlive agents: without an agent it is ``off`` and keeps nothing.

A trace is kept when its id is among the ``trace_sample_rate`` sampled ones, or when its caller sampled it. Of the
others are kept those with an error, and of each kind of request the slowest of each interval. Durations are recorded
of every request, kept or not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from vantage_agent._buffer import PLAIN_NBYTES, Buffer
from vantage_agent._context import (
    current,
    new_ids,
    new_span_id,
    parse_traceparent,
    usable_tracestate,
)
from vantage_agent._span import PENDING_MAX, Span, SpanDescription, perf_ns

# What is to be made of a span in the buffer. One that lies there as it is: both.
SAMPLE, SPAN, BOTH = 1, 2, 3
SLOWEST_MAX = 100  # kinds of requests of which the slowest is looked for
SLOWEST_SPANS_MAX = 2000  # held for them in all, beside the buffer


class Tracer:
    """``on`` while there is an agent. Methods are called in the application's threads and must stay cheap."""

    on: bool
    _buffer: Buffer
    _keep: Callable[[int, int, Any], None]
    _look: Callable[[], None]
    _slowest: dict[tuple[Any, ...], Span]

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may end a span, or the agent
        self._samples_all = True
        self._sampled_below = 1 << 56
        self.detach()

    def attach(
        self,
        buffer: Buffer,
        keep: Callable[[int, int, Any], None],
        look: Callable[[], None],
        *,
        sample_rate: float,
    ) -> None:
        """Spans that end go into ``buffer``: the plain ones directly, with a ``look()`` when it asks for one, the
        others by ``keep(nbytes, what, span)``."""
        self._samples_all = sample_rate >= 1
        self._sampled_below = int(sample_rate * (1 << 56))
        self._lock = threading.RLock()  # after a fork the old one may be held by a thread that is no more
        self._slowest = {}
        self._slowest_spans = 0
        self._buffer = buffer
        self._keep = keep
        self._look = look
        self.on = True

    def detach(self) -> None:
        self.on = False
        # Spans that end without an agent: this one asks for a look at each.
        self._buffer = Buffer(items_max=0, nbytes_max=0)
        self._keep = _keep_nothing
        self._look = self._buffer.items.clear
        self._slowest = {}
        self._slowest_spans = 0

    def begin(
        self,
        describe: Callable[[Span], SpanDescription],
        kind: str,
        traceparent: str | None = None,
        tracestate: str = "",
    ) -> Span:
        """A span that begins now, as a child of the one that ``traceparent`` names, or else of the running one. It is
        the running one itself until ``leave`` or ``finish``."""
        span = Span(describe, kind)
        if traceparent and (found := parse_traceparent(traceparent)) is not None:
            span.trace_id, span.parent_id, span.sampled = found
            span.is_plain = span.sampled
            span.span_id = new_span_id()
            if tracestate:
                span.tracestate = usable_tracestate(tracestate)
        else:
            parent = current.get()
            if parent is None:
                span.trace_id, span.span_id = new_ids()
                # By the id, so that whoever decides for this trace decides alike.
                if not self._samples_all and int(span.trace_id[-14:], 16) >= self._sampled_below:
                    span.sampled = span.is_plain = False
            else:
                span.trace_id = parent.trace_id
                span.span_id = new_span_id()
                span.parent_id = parent.span_id
                if parent.tracestate:
                    span.tracestate = parent.tracestate
                if not parent.sampled:
                    span.sampled = span.is_plain = False
                    if kind != "server":
                        span.root = parent.root or parent
        span.token = current.set(span)
        return span

    def activate(self, span: Span) -> None:
        """Make it the running one again."""
        span.token = current.set(span)

    def deactivate(self, span: Span) -> None:
        token, span.token = span.token, None
        if token is not None:
            try:
                current.reset(token)
            except ValueError:  # it ends in another context than it began in, whose running span is not this one
                pass

    def end(self, span: Span, *, measured: bool = True) -> None:
        """The span ends now, unless its ``duration_ns`` was set before. With ``measured`` its duration is a sample."""
        if span.duration_ns < 0:
            span.duration_ns = perf_ns() - span.began_ns
        if span.is_plain and measured:
            buffer = self._buffer
            items = buffer.items
            items.append(span)
            if len(items) >= buffer.look_at:
                self._look()
        elif span.sampled:
            self._keep(span.nbytes, BOTH if measured else SPAN, span)
        elif span.root is None:
            self._end_root(span, measured=measured)
        else:
            self._end_child(span, span.root, measured=measured)

    def finish(self, span: Span) -> None:
        """``leave`` and ``end``, whatever happens: nothing is raised."""
        try:
            token = span.token
            if token is not None:  # as ``leave`` does, without the call
                span.token = None
                try:
                    current.reset(token)
                except ValueError:
                    pass
            self.end(span)
        except Exception:
            self._buffer.count_loss("internal_error")

    def _end_root(self, root: Span, *, measured: bool) -> None:
        """Of a trace that was not sampled: is it worth keeping after all?"""
        held = root.pending or ()
        if root.failed or any(span.failed for span in held):
            root.is_recorded = True
            self._keep(root.nbytes, BOTH if measured else SPAN, root)
            for span in held:
                span.is_recorded = True
                self._keep(span.nbytes, SPAN, span)
            root.pending = None
            return
        if measured:
            self._keep(PLAIN_NBYTES, SAMPLE, root)
        # The names of spans are worked out later: what they are made of tells kinds of requests apart as well.
        key = (root.describe, root.name, root.method, root.route)
        with self._lock:
            before = self._slowest.get(key)
            if before.duration_ns < root.duration_ns if before is not None else len(self._slowest) < SLOWEST_MAX:
                if before is not None:
                    self._slowest_spans -= len(before.pending or ())
                    before.pending = None
                if self._slowest_spans + len(held) > SLOWEST_SPANS_MAX:
                    root.pending = None
                    self._buffer.count_loss("trace_too_large")
                self._slowest_spans += len(root.pending or ())
                self._slowest[key] = root
            else:
                root.pending = None

    def _end_child(self, span: Span, root: Span, *, measured: bool) -> None:
        if root.is_recorded:
            span.is_recorded = True
            self._keep(span.nbytes, BOTH if measured else SPAN, span)
            return
        if measured:
            self._keep(PLAIN_NBYTES, SAMPLE, span)
        if root.duration_ns >= 0:
            return  # it was not worth keeping, or is the slowest so far: what comes after it is not held
        held = root.pending
        if held is None:
            root.pending = [span]
        elif len(held) < PENDING_MAX:
            held.append(span)
        else:
            self._buffer.count_loss("trace_too_large")

    def take_slowest(self) -> None:
        """Keep the slowest of the interval that ends. The exporter calls it."""
        with self._lock:
            slowest, self._slowest = self._slowest, {}
            self._slowest_spans = 0
        for root in slowest.values():
            held, root.pending = root.pending or (), None
            root.is_recorded = True
            for span in (root, *held):
                span.is_recorded = True
                self._keep(span.nbytes, SPAN, span)


def traceparent_of(span: Span) -> str:
    return f"00-{span.trace_id}-{span.span_id}-{'01' if span.sampled else '00'}"


def _keep_nothing(nbytes: int, what: int, span: Any) -> None:
    """There is no agent."""


tracer = Tracer()
