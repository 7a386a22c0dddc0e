"""The current span of the running code, and the HTTP headers that propagate it.

Format of the headers: https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vantage_agent._span import Span

# asyncio tasks inherit it; ``instrumentation/futures.py`` passes it to threads of executors.
current: ContextVar[Span | None] = ContextVar("vantage_agent_span", default=None)


def running() -> Span | None:
    """Return the span that runs here: the current one, or, if it has ended, the next around it that has not. None
    without one: a span that has ended is nobody's parent, whatever the context still has."""
    return running_around(current.get())


def running_around(span: Span | None) -> Span | None:
    """Return ``span``, or the next around it that has not ended."""
    while span is not None and span.duration_ns >= 0:
        span = span.outer
    return span


class Pieces:
    """What runs inside a stream: between two of its pieces other code runs, to which it is not current.

    ``enter()`` before each piece and ``leave()`` after it, in any thread. ``inside`` is current in the first piece.
    """

    __slots__ = ("_inside", "_outside")

    def __init__(self, inside: Span | None) -> None:
        self._inside = inside
        self._outside: Span | None = None

    def enter(self) -> None:
        self._outside = current.get()
        current.set(self._inside)

    def leave(self) -> None:
        self._inside = current.get()
        current.set(running_around(self._outside))


_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE_LENGTH_MAX = 512
_INVALID_TRACE = "0" * 32
_INVALID_SPAN = "0" * 16

_random = Random()  # an application that seeds the module's own generator must not repeat ids
_bits = _random.getrandbits


def new_span_id() -> str:
    """Return a random id. Zero, which is invalid, is as unlikely as a repeated id."""
    return _bits(64).to_bytes(8, "big").hex()


def new_ids() -> tuple[str, str]:
    """Return the ids of a trace and of its first span, which is the first half of the trace's: one random number for
    both takes less time, and less space once compressed."""
    trace_id = _bits(128).to_bytes(16, "big").hex()
    return trace_id, trace_id[:16]


def seed_ids() -> None:
    """Seed the ids again: a forked child must not repeat the ids of its parent."""
    _random.seed()


def parse_traceparent(text: str) -> tuple[str, str, bool] | None:
    """Return trace id, id of the calling span and whether it is sampled; None for an invalid header."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _INVALID_TRACE or span_id == _INVALID_SPAN:
        return None
    return trace_id, span_id, bool(int(flags, 16) & 1)


def usable_tracestate(text: str) -> str:
    """Return a tracestate to propagate unchanged; '' if it is longer than the standard requires."""
    return text if len(text) <= _TRACESTATE_LENGTH_MAX and text.isprintable() else ""
