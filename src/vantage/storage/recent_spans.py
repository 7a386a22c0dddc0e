"""Recent spans, by which spans that are sent again are recognised. Unlike two equal samples, they are one."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from typing import Final

import numpy as np

from vantage.core.arrays import I64
from vantage.core.span import Span

SPANS_MAX: Final = 400_000  # remembered at once, in some 8 bytes each
PARTS: Final = 8


def identity(span: Span) -> Hashable:
    """Return what two copies of a span share. Client and server of one call may share an id, and are two spans."""
    return span.trace_id, span.span_id, span.service_name, span.kind, span.start_ns, span.duration_ns


def distinct_spans(spans: Iterable[Span]) -> list[Span]:
    """Return each span once, in the same order."""
    return list({identity(span): span for span in reversed(list(spans))}.values())[::-1]


class RecentSpans:
    """The spans stored last, at least seven eighths of ``spans_max``, as 64-bit hashes: the latest in a set, the others
    in sorted arrays, which take an eighth of a set's memory. One thread at a time."""

    def __init__(self, *, spans_max: int = SPANS_MAX) -> None:
        self._part_max = max(1, spans_max // PARTS)
        self._latest: set[int] = set()
        self._parts: deque[I64] = deque(maxlen=PARTS - 1)

    def unseen(self, spans: Sequence[Span]) -> tuple[Span, ...]:
        """Return the spans that were not remembered, each once."""
        if not spans:
            return ()
        first: dict[int, Span] = {}
        for span in spans:
            first.setdefault(hash(identity(span)), span)
        keys = np.fromiter(first, np.int64, len(first))
        remembered = np.zeros(len(keys), bool)
        for part in self._parts:
            remembered |= part[np.searchsorted(part[:-1], keys)] == keys
        return tuple(
            first[key]
            for key, seen in zip(keys.tolist(), remembered.tolist(), strict=True)
            if not seen and key not in self._latest
        )

    def remember(self, spans: Sequence[Span]) -> None:
        """Remember spans that were stored."""
        self._latest.update(hash(identity(span)) for span in spans)
        if len(self._latest) >= self._part_max:
            self._parts.append(np.sort(np.fromiter(self._latest, np.int64, len(self._latest))))
            self._latest = set()

    def clear(self) -> None:
        """Forget all of them, since data was deleted: it may be sent again."""
        self._latest = set()
        self._parts.clear()
