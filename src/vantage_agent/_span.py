"""One operation while it runs. The exporter's thread describes it later."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from vantage_agent._buffer import PLAIN_NBYTES
from vantage_agent._exception import RecordedException, type_name

PENDING_MAX = 200  # pending spans of a trace that is not decided yet; further ones are counted as lost
PAIR_NBYTES = 150  # of memory, without its texts

perf_ns = time.perf_counter_ns
clock_ns = time.time_ns


class Recording:
    """Whether exceptions are recorded, beside their type."""

    is_on = True


recording = Recording()


class SpanDescription:
    """The description of a span for the server: name and attributes, and the sample of its duration."""

    __slots__ = ("attributes", "metric", "name", "tags")

    def __init__(self, name: str, attributes: dict[str, str], metric: str = "", tags: dict[str, str] | None = None):
        self.name = name
        self.attributes = attributes
        self.metric = metric  # empty: no sample
        self.tags = tags if tags is not None else {}


class Span:
    """An operation. ``describe`` turns it into names, attributes and tags, in the exporter's thread.

    ``root`` is the first span of this trace in this process, None in that span itself: its end decides whether the
    trace is recorded. Times are nanoseconds; ``start_ns`` is since the epoch, ``began_ns`` of the monotonic clock.
    """

    # Defaults are the class's: setting them all would take half of the cost of a span. Reading a default takes longer
    # than reading an instance's attribute, so ``__init__`` sets what is read of every span.
    trace_id: str
    span_id: str
    parent_id: str = ""
    tracestate: str = ""
    root: Span | None = None  # None: itself, since a cycle would have to wait for garbage collection
    pending: list[Span] | None = None
    is_recorded: bool = False  # though it is not sampled
    sampled: bool = True
    failed: bool = False
    error_type: str = ""
    name: str = ""  # if ``describe`` does not create one
    method: str = ""  # of a task: its final state
    route: str | None = None  # None: this kind of server has none; empty: none matched
    mount: str = ""  # the template of the paths that the application is mounted under
    # A client's: host and port, or a URL, of which only these are sent.
    peer: str | tuple[str, int | None] = ""
    # Of a call of a database: system, host, port and the database's name.
    database: tuple[str, str | None, int | None, str | None] | None = None
    statement: str | bytes = ""  # its beginning, of which only an operation and a table are sent
    is_in_process: bool = False  # of a call: to an application in this process
    header_injected: bool = False  # the request has a traceparent of the agent
    is_complete: bool = False  # of a server: the response is complete in memory
    status_code: int = 0
    exception: RecordedException | None = None
    client_has_left: bool = False  # of a request
    cause: BaseException | None = None  # of a request: an exception that matters if the response is an error
    # Of a request while it runs: the ASGI scope or WSGI environment.
    scope: dict[str, Any] | None = None
    # Of a request: what returns the template once a router has matched, and the scope to call it with.
    late_route: tuple[Callable[[Any], str], Any] | None = None
    library: str = ""  # of a call: that the application has called
    carried: str = ""  # of a call: the ``traceparent`` of its request, where that is known
    tags: dict[str, str] | None = None  # of the sample and of the span
    attributes: dict[str, str] | None = None  # of the span alone
    outer: Span | None = None  # that ran when this one began, which need not be its parent

    def __init__(self, describe: Callable[[Span], SpanDescription], kind: str) -> None:
        self.describe = describe
        self.kind = kind
        self.duration_ns = -1  # running
        self.is_plain = True  # sampled, and without texts of its own
        self.start_ns = clock_ns()
        self.began_ns = perf_ns()

    @property
    def nbytes(self) -> int:
        """Estimated memory."""
        total = PLAIN_NBYTES + len(self.statement)
        for pairs in (self.tags, self.attributes):
            if pairs:
                total += sum(PAIR_NBYTES + len(name) + len(text) for name, text in pairs.items())
        if self.exception is not None:
            total += self.exception.nbytes
        return total

    def fail(self, error: BaseException | str) -> None:
        """Mark the operation as failed, unless ``error`` is no failure."""
        if isinstance(error, str):
            self.failed = True
            self.error_type = error
        elif is_failure(error):
            self.failed = True
            self.error_type = type_name(error)
        elif is_cancellation(error):
            self.is_plain = False
            self.tags = {**(self.tags or {}), "cancelled": "true"}

    def fail_with(self, error: BaseException) -> None:
        """Mark the operation as failed, and record the exception. For code of the application's own: the messages of a
        client's exceptions repeat statements, parameters and addresses."""
        self.fail(error)
        if self.failed:
            self.record(error)

    def record(self, error: BaseException) -> None:
        """Record an exception, the last of several, unless a setting forbids it."""
        if recording.is_on:
            self.exception = RecordedException(error)
            self.is_plain = False


# By name, since their modules may not be imported: tasks and greenlets that were cancelled.
_CANCELLATIONS = frozenset(
    ("asyncio.exceptions.CancelledError", "trio.Cancelled", "trio._core._exceptions.Cancelled", "greenlet.GreenletExit")
)


def is_failure(error: BaseException) -> bool:
    """Return whether an exception that ends an operation is a failure: not what closes a generator that nobody reads to
    its end, cancels a task, or ends a program with success."""
    if isinstance(error, Exception):
        return True
    if isinstance(error, GeneratorExit) or is_cancellation(error):
        return False
    return not (isinstance(error, SystemExit) and error.code in (None, 0))


def is_cancellation(error: BaseException) -> bool:
    return any(f"{kind.__module__}.{kind.__qualname__}" in _CANCELLATIONS for kind in type(error).__mro__)


def internal(span: Span) -> SpanDescription:
    """Describe a manual span: a name, and no sample."""
    attributes = {**(span.attributes or {}), **(span.tags or {})}
    if span.exception is not None:
        attributes = {**span.exception.attributes(), **attributes}
    return SpanDescription(span.name, attributes)
