"""Where in a trace the running code is, and how that travels over HTTP.

Format of the headers: https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vantage_agent._span import Span

# Follows asyncio tasks by itself; threads of executors are given it by ``instrumentation/futures.py``.
current: ContextVar[Span | None] = ContextVar("vantage_agent_span", default=None)

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE_LENGTH_MAX = 512
_INVALID_TRACE = "0" * 32
_INVALID_SPAN = "0" * 16

_random = Random()  # an application that seeds the module's own generator must not repeat ids
_bits = _random.getrandbits


def new_span_id() -> str:
    """That it is zero, which it must not be, is as likely as that it repeats."""
    return _bits(64).to_bytes(8, "big").hex()


def new_ids() -> tuple[str, str]:
    """Of a trace and of its first span, which is the trace's first half: what is drawn once and said twice takes less
    time, and less room once it is compressed."""
    trace_id = _bits(128).to_bytes(16, "big").hex()
    return trace_id, trace_id[:16]


def seed_ids() -> None:
    """A forked child must not give the ids that its parent gives."""
    _random.seed()


def parse_traceparent(text: str) -> tuple[str, str, bool] | None:
    """Trace id, id of the calling span and whether it is sampled; None when the header says nothing valid."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _INVALID_TRACE or span_id == _INVALID_SPAN:
        return None
    return trace_id, span_id, bool(int(flags, 16) & 1)


def usable_tracestate(text: str) -> str:
    """Handed on as it came, unless it is longer than anybody has to hand on."""
    return text if len(text) <= _TRACESTATE_LENGTH_MAX and text.isprintable() else ""
