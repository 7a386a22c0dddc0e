"""Lay out a trace: one line per span, its bar in percent of the trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from vantage.core.span import Span
from vantage.query.traces import Node, TraceTree
from vantage.storage.ports import ExemplarSample

LINES_MAX: Final = 1000  # a line is 2 KB of HTML and takes about 0.1 ms
INDENT_MAX: Final = 16  # classes d0 … d16 of the style sheet
BAR_WIDTH_MIN: Final = 0.25
_TICKS: Final = (0, 25, 50, 75, 100)


@dataclass(frozen=True, slots=True)
class Line:
    """A span, or with ``span`` None a parent that never arrived (``missing_id``)."""

    depth: int
    span: Span | None
    missing_id: str = ""
    self_ns: int = 0
    offset_ns: int = 0
    skew_ns: int = 0  # by how much the span's clock is ahead
    x: str = "0%"
    width: str = "0%"
    samples: tuple[ExemplarSample, ...] = ()

    @property
    def indent(self) -> int:
        return min(self.depth, INDENT_MAX)


@dataclass(frozen=True, slots=True)
class Waterfall:
    """``ticks`` are ``(percent, nanoseconds)``; ``omitted`` spans are not drawn."""

    lines: list[Line]
    ticks: list[tuple[int, float]]
    omitted: int


def waterfall(tree: TraceTree, skews: Mapping[int, int]) -> Waterfall:
    """Lay out a trace, with the skews of its spans' clocks by their ``id()``. Orphans are below a marked line for their
    missing parent, one line per parent."""
    samples: dict[str, list[ExemplarSample]] = {}
    for sample in tree.samples:
        if sample.span_id:
            samples.setdefault(sample.span_id, []).append(sample)
    lines = [
        Line(0, None, item)
        if isinstance(item, str)
        else _line(tree, *item, samples.get(item[0].span.span_id, ()), skews.get(id(item[0].span), 0))
        for item in islice(_drawing_order(tree), LINES_MAX)
    ]
    ticks = [(percent, tree.duration_ns * percent / 100) for percent in _TICKS]
    return Waterfall(lines, ticks, tree.span_count - sum(line.span is not None for line in lines))


def _drawing_order(tree: TraceTree) -> Iterator[tuple[Node, int] | str]:
    """Yield nodes in drawing order, each with its additional depth, or the id of a missing parent."""
    missing: dict[str, list[Node]] = {}
    for root in tree.roots:
        if root.orphan:
            missing.setdefault(root.span.parent_span_id, []).append(root)
        else:
            yield from ((node, 0) for node in root.walk())
    for parent_id, nodes in missing.items():
        yield parent_id
        for top in nodes:
            yield from ((node, 1) for node in top.walk())


def _line(tree: TraceTree, node: Node, extra_depth: int, samples: Sequence[ExemplarSample], skew_ns: int) -> Line:
    total_ns = max(1, tree.duration_ns)
    offset_ns = node.span.start_ns - tree.start_ns
    width = max(BAR_WIDTH_MIN, node.span.duration_ns / total_ns * 100)
    x = min(offset_ns / total_ns * 100, 100 - BAR_WIDTH_MIN)
    return Line(
        depth=node.depth + extra_depth,
        span=node.span,
        self_ns=node.self_ns,
        offset_ns=offset_ns,
        skew_ns=skew_ns,
        x=f"{x:.3f}%",
        width=f"{min(width, 100 - x):.3f}%",
        samples=tuple(samples),
    )
