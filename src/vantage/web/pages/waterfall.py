"""Lay out a page of a trace: one line per span, its bar and the critical path in percent of what is drawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vantage.core.span import Span
from vantage.query.trace_index import TraceIndex
from vantage.query.trace_window import Line, Window

INDENT_MAX: Final = 16  # classes d0 … d16 of the style sheet
BAR_WIDTH_MIN: Final = 0.25
MARKS_MAX: Final = 24  # stretches of the critical path that are drawn on a bar
_MARKS_WIDTH_MIN: Final = 0.2
_TICKS: Final = (0, 25, 50, 75, 100)


@dataclass(frozen=True, slots=True)
class Bar:
    """A line as it is drawn. ``missing_id``: the span's parent, and that of those below, never arrived, and is marked
    above it. ``marks`` are the stretches of the critical path, as pairs of x and width."""

    line: Line
    key: str
    span: Span
    indent: int
    depth: int
    self_ns: int
    path_ns: int
    offset_ns: int
    skew_ns: int  # by how much the span's clock is ahead
    x: str
    width: str
    marks: tuple[tuple[str, str], ...]
    missing_id: str
    has_children: bool


@dataclass(frozen=True, slots=True)
class Waterfall:
    """``ticks`` are ``(percent, nanoseconds from the trace's start)``; ``indented`` levels are left of the page."""

    bars: list[Bar]
    ticks: list[tuple[int, float]]
    indented: int


def waterfall(index: TraceIndex, window: Window, skews: Mapping[int, int], *, root: str = "") -> Waterfall:
    """Lay out a page of lines over the time of the trace, or of the subtree of the span with the key ``root``. The
    skews of the spans' clocks are by their ``id()``."""
    start_ns, length_ns = _extent(index, root)
    marks = _marks(index, [line.position for line in window.lines], start_ns, length_ns)
    indented = min((index.depth[line.position] for line in window.lines), default=0)
    bars = []
    for line in window.lines:
        node = index.nodes[line.position]
        span = node.span
        depth = index.depth[line.position]
        x = min(max(0.0, (span.start_ns - start_ns) / length_ns * 100), 100 - BAR_WIDTH_MIN)
        width = max(BAR_WIDTH_MIN, span.duration_ns / length_ns * 100)
        bars.append(
            Bar(
                line=line,
                key=index.keys[line.position],
                span=span,
                indent=min(depth - indented, INDENT_MAX),
                depth=depth,
                self_ns=node.self_ns,
                path_ns=index.path_ns[line.position],
                offset_ns=span.start_ns - index.tree.start_ns,
                skew_ns=skews.get(id(span), 0),
                x=_percent(x),
                width=_percent(min(width, 100 - x)),
                marks=tuple((_percent(left), _percent(size)) for left, size in marks.get(line.position, ())),
                missing_id=index.missing.get(line.position, ""),
                has_children=index.size[line.position] > 1,
            )
        )
    ticks = [(percent, start_ns - index.tree.start_ns + length_ns * percent / 100) for percent in _TICKS]
    return Waterfall(bars, ticks, indented)


def _extent(index: TraceIndex, root: str) -> tuple[int, int]:
    """Return start and length in nanoseconds of what is drawn."""
    position = index.positions.get(root, -1)
    if position < 0:
        return index.tree.start_ns, max(1, index.tree.duration_ns)
    spans = [node.span for node in index.nodes[position : position + index.size[position]]]
    start_ns = min(span.start_ns for span in spans)
    return start_ns, max(1, max(span.start_ns + span.duration_ns for span in spans) - start_ns)


def _marks(
    index: TraceIndex, positions: Iterable[int], start_ns: int, length_ns: int
) -> dict[int, list[tuple[float, float]]]:
    """Return x and width of the path's stretches in the spans at the positions, in percent. Stretches that are close
    are drawn as one."""
    drawn = {id(index.nodes[position]): position for position in positions if index.path_ns[position]}
    stretches: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for node, from_ns, to_ns in index.path:
        position = drawn.get(id(node))
        if position is not None:
            left, right = ((at_ns - start_ns) / length_ns * 100 for at_ns in (from_ns, to_ns))
            stretches[position].append((max(0.0, left), min(100.0, right)))
    return {position: _merged(pairs) for position, pairs in stretches.items()}


def _merged(pairs: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most MARKS_MAX pairs of x and width of pairs of x and end, which are in order."""
    gap = 0.1
    while True:
        merged: list[tuple[float, float]] = []
        for left, right in pairs:
            if merged and left - merged[-1][1] <= gap:
                merged[-1] = (merged[-1][0], right)
            else:
                merged.append((left, right))
        if len(merged) <= MARKS_MAX:
            break
        pairs, gap = merged, gap * 2
    return [
        (min(left, 100 - _MARKS_WIDTH_MIN), max(right - left, _MARKS_WIDTH_MIN)) for left, right in merged if right > 0
    ]


def _percent(number: float) -> str:
    return f"{number:.2f}%"
