"""The tracer begins and ends spans, and decides which are recorded. Instrumentations use it.

There is one tracer per process, and wrapped functions outlive agents: without an agent it is off and records nothing.

A trace is recorded if its id is among the ``trace_sample_rate`` sampled ones, or if its caller sampled it; of the
others, traces with an error, and the slowest of each kind of request in each interval. The durations of all requests
are recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vantage_agent._buffer import PLAIN_NBYTES, Buffer
from vantage_agent._context import (
    current,
    new_ids,
    new_span_id,
    parse_traceparent,
    running_around,
    usable_tracestate,
)
from vantage_agent._native import new_rlock
from vantage_agent._span import PENDING_MAX, Span, SpanDescription, internal, perf_ns

# What to send of a span in the buffer. One without this tag: both.
SAMPLE, SPAN, BOTH = 1, 2, 3
SLOWEST_MAX = 100  # kinds of requests whose slowest is recorded
SLOWEST_SPANS_MAX = 2000  # pending for them in total, beside the buffer


class Tracer:
    """``on`` while there is an agent. Its methods run in the application's threads and must stay cheap."""

    on: bool
    _buffer: Buffer
    _append: Callable[[int, int, Any], None]
    _check: Callable[[], None]
    _slowest: dict[tuple[Any, ...], Span]

    def __init__(self) -> None:
        self._lock = new_rlock()  # a signal handler may end a span, or the agent
        self._samples_all = True
        self._sampled_below = 1 << 56
        self.detach()

    def attach(
        self,
        buffer: Buffer,
        append: Callable[[int, int, Any], None],
        check: Callable[[], None],
        *,
        sample_rate: float,
    ) -> None:
        """Record ended spans in ``buffer``: plain ones directly, with ``check()`` at the buffer's ``check_at_len``, the
        others by ``append(nbytes, what, span)``."""
        self._samples_all = sample_rate >= 1
        self._sampled_below = int(sample_rate * (1 << 56))
        self._lock = new_rlock()  # after a fork the old one may be locked by a thread that no longer exists
        self._slowest = {}
        self._slowest_spans = 0
        self._buffer = buffer
        self._append = append
        self._check = check
        self.on = True

    def detach(self) -> None:
        self.on = False
        # For spans that end without an agent: a buffer that is checked, and cleared, for each.
        self._buffer = Buffer(items_max=0, nbytes_max=0)
        self._append = _drop
        self._check = self._buffer.items.clear
        self._slowest = {}
        self._slowest_spans = 0

    def begin(
        self,
        describe: Callable[[Span], SpanDescription],
        kind: str,
        traceparent: str | None = None,
        tracestate: str = "",
    ) -> Span:
        """Begin a span, as a child of the one in ``traceparent``, or else of the running one. A request without
        ``traceparent`` begins a trace, except for a call in this process: what runs where a server calls the
        application may be another request. It is the current span until ``deactivate`` or ``finish``."""
        span = Span(describe, kind)
        outer = current.get()
        if outer is not None:
            outer = _without_ended(outer)
            if outer is not None:
                span.outer = outer
        if traceparent and (caller := parse_traceparent(traceparent)) is not None:
            span.trace_id, span.parent_id, span.sampled = caller
            span.is_plain = span.sampled
            span.span_id = new_span_id()
            if tracestate:
                span.tracestate = usable_tracestate(tracestate)
        elif outer is None or (kind == "server" and describe is not internal and not outer.is_in_process):
            span.trace_id, span.span_id = new_ids()
            # By the id, so that every process decides the same for this trace.
            if not self._samples_all and int(span.trace_id[-14:], 16) >= self._sampled_below:
                span.sampled = span.is_plain = False
        else:
            span.trace_id = outer.trace_id
            span.span_id = new_span_id()
            span.parent_id = outer.span_id
            if outer.tracestate:
                span.tracestate = outer.tracestate
            if not outer.sampled:
                span.sampled = span.is_plain = False
                if kind != "server":
                    span.root = outer.root or outer
        current.set(span)
        return span

    def deactivate(self, span: Span) -> None:
        """Make the next span around it the current one, if it is the current one here: it may end in another thread or
        context, or after spans that began after it."""
        now = current.get()
        if now is not span and (now is None or now.duration_ns < 0):
            return
        while now is not None and (now is span or now.duration_ns >= 0):
            now = now.outer
        current.set(now)

    def end(self, span: Span, *, measured: bool = True) -> None:
        """End a span now, unless its ``duration_ns`` is set. With ``measured`` its duration becomes a sample."""
        if span.duration_ns < 0:
            span.duration_ns = perf_ns() - span.began_ns
        if span.is_plain and measured:
            buffer = self._buffer
            items = buffer.items
            items.append(span)
            if len(items) >= buffer.check_at_len:
                self._check()
        elif span.sampled:
            self._append(span.nbytes, BOTH if measured else SPAN, span)
        elif span.root is None:
            self._end_root(span, measured=measured)
        else:
            self._end_child(span, span.root, measured=measured)

    def finish(self, span: Span) -> None:
        """End a span and deactivate it. Never raises."""
        try:
            self.end(span)
        except Exception:
            self._buffer.count_loss("internal_error")
        try:
            self.deactivate(span)
        except Exception:
            pass

    def _end_root(self, root: Span, *, measured: bool) -> None:
        """End the root of a trace that was not sampled: record the trace after an error, or as the slowest so far."""
        pending = root.pending or ()
        if root.failed or any(span.failed for span in pending):
            root.is_recorded = True
            self._append(root.nbytes, BOTH if measured else SPAN, root)
            for span in pending:
                span.is_recorded = True
                self._append(span.nbytes, SPAN, span)
            root.pending = None
            return
        if measured:
            self._append(PLAIN_NBYTES, SAMPLE, root)
        # Names are computed later: the fields they are made of distinguish kinds of requests as well.
        key = (root.describe, root.name, root.method, root.route)
        with self._lock:
            slowest = self._slowest.get(key)
            if slowest.duration_ns < root.duration_ns if slowest is not None else len(self._slowest) < SLOWEST_MAX:
                if slowest is not None:
                    self._slowest_spans -= len(slowest.pending or ())
                    slowest.pending = None
                if self._slowest_spans + len(pending) > SLOWEST_SPANS_MAX:
                    root.pending = None
                    self._buffer.count_loss("trace_too_large")
                self._slowest_spans += len(root.pending or ())
                self._slowest[key] = root
            else:
                root.pending = None

    def _end_child(self, span: Span, root: Span, *, measured: bool) -> None:
        if root is _PARENTS:
            return
        if root.is_recorded:
            span.is_recorded = True
            self._append(span.nbytes, BOTH if measured else SPAN, span)
            return
        if measured:
            self._append(PLAIN_NBYTES, SAMPLE, span)
        if root.duration_ns >= 0:
            return  # not recorded, or the slowest so far: later spans are dropped
        pending = root.pending
        if pending is None:
            root.pending = [span]
        elif len(pending) < PENDING_MAX:
            pending.append(span)
        else:
            self._buffer.count_loss("trace_too_large")

    def take_slowest(self) -> None:
        """Record the slowest traces of the interval that ends. The exporter calls it."""
        with self._lock:
            slowest, self._slowest = self._slowest, {}
            self._slowest_spans = 0
        for root in slowest.values():
            pending, root.pending = root.pending or (), None
            root.is_recorded = True
            for span in (root, *pending):
                span.is_recorded = True
                self._append(span.nbytes, SPAN, span)


def disown_running() -> None:
    """Let nothing run here any more, in a forked child: what ran goes on in the parent, which records it."""
    span = running_around(current.get())
    current.set(None)
    while span is not None:
        span.duration_ns = 0
        span.sampled = span.is_plain = False
        span.root = _PARENTS
        span = span.outer


def _without_ended(outer: Span) -> Span | None:
    """Return the running span of ``outer`` and those around it. Spans that have ended are not referenced any longer
    than by one that runs."""
    running = running_around(outer)
    if running is not None and (above := running.outer) is not None and above.duration_ns >= 0:
        running.outer = running_around(above)
    return running


def traceparent_of(span: Span) -> str:
    return f"00-{span.trace_id}-{span.span_id}-{'01' if span.sampled else '00'}"


def _drop(nbytes: int, what: int, span: Any) -> None:
    """Drop a span, without an agent."""


_PARENTS = Span(internal, "internal")  # the root of spans that belong to the parent of a forked child
tracer = Tracer()
