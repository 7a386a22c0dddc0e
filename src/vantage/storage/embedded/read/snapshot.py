"""What queries see: head, generations being sealed, and parts of segments, consistent at any moment.

A snapshot is immutable. The maintenance thread publishes a new one when it has sealed, merged or deleted something; a
query pins the snapshot it started with, so that nothing it may still read is deleted under it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from vantage.storage.embedded.format.segment import ROLLUPS, SAMPLES, TIERS, Segment
from vantage.storage.embedded.write.block import SampleBlock, SpanBlock
from vantage.storage.embedded.write.head import Head

_NOTHING: Final[Mapping[int, Segment]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Generation:
    """What the head held when it was closed: the commits up to ``seq_max``, waiting to be sealed."""

    number: int
    seq_max: int
    samples: tuple[SampleBlock, ...]
    spans: tuple[SpanBlock, ...]
    nbytes: int
    sample_count: int
    span_count: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent state, segments by week.

    ``hidden`` are services and environments ('' means any) whose sealed spans are being deleted; data before
    ``floor_ms`` has expired.
    """

    version: int = 0
    sealing_generations: tuple[Generation, ...] = ()
    samples: Mapping[int, Segment] = field(default_factory=lambda: _NOTHING)
    rollups: Mapping[int, Segment] = field(default_factory=lambda: _NOTHING)
    hidden: tuple[tuple[str, str], ...] = ()
    floor_ms: int = 0

    def with_segments(self, *changed: Segment) -> Snapshot:
        """Return the snapshot with segments in place of those of their week and tier; one without parts is removed."""
        tiers = {SAMPLES: dict(self.samples), ROLLUPS: dict(self.rollups)}
        for segment in changed:
            if segment.parts:
                tiers[segment.tier][segment.week] = segment
            else:
                tiers[segment.tier].pop(segment.week, None)
        return replace(self, samples=tiers[SAMPLES], rollups=tiers[ROLLUPS])

    @property
    def sealed_newest_ms(self) -> int:
        """Return the time of the newest sealed data, 0 where there is none."""
        parts = (part for tier in TIERS for segment in self.of_tier(tier).values() for part in segment.parts)
        return max((part.last_ms for part in parts), default=0)

    def of_tier(self, name: str) -> Mapping[int, Segment]:
        return self.samples if name == SAMPLES else self.rollups


@dataclass(frozen=True, slots=True)
class PinnedSnapshot:
    """A pinned snapshot with the head's blocks of the same moment."""

    snapshot: Snapshot
    samples: tuple[SampleBlock, ...]
    spans: tuple[SpanBlock, ...]

    @property
    def newest_ms(self) -> int:
        """Return the time of the newest data, 0 where there is none. Looks at blocks and parts, not at what they
        hold."""
        blocks: list[SampleBlock | SpanBlock] = [*self.samples, *self.spans]
        for generation in self.snapshot.sealing_generations:
            blocks += [*generation.samples, *generation.spans]
        return max([block.last_ms for block in blocks] + [self.snapshot.sealed_newest_ms])


class Snapshots:
    """The current snapshot, and which older ones are pinned. Any thread."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._lock = threading.Lock()
        self._pins: Counter[int] = Counter()
        self._freed = threading.Condition(self._lock)
        self.now = Snapshot()

    @contextmanager
    def pinned(self) -> Iterator[PinnedSnapshot]:
        """Pin everything as it is now until the context ends."""
        with self._lock:
            pinned = PinnedSnapshot(self.now, self._head.samples, self._head.spans)
            self._pins[pinned.snapshot.version] += 1
        try:
            yield pinned
        finally:
            with self._lock:
                self._pins[pinned.snapshot.version] -= 1
                self._pins += Counter()
                self._freed.notify_all()

    def publish(self, change: Callable[[Snapshot], Snapshot]) -> Snapshot:
        """Publish a changed snapshot. ``change`` runs under the lock, and may move blocks out of the head."""
        with self._lock:
            self.now = replace(change(self.now), version=self.now.version + 1)
            return self.now

    def wait_unpinned(self, version: int, timeout_s: float) -> bool:
        """Wait until no snapshot older than ``version`` is pinned; False after ``timeout_s``."""
        with self._lock:
            return self._freed.wait_for(lambda: all(pinned >= version for pinned in self._pins), timeout_s)
