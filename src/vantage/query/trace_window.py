"""The lines of a waterfall: which spans are drawn, when a trace has more of them than a page.

Subtrees are open or closed. At first the reader sees what matters: subtrees are opened from the top, those on the
critical path or with errors before others and the longest first, as long as the lines fit on a page. What the reader
opened and closed comes on top of that. A search lists what matches, with the spans above it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from vantage.query.trace_index import TraceIndex

LINES_MAX: Final = 200  # of a page


@dataclass(frozen=True, slots=True)
class Folding:
    """What the reader opened and closed, and what is looked at, by keys of spans; unknown ones are ignored.

    ``root``: only this span's subtree is drawn. ``selected``: it is made visible, on its page unless ``page`` (from 1)
    names another one. ``all_open``: nothing is closed but what ``closed`` names.
    """

    opened: frozenset[str] = frozenset()
    closed: frozenset[str] = frozenset()
    all_open: bool = False
    root: str = ""
    selected: str = ""
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A span that is drawn. ``hidden`` spans below it are not, and ``hidden_errors`` of those failed; ``is_match`` is
    false for spans that are there because of what is below them."""

    position: int
    is_open: bool
    hidden: int = 0
    hidden_errors: int = 0
    is_match: bool = True


@dataclass(frozen=True, slots=True)
class Window:
    """A page of lines. ``total`` lines are open on ``pages`` pages; ``page`` counts from 1."""

    lines: list[Line]
    total: int
    page: int
    pages: int


def window(index: TraceIndex, folding: Folding, matches: Sequence[int] | None = None) -> Window:
    """Return a page of a trace's lines; with ``matches`` (positions, ascending) of those and the spans above them."""
    first, end = _drawn(index, folding)
    selected = index.positions.get(folding.selected, -1)
    if matches is None:
        is_open = _open_positions(index, folding, first, end, selected)
        visible = _visible(index, is_open, first, end)
        matching: frozenset[int] | None = None
    else:
        is_open = set()
        matching = frozenset(position for position in matches if first <= position < end)
        visible = _with_ancestors(index, matching, first)
    pages = max(1, -(-len(visible) // LINES_MAX))
    page = folding.page or _page_of(visible, selected)
    page = min(max(page, 1), pages)
    shown = visible[(page - 1) * LINES_MAX : page * LINES_MAX]
    if matching is None:
        lines = [_line(index, position, is_open=position in is_open) for position in shown]
    else:
        lines = [Line(position, is_open=True, is_match=position in matching) for position in shown]
    return Window(lines, len(visible), page, pages)


def search(index: TraceIndex, text: str, *, failed: bool = False) -> list[int]:
    """Return the positions of spans whose service, operation, id, kind, status, attribute key or value contains a text,
    in any case; with ``failed`` of failed spans only."""
    text = text.casefold()
    return [
        position
        for position, node in enumerate(index.nodes)
        if (not failed or node.span.is_error) and (not text or _mentions(index, position, text))
    ]


def neighbours(positions: Sequence[int], at: int) -> tuple[int | None, int | None]:
    """Return the positions before and after a position in an ascending list; -1 is before all."""
    before = [position for position in positions if position < at]
    after = next((position for position in positions if position > at), None)
    return (before[-1] if before else None), after


def _mentions(index: TraceIndex, position: int, text: str) -> bool:
    span = index.nodes[position].span
    return any(
        text in item.casefold()
        for item in (span.name, span.service_name, span.span_id, span.kind, span.status, *span.attributes)
    ) or any(text in value.casefold() for value in span.attributes.values())


def _drawn(index: TraceIndex, folding: Folding) -> tuple[int, int]:
    first = index.positions.get(folding.root, -1)
    return (0, len(index)) if first < 0 else (first, first + index.size[first])


def _open_positions(index: TraceIndex, folding: Folding, first: int, end: int, selected: int) -> set[int]:
    if folding.all_open or end - first <= LINES_MAX:
        is_open = set(range(first, end))
    else:
        is_open = _opened_first(index, [first] if folding.root in index.positions else list(index.tops))
    is_open |= {index.positions[key] for key in folding.opened if key in index.positions}
    is_open -= {index.positions[key] for key in folding.closed if key in index.positions}
    if first <= selected < end:
        is_open.update(index.ancestors(selected))
    return is_open


def _opened_first(index: TraceIndex, tops: Sequence[int]) -> set[int]:
    """Return the spans that are open at first. One whose children do not fit stays closed, unless most of the page is
    free: then its children fill it."""

    def entry(position: int) -> tuple[bool, int, int]:
        matters = index.path_ns[position] > 0 or index.errors_within(position) > 0
        return not matters, -index.nodes[position].span.duration_ns, position

    is_open: set[int] = set()
    lines = len(tops)
    pending = [entry(position) for position in tops[: LINES_MAX + 1]]
    heapq.heapify(pending)
    while pending and lines < LINES_MAX:
        position = heapq.heappop(pending)[-1]
        children = list(index.children(position))
        if lines + len(children) <= LINES_MAX or lines <= LINES_MAX // 4:
            is_open.add(position)
            lines += len(children)
            for child in children[: LINES_MAX + 1]:
                if index.size[child] > 1:
                    heapq.heappush(pending, entry(child))
    return is_open


def _visible(index: TraceIndex, is_open: set[int], first: int, end: int) -> list[int]:
    visible: list[int] = []
    position = first
    while position < end:
        visible.append(position)
        position += 1 if position in is_open else index.size[position]
    return visible


def _with_ancestors(index: TraceIndex, matching: Iterable[int], first: int) -> list[int]:
    visible: set[int] = set()
    for position in matching:
        while position >= first and position not in visible:
            visible.add(position)
            position = index.parent[position]
    return sorted(visible)


def _page_of(visible: Sequence[int], selected: int) -> int:
    try:
        return visible.index(selected) // LINES_MAX + 1
    except ValueError:
        return 1


def _line(index: TraceIndex, position: int, *, is_open: bool) -> Line:
    if is_open:
        return Line(position, is_open=True)
    failed = index.errors_within(position) - index.nodes[position].span.is_error
    return Line(position, is_open=False, hidden=index.size[position] - 1, hidden_errors=failed)
