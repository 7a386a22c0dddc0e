"""Counts of events that are too frequent for a sample each: one sample per interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vantage_agent._native import new_rlock

if TYPE_CHECKING:
    from vantage_agent._span import Span

KEYS_MAX = 1000
Key = tuple[str, "tuple[tuple[str, str], ...]"]  # metric and tags


class Counters:
    """Counts by metric and tags. The lock is reentrant because a signal handler may log."""

    def __init__(self) -> None:
        self._lock = new_rlock()
        self._counts: dict[Key, tuple[int, str, str]] = {}
        self.on_first: Callable[[], Any] = _do_nothing  # called for the first event of an interval
        self.count_loss: Callable[[str], None] = _count_nothing

    def stop(self) -> None:
        """Drop all references to an agent that stops."""
        self.reset(_do_nothing, _count_nothing)

    def reset(self, on_first: Callable[[], Any], count_loss: Callable[[str], None]) -> None:
        """Start to count for an agent, also after a fork."""
        self._lock = new_rlock()
        self._counts = {}
        self.on_first = on_first
        self.count_loss = count_loss

    def add(self, metric: str, tags: tuple[tuple[str, str], ...], span: Span | None) -> None:
        """Count one event. The last sampled trace becomes the exemplar."""
        key = (metric, tags)
        with self._lock:
            is_first = not self._counts
            count, trace_id, span_id = self._counts.get(key, (0, "", ""))
            if span is not None and span.sampled:
                trace_id, span_id = span.trace_id, span.span_id
            if count or len(self._counts) < KEYS_MAX:
                self._counts[key] = (count + 1, trace_id, span_id)
            else:
                self.count_loss("too_many_counts")
        if is_first:
            self.on_first()

    def take(self) -> dict[Key, tuple[int, str, str]]:
        """Return the counts since the last call: count, trace and span by metric and tags."""
        with self._lock:
            counts, self._counts = self._counts, {}
            return counts


def _do_nothing() -> None:
    """There is no agent."""


def _count_nothing(reason: str) -> None:
    """There is no agent."""


counters = Counters()
