"""List the latest or the slowest spans of a service, failed ones or all, and read few blocks for it.

A sealed block says of each service how many of its spans failed and how long the longest lasted. So each block that is
read has at least one span that is wanted, or comes before one; the blocks behind the last of the list are not read.
"""

from __future__ import annotations

from typing import Final

from vantage.storage.embedded.read.spans import RankedBlock, SpanReader
from vantage.storage.ports import SpanFilter, SpanList
from vantage.storage.span_list import SpanLister

BLOCKS_READ_MAX: Final = 64  # sealed ones, some 4096 spans each


def listed_spans(source: SpanReader, wanted: SpanFilter) -> SpanList:
    """Return up to ``limit`` spans. Of blocks that are not sealed all in the range are looked at."""
    lister = SpanLister(wanted)
    head, sealed = source.service_blocks(wanted)
    blocks = sorted([*((block, False) for block in head), *((block, True) for block in sealed)], key=_by_rank)
    read = 0
    for block, is_sealed in blocks:
        if lister.is_settled(block.rank_ns):
            break
        if is_sealed:
            if read == BLOCKS_READ_MAX:
                return SpanList(tuple(lister.spans), is_complete=False)
            read += 1
        source.tick()
        if (table := block.read()) is not None:
            lister.add(table)
    return SpanList(tuple(lister.spans))


def _by_rank(entry: tuple[RankedBlock, bool]) -> int:
    return -entry[0].rank_ns
