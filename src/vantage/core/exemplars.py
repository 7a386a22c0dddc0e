"""Trace links as arrays: stores keep and move hundreds of thousands of them, and none by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vantage.core.batch import I64, NO_LINKS, Links
from vantage.core.idhash import Ids, concat_ids
from vantage.core.span_table import decode_ids, encode_ids

ENCODE_CHUNK: Final = 4096  # ids turned into bytes in one go: the interpreter is not let go meanwhile


@dataclass(frozen=True, slots=True, eq=False)
class LinkColumns:
    """Row ``position[i]`` (ascending) carries ``trace_id[i]`` and ``span_id[i]`` ('' for none)."""

    position: I64
    trace_id: Ids
    span_id: Ids

    def __len__(self) -> int:
        return len(self.position)

    @property
    def nbytes(self) -> int:
        return self.position.nbytes + self.trace_id.nbytes + self.span_id.nbytes

    def take(self, rows: I64, size: int) -> LinkColumns:
        """The links of rows that are put in another order, out of ``size``; those of rows left out are gone."""
        if not len(self):
            return NO_LINK_COLUMNS
        link_of = np.full(size, -1, np.int64)
        link_of[self.position] = np.arange(len(self))
        found = link_of[rows]
        position = np.flatnonzero(found >= 0)
        some = found[position]
        return LinkColumns(position, self.trace_id[some], self.span_id[some])

    def slice(self, start: int, end: int) -> LinkColumns:
        """Those of neighbouring rows, counted from the first of them."""
        low, high = np.searchsorted(self.position, [start, end]).tolist()
        if high == low:
            return NO_LINK_COLUMNS
        return LinkColumns(self.position[low:high] - start, self.trace_id[low:high], self.span_id[low:high])

    def decode(self) -> Links:
        """As queries take them."""
        if not len(self):
            return NO_LINKS
        return Links(self.position.astype(np.uint32), tuple(decode_ids(self.trace_id)), tuple(decode_ids(self.span_id)))


_NO_IDS: Final = np.empty(0, "S1")
NO_LINK_COLUMNS: Final = LinkColumns(np.empty(0, np.int64), _NO_IDS, _NO_IDS)


def link_columns(links: Links) -> LinkColumns:
    """Links as arrays."""
    if not len(links):
        return NO_LINK_COLUMNS
    return LinkColumns(links.position.astype(np.int64), _bytes(links.trace_id), _bytes(links.span_id))


def _bytes(ids: Sequence[str]) -> Ids:
    parts = [encode_ids(ids[start : start + ENCODE_CHUNK]) for start in range(0, len(ids), ENCODE_CHUNK)]
    return concat_ids(parts)


def concat_link_columns(parts: Sequence[tuple[int, LinkColumns]]) -> LinkColumns:
    """The links of columns laid end to end; each part comes with the row at which its columns begin."""
    held = [(start, links) for start, links in parts if len(links)]
    if not held:
        return NO_LINK_COLUMNS
    return LinkColumns(
        np.concatenate([links.position + start for start, links in held]),
        concat_ids([links.trace_id for _, links in held]),
        concat_ids([links.span_id for _, links in held]),
    )
