"""A trace as a flame graph: spans with the same services and operations above them are one frame, as wide as the self
time of all that is in it and below it (Gregg: "The Flame Graph", CACM 2016). Concurrent spans count several times, so
that widths are work rather than elapsed time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from vantage.query.trace_index import TraceIndex

FRAMES_MAX: Final = 400
ROWS_MAX: Final = 48
WIDTH_MIN: Final = 0.002  # of the drawing; what is narrower is left out


@dataclass(frozen=True, slots=True)
class Frame:
    """``x`` and ``width`` are shares of the drawing, from 0 to 1, ``row`` counts from the top. ``total_ns`` and
    ``self_ns`` are sums of self times; ``position`` is that of the first span."""

    position: int
    service: str
    operation: str
    row: int
    x: float
    width: float
    total_ns: int
    self_ns: int
    spans: int
    errors: int


@dataclass(frozen=True, slots=True)
class Flame:
    """``frames`` by row, then from left to right; ``left_out`` spans are in frames that are not drawn. With
    ``is_counted`` no span took any time, and widths are numbers of spans."""

    frames: list[Frame]
    rows: int
    left_out: int
    total_ns: int
    is_counted: bool


@dataclass(eq=False, slots=True)
class _Merged:
    position: int
    service: str
    operation: str
    self_ns: int = 0
    total_ns: int = 0
    spans: int = 0
    spans_below: int = 0
    errors: int = 0
    children: dict[tuple[str, str], _Merged] = field(default_factory=dict)


def flame(index: TraceIndex, root: str = "") -> Flame:
    """Lay out a trace, or with the key of a span what is below all spans of its frame. Frames beyond FRAMES_MAX or
    ROWS_MAX, and what is too narrow to be seen, are left out: rows are filled from the top, the widest frames of each
    parent first. Without recursion."""
    merged, frame_of = _merge(index)
    tops = list(merged.children.values())
    if root in index.positions:
        tops = [frame_of[index.positions[root]]]
    total = sum(top.total_ns for top in tops)
    is_counted = total == 0
    size = total or sum(top.spans_below for top in tops) or 1
    frames: list[Frame] = []
    pending = deque([(tops, 0, 0.0)])
    while pending:
        siblings, row, x = pending.popleft()
        for item in sorted(siblings, key=lambda item: (-item.total_ns, -item.spans_below, item.position)):
            width = (item.spans_below if is_counted else item.total_ns) / size
            if width < WIDTH_MIN or len(frames) == FRAMES_MAX:
                break
            frames.append(
                Frame(
                    position=item.position,
                    service=item.service,
                    operation=item.operation,
                    row=row,
                    x=x,
                    width=width,
                    total_ns=item.total_ns,
                    self_ns=item.self_ns,
                    spans=item.spans,
                    errors=item.errors,
                )
            )
            if item.children and row + 1 < ROWS_MAX:
                pending.append((list(item.children.values()), row + 1, x))
            x += width
    spans = sum(top.spans_below for top in tops)
    return Flame(
        frames,
        max((frame.row + 1 for frame in frames), default=0),
        spans - sum(frame.spans for frame in frames),
        total,
        is_counted,
    )


def _merge(index: TraceIndex) -> tuple[_Merged, list[_Merged]]:
    """Return the merged frames below one that stands for the trace, and the frame of each span."""
    trace = _Merged(-1, "", "")
    frame_of: list[_Merged] = []
    for position, (node, above) in enumerate(zip(index.nodes, index.parent, strict=True)):
        parent = trace if above < 0 else frame_of[above]
        key = (node.span.service_name, node.span.name)
        frame = parent.children.get(key)
        if frame is None:
            frame = parent.children[key] = _Merged(position, *key)
        frame.self_ns += node.self_ns
        frame.spans += 1
        frame.errors += node.span.is_error
        frame_of.append(frame)
    # A frame's first span comes after that of the frame above it, so that backwards children come before parents.
    merged = sorted({id(frame): frame for frame in frame_of}.values(), key=lambda frame: -frame.position)
    for frame in merged:
        frame.total_ns = frame.self_ns + sum(child.total_ns for child in frame.children.values())
        frame.spans_below = frame.spans + sum(child.spans_below for child in frame.children.values())
    return trace, frame_of
