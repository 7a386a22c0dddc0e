"""One operation while it runs. What is said of it is worked out later, by the exporter's thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import Token

from vantage_agent._buffer import PLAIN_NBYTES

PENDING_MAX = 200  # spans kept of a trace whose fate is open; the further ones are counted as lost
PAIR_NBYTES = 150  # of memory, without its texts

perf_ns = time.perf_counter_ns
clock_ns = time.time_ns


class SpanDescription:
    """What the server is told of a span: its name and attributes, and the sample that is made of its duration."""

    __slots__ = ("attributes", "metric", "name", "tags")

    def __init__(self, name: str, attributes: dict[str, str], metric: str = "", tags: dict[str, str] | None = None):
        self.name = name
        self.attributes = attributes
        self.metric = metric  # empty: no sample
        self.tags = tags if tags is not None else {}


class Span:
    """``describe`` turns it into names, attributes and tags, in the exporter's thread.

    ``root`` is the first span of this trace in this process, None in that span itself: when it ends, it is known
    whether the trace is kept.
    Times are nanoseconds; ``start_ns`` is since the epoch, ``began_ns`` of the clock that never jumps.
    """

    # Defaults are the class's: setting them all would take half of what a span costs. Reading one takes longer than
    # reading what was set, so ``__init__`` sets what is read of every span.
    trace_id: str
    span_id: str
    parent_id: str = ""
    tracestate: str = ""
    root: Span | None = None  # None: itself, which as a cycle would wait for the collector
    pending: list[Span] | None = None
    is_recorded: bool = False  # though it is not sampled
    sampled: bool = True
    failed: bool = False
    error_type: str = ""
    name: str = ""  # where ``describe`` does not make one up
    method: str = ""  # of a task: how it ended
    route: str | None = None  # None: this kind of server has none; empty: none matched
    mount: str = ""  # the template of the paths that the application which answers is mounted under
    # A client's: host and port, or a URL, of which no more is told.
    peer: str | tuple[str, int | None] = ""
    # Of a call of a database: system, host, port and the database's name.
    database: tuple[str, str | None, int | None, str | None] | None = None
    statement: str | bytes = ""  # its beginning; of it an operation and a table are told
    header_injected: bool = False  # the request carries a traceparent of ours
    is_complete: bool = False  # of a server: the answer is there in one piece
    status_code: int = 0
    tags: dict[str, str] | None = None  # of the sample and of the span
    attributes: dict[str, str] | None = None  # of the span alone
    token: Token[Span | None] | None = None

    def __init__(self, describe: Callable[[Span], SpanDescription], kind: str) -> None:
        self.describe = describe
        self.kind = kind
        self.duration_ns = -1  # it runs
        self.is_plain = True  # sampled, and without texts of its own
        self.start_ns = clock_ns()
        self.began_ns = perf_ns()

    @property
    def nbytes(self) -> int:
        """Memory, by estimate."""
        total = PLAIN_NBYTES + len(self.statement)
        for pairs in (self.tags, self.attributes):
            if pairs:
                total += sum(PAIR_NBYTES + len(name) + len(text) for name, text in pairs.items())
        return total

    def fail(self, error: BaseException | str) -> None:
        self.failed = True
        self.error_type = error if isinstance(error, str) else type_name(error)


def type_name(error: BaseException) -> str:
    """As tracebacks write it: with its module, unless that is ``builtins``."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def internal(span: Span) -> SpanDescription:
    """A span of the application's own: a name, and no sample."""
    return SpanDescription(span.name, {**(span.attributes or {}), **(span.tags or {})})
