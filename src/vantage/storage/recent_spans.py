"""Recent spans, by which spans that are sent again are recognised. Unlike two equal samples, they are one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Final

from vantage.core.span import Span

SPANS_MAX: Final = 400_000  # remembered at once, in some 60 bytes each


def identity(span: Span) -> Hashable:
    """Return what two copies of a span share. Client and server of one call may share an id, and are two spans."""
    return span.trace_id, span.span_id, span.service_name, span.kind, span.start_ns, span.duration_ns


def distinct_spans(spans: Iterable[Span]) -> list[Span]:
    """Return each span once, in the same order."""
    return list({identity(span): span for span in reversed(list(spans))}.values())[::-1]


class RecentSpans:
    """The spans stored last, between half and all of ``spans_max``, as 64-bit hashes. One thread at a time."""

    def __init__(self, *, spans_max: int = SPANS_MAX) -> None:
        self._half = spans_max // 2
        self._newer: set[int] = set()
        self._older: set[int] = set()

    def unseen(self, spans: Sequence[Span]) -> tuple[Span, ...]:
        """Return the spans that were not remembered, each once."""
        hashes: set[int] = set()
        unseen = []
        for span in spans:
            key = hash(identity(span))
            if key not in self._newer and key not in self._older and key not in hashes:
                hashes.add(key)
                unseen.append(span)
        return tuple(unseen)

    def remember(self, spans: Sequence[Span]) -> None:
        """Remember spans that were stored."""
        self._newer.update(hash(identity(span)) for span in spans)
        if len(self._newer) >= self._half:
            self._older, self._newer = self._newer, set()

    def clear(self) -> None:
        """Forget all of them, since data was deleted: it may be sent again."""
        self._newer, self._older = set(), set()
