"""What queries see: head, generations being sealed, and parts of segments, consistent at any moment.

A snapshot is immutable. The maintenance thread publishes a new one when it has sealed, merged or deleted something; a
query pins the snapshot it started with, so that nothing it may still read is deleted under it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from vantage.core.errors import BusyError
from vantage.storage.embedded.format.segment import ROLLUPS, SAMPLES, TIERS, Segment
from vantage.storage.embedded.write.block import SampleBlock, SpanBlock
from vantage.storage.embedded.write.head import Head, totals

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
    ``floor_ms`` has expired. Weeks ``without_red`` have parts of an earlier version, without rollups of requests;
    ``without_edges`` are the parts of samples whose edges are not filled in, by week. ``deletions`` counts what was
    deleted from blocks.
    """

    version: int = 0
    sealing_generations: tuple[Generation, ...] = ()
    samples: Mapping[int, Segment] = field(default_factory=lambda: _NOTHING)
    rollups: Mapping[int, Segment] = field(default_factory=lambda: _NOTHING)
    hidden: tuple[tuple[str, str], ...] = ()
    floor_ms: int = 0
    without_red: frozenset[int] = frozenset()
    without_edges: Mapping[int, frozenset[int]] = field(default_factory=lambda: MappingProxyType({}))
    deletions: int = 0

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
    """A pinned snapshot with the blocks that were not sealed at that moment, of the kinds that are wanted."""

    snapshot: Snapshot
    samples: tuple[SampleBlock, ...]
    spans: tuple[SpanBlock, ...]
    check: Callable[[], None]  # raises BusyError when what is pinned takes too much memory
    span_generations: Sequence[tuple[int, tuple[SpanBlock, ...]]]  # the same blocks of spans, by generation

    @property
    def newest_ms(self) -> int:
        """Return the time of the newest data, 0 where there is none. Looks at blocks and parts, not at what they
        hold."""
        blocks: list[SampleBlock | SpanBlock] = [*self.samples, *self.spans]
        return max([block.last_ms for block in blocks] + [self.snapshot.sealed_newest_ms])


@dataclass(frozen=True, slots=True, eq=False)
class _Pin:
    """``blocks`` that were not sealed, by generation; the head's is the generation that it becomes."""

    snapshot: Snapshot
    blocks: Sequence[tuple[int, tuple[SampleBlock, ...], tuple[SpanBlock, ...]]]
    may_end: bool

    def retained_nbytes(self, last_sealed: int) -> int:
        """Return the bytes of what is sealed by now."""
        return sum(totals(samples, spans)[2] for number, samples, spans in self.blocks if number <= last_sealed)


class Snapshots:
    """The current snapshot, and which older ones are pinned. Any thread.

    ``retained_nbytes_max`` bounds the memory of generations that are sealed, and which only pins still hold: beyond it
    the query that holds most ends.
    """

    def __init__(self, head: Head, *, retained_nbytes_max: int = 1 << 29) -> None:
        self._head = head
        self._retained_nbytes_max = retained_nbytes_max
        self._lock = threading.Lock()
        self._pins: set[_Pin] = set()
        self._freed = threading.Condition(self._lock)
        self._last_closed = 0
        self._last_sealed = 0
        self.now = Snapshot()

    @contextmanager
    def pinned(self, *, samples: bool = True, spans: bool = True, may_end: bool = True) -> Iterator[PinnedSnapshot]:
        """Pin everything as it is now until the context ends, but blocks only of the wanted kinds: generations are
        sealed meanwhile, and their memory is free if nothing holds them. ``may_end``: ``check`` may raise."""
        pin = self._pin(samples=samples, spans=spans, may_end=may_end)
        try:
            yield PinnedSnapshot(
                pin.snapshot,
                tuple(block for _, blocks, _ in pin.blocks for block in blocks),
                tuple(block for _, _, blocks in pin.blocks for block in blocks),
                lambda: self._check(pin),
                [(number, blocks) for number, _, blocks in pin.blocks],
            )
        finally:
            with self._lock:
                self._pins.remove(pin)
                self._freed.notify_all()

    def _pin(self, *, samples: bool, spans: bool, may_end: bool) -> _Pin:
        with self._lock:
            now, head = self.now, self._head
            waiting = [(item.number, item.samples, item.spans) for item in now.sealing_generations]
            waiting.append((self._last_closed + 1, head.samples, head.spans))
            wanted = [
                (number, of_samples if samples else (), of_spans if spans else ())
                for number, of_samples, of_spans in waiting
            ]
            pin = _Pin(replace(now, sealing_generations=()), wanted, may_end)
            self._pins.add(pin)
            return pin

    def _check(self, pin: _Pin) -> None:
        own = pin.retained_nbytes(self._last_sealed) if pin.may_end else 0
        if not own:
            return
        with self._lock:
            retained = [other.retained_nbytes(self._last_sealed) for other in self._pins if other.may_end]
        nbytes = sum(retained)
        if nbytes > self._retained_nbytes_max and own >= max(retained):
            raise BusyError(
                f"queries keep {nbytes} bytes in memory of what was sent and has been sealed meanwhile, more than "
                f"{self._retained_nbytes_max} (half of head_bytes_max): try again later, or ask for less"
            )

    def publish(self, change: Callable[[Snapshot], Snapshot]) -> Snapshot:
        """Publish a changed snapshot. ``change`` runs under the lock, and may move blocks out of the head."""
        with self._lock:
            waiting = {generation.number for generation in self.now.sealing_generations}
            self.now = replace(change(self.now), version=self.now.version + 1)
            still = {generation.number for generation in self.now.sealing_generations}
            self._last_closed = max(still, default=self._last_closed)
            self._last_sealed = max(waiting - still, default=self._last_sealed)
            return self.now

    def wait_unpinned(self, version: int, timeout_s: float) -> bool:
        """Wait until no snapshot older than ``version`` is pinned; False after ``timeout_s``."""
        with self._lock:
            return self._freed.wait_for(lambda: all(pin.snapshot.version >= version for pin in self._pins), timeout_s)
