"""A trace as a list in drawing order, so that subtrees are ranges of it: what the pages of large traces read.

Position 0 is the first span that is drawn. The subtree of position i is ``range(i, i + size[i])``.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from sys import getsizeof
from typing import Final

from vantage.query.cache import SETTLE_MS_MIN
from vantage.query.clocks import clock_skews, shifted
from vantage.query.context import QueryContext
from vantage.query.critical_path import PathPart, TimeShare, critical_path, time_shares
from vantage.query.traces import Node, TraceTree, trace_tree

REPEAT: Final = "~"  # between a span's id and its number among those of the same id; no id has it
_CACHED_S: Final = 30.0
_ENTRY_NBYTES: Final = 750  # of a span with four attributes, its node and its entries in the lists below: measured


@dataclass(frozen=True, slots=True)
class TraceIndex:
    """The spans of a trace by position, and its critical path.

    ``parent`` is a position, -1 for spans at the top; ``depth`` is that of the drawing: orphans are below a line for
    their missing parent, whose id ``missing`` has for the first of them. ``errors_before[i]`` is the number of failed
    spans before position i. ``keys`` name spans in URLs: their ids, with a number where one repeats. ``path_ns`` is the
    time of each span on the critical path; ``idle_ns`` is that of no span.
    """

    tree: TraceTree
    nodes: list[Node]
    parent: array[int]
    size: array[int]
    depth: array[int]
    missing: dict[int, str]
    errors_before: array[int]
    keys: list[str]
    positions: dict[str, int]
    path: list[PathPart]
    path_ns: array[int]
    shares: list[TimeShare]
    idle_ns: int

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def nbytes(self) -> int:
        """Return roughly how many bytes of memory it takes."""
        values = {id(value): value for node in self.nodes for value in node.span.attributes.values()}
        return sum(map(getsizeof, values.values())) + _ENTRY_NBYTES * (len(self) + len(self.tree.samples))

    @property
    def tops(self) -> Iterator[int]:
        position = 0
        while position < len(self):
            yield position
            position += self.size[position]

    def children(self, position: int) -> Iterator[int]:
        child, end = position + 1, position + self.size[position]
        while child < end:
            yield child
            child += self.size[child]

    def ancestors(self, position: int) -> Iterator[int]:
        """Yield the ancestors of a span, the nearest first."""
        while (position := self.parent[position]) >= 0:
            yield position

    def errors_within(self, position: int) -> int:
        """Return how many spans of a subtree failed, its top included."""
        return self.errors_before[position + self.size[position]] - self.errors_before[position]

    def failed(self) -> list[int]:
        """Return the positions of the failed spans."""
        return [position for position, node in enumerate(self.nodes) if node.span.is_error]


def index_trace(tree: TraceTree) -> TraceIndex:
    """Number the spans of a trace and read its critical path."""
    nodes: list[Node] = []
    parent: list[int] = []
    depth: list[int] = []
    missing: dict[int, str] = {}
    last_missing = ""
    for top, parent_id in _tops(tree):
        if parent_id and parent_id != last_missing:
            missing[len(nodes)] = last_missing = parent_id
        extra_depth = bool(parent_id)
        pending = [(top, -1)]
        while pending:
            node, above = pending.pop()
            position = len(nodes)
            nodes.append(node)
            parent.append(above)
            depth.append(node.depth + extra_depth)
            pending += [(child, position) for child in reversed(node.children)]
    size = [1] * len(nodes)
    for position in range(len(nodes) - 1, -1, -1):
        if parent[position] >= 0:
            size[parent[position]] += size[position]
    keys = _keys(nodes)
    path = critical_path(tree)
    shares, idle_ns = time_shares(tree, path)
    spent: defaultdict[int, int] = defaultdict(int)
    for part in path:
        spent[id(part.node)] += part.end_ns - part.start_ns
    return TraceIndex(
        tree=tree,
        nodes=nodes,
        parent=array("q", parent),
        size=array("q", size),
        depth=array("q", depth),
        missing=missing,
        errors_before=array("q", accumulate((node.span.is_error for node in nodes), initial=0)),
        keys=keys,
        positions={key: position for position, key in enumerate(keys)},
        path=path,
        path_ns=array("q", [spent.get(id(node), 0) for node in nodes]),
        shares=shares,
        idle_ns=idle_ns,
    )


def _tops(tree: TraceTree) -> Iterator[tuple[Node, str]]:
    """Yield roots, then orphans with the id of their missing parent, those of one parent together."""
    orphans: defaultdict[str, list[Node]] = defaultdict(list)
    for root in tree.roots:
        if root.orphan:
            orphans[root.span.parent_span_id].append(root)
        else:
            yield root, ""
    for parent_id, nodes in orphans.items():
        for node in nodes:
            yield node, parent_id


def _keys(nodes: list[Node]) -> list[str]:
    seen: Counter[str] = Counter()
    keys: list[str] = []
    for node in nodes:
        span_id = node.span.span_id
        seen[span_id] += 1
        keys.append(f"{span_id}{REPEAT}{seen[span_id]}" if seen[span_id] > 1 else span_id)
    return keys


async def read_index(context: QueryContext, trace_id: str, *, is_shifted: bool) -> tuple[TraceIndex, dict[int, int]]:
    """Return a trace by id, and the skews of its clocks by the ``id()`` of the span; with ``is_shifted`` as if all
    clocks agreed. A trace that ended minutes ago is cached for a while. Raises NotFoundError and what the store
    raises."""
    key = ("trace", trace_id, is_shifted)
    cached: tuple[TraceIndex, dict[int, int]] | None = context.cache.get(key)
    if cached is not None:
        return cached
    generation = context.cache.generation
    tree = await trace_tree(context, trace_id)
    result = await asyncio.to_thread(_index, tree, is_shifted=is_shifted)
    end_ms = (tree.start_ns + tree.duration_ns) // 1_000_000 + 1
    if end_ms < context.present().now_ms - SETTLE_MS_MIN:
        context.cache.put(
            key, result, nbytes=result[0].nbytes, generation=generation, data_end_ms=end_ms, ttl_s=_CACHED_S
        )
    return result


def _index(tree: TraceTree, *, is_shifted: bool) -> tuple[TraceIndex, dict[int, int]]:
    skews = clock_skews(tree)
    return index_trace(shifted(tree, skews) if is_shifted else tree), skews
