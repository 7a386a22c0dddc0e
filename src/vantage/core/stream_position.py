"""Where a partition of a broker's topic is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """Everything before ``next_offset`` is stored (None: nothing was ever claimed), and what follows up to
    ``claimed_last`` may be (None: nothing). ``epoch`` is that of the partition's owner."""

    epoch: int
    next_offset: int | None = None
    claimed_last: int | None = None
