"""Which commits retention lets go: always the oldest, and whole, so that head and journal stay the same."""

from __future__ import annotations

import numpy as np

from vantage.core.batch import I64


def expired_up_to(ledger: tuple[I64, I64, I64], *, oldest_ms: int | None, head_excess: int, disk_share: float) -> int:
    """The sequence number up to which commits go; 0 for none.

    ``ledger`` is the head's. By age (``oldest_ms``) go the oldest commits none of which holds anything younger. By
    size go as many as make up ``head_excess`` bytes of memory, or ``disk_share`` of all (the journal is shared among
    commits as memory is); the newest commit stays.
    """
    seq, last_ms, nbytes = ledger
    if not len(seq):
        return 0
    count = 0
    if oldest_ms is not None:
        young = last_ms >= oldest_ms
        count = int(np.argmax(young)) if young.any() else len(seq)
    excess = max(head_excess, round(disk_share * int(nbytes.sum())))
    if excess > 0:
        enough = int(np.searchsorted(np.cumsum(nbytes), excess)) + 1
        count = max(count, min(enough, len(seq) - 1))
    return int(seq[count - 1]) if count else 0
