"""Batches: what one request carries, as columns. The unit of durability and of idempotence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from vantage.core.series import Series
from vantage.core.span import Span

BATCH_ID_LENGTH_MAX: Final = 64
BATCH_ID_MEMORY_MS: Final = 3_600_000  # how long a batch id is remembered
BATCH_ID_MEMORY_MAX: Final = 1_000_000  # how many are remembered at once

U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


class Links(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Trace links of few samples: row ``position[i]`` belongs to ``trace_id[i]`` and ``span_id[i]`` ('' for none).

    ``position`` is ascending.
    """

    position: U32
    trace_id: Sequence[str]
    span_id: Sequence[str]

    def __len__(self) -> int:
        return len(self.trace_id)

    def take(self, rows: NDArray[np.intp]) -> Links:
        """The links of some ascending rows, their positions counted among those rows."""
        if not len(self) or not rows.size:
            return NO_LINKS
        places = np.searchsorted(rows, self.position)
        held = np.flatnonzero((places < rows.size) & (rows[np.minimum(places, rows.size - 1)] == self.position))
        return Links(
            places[held].astype(np.uint32),
            tuple(self.trace_id[i] for i in held.tolist()),
            tuple(self.span_id[i] for i in held.tolist()),
        )


def concat_links(parts: Sequence[tuple[int, Links]]) -> Links:
    """The links of columns laid end to end; each part comes with the row at which its columns begin.

    Ids are kept as tuples: Python's collector stops looking into a tuple of strings, and would into a list.
    """
    held = [(start, links) for start, links in parts if len(links)]
    if not held:
        return NO_LINKS
    return Links(
        np.concatenate([links.position + np.uint32(start) for start, links in held]),
        _concat([links.trace_id for _, links in held]),
        _concat([links.span_id for _, links in held]),
    )


def _concat(parts: Sequence[Sequence[str]]) -> tuple[str, ...]:
    first, *others = parts
    if len(others) == 1 and isinstance(first, tuple) and isinstance(others[0], tuple):
        return first + others[0]  # two large blocks: copied at once, without a look at each
    return tuple(chain.from_iterable(parts))


NO_LINKS: Final = Links(np.empty(0, np.uint32), (), ())


class Batch(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Samples as columns, and spans.

    ``series`` are distinct; ``index[i]`` says which of them sample ``i`` belongs to. The three columns have the same
    length. Whoever receives a batch must not change its arrays. ``batch_id`` is empty when the sender gave none.
    """

    series: tuple[Series, ...] = ()
    index: U32 = msgspec.field(default_factory=lambda: np.empty(0, np.uint32))
    time_ms: I64 = msgspec.field(default_factory=lambda: np.empty(0, np.int64))
    value: F64 = msgspec.field(default_factory=lambda: np.empty(0, np.float64))
    links: Links = NO_LINKS
    spans: tuple[Span, ...] = ()
    batch_id: str = ""

    @property
    def samples(self) -> int:
        """How many samples the batch holds."""
        return len(self.time_ms)

    @property
    def nbytes(self) -> int:
        """What the batch occupies in memory, roughly: for queue limits."""
        return 20 * len(self.time_ms) + 200 * len(self.links) + 800 * len(self.spans) + 200


def build_batch(rows: Sequence[tuple[Series, int, float]], **other: Any) -> Batch:
    """A batch from ``(series, time_ms, value)`` rows. ``other`` fields are passed on."""
    distinct = {series: i for i, series in enumerate(dict.fromkeys(row[0] for row in rows))}
    return Batch(
        series=tuple(distinct),
        index=np.fromiter((distinct[row[0]] for row in rows), np.uint32, len(rows)),
        time_ms=np.fromiter((row[1] for row in rows), np.int64, len(rows)),
        value=np.fromiter((row[2] for row in rows), np.float64, len(rows)),
        **other,
    )
