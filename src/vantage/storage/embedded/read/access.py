"""Access to one pinned snapshot: its parts and blocks, and reads of segment files that survive damage."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar

import structlog

from vantage.core.errors import StoreUnavailable
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.format.chunk import ChunkCodec
from vantage.storage.embedded.format.segment import Part, Segment, is_damage
from vantage.storage.embedded.read.chunk_index import ChunkIndexCache
from vantage.storage.embedded.read.connection_pool import ConnectionPool
from vantage.storage.embedded.read.snapshot import PinnedSnapshot
from vantage.storage.embedded.write.block import SampleBlock, SpanBlock
from vantage.storage.sqlite_reading import FrozenConnection
from vantage.vql.exec.budget import QueryBudget

T = TypeVar("T")

_log = structlog.get_logger("vantage.storage.reading")


class DamageLog:
    """Records what readers cannot read: ``row`` a single row, ``file`` a whole segment, which is quarantined."""

    def __init__(self, quarantine: Callable[[Segment, str], None]) -> None:
        self._quarantine = quarantine
        self.rows = 0

    def row(self, segment: Segment, row: str, reason: object) -> None:
        self.rows += 1
        _log.error("row of a segment unreadable, skipped", file=segment.name, row=row, reason=str(reason))

    def absent(self, segment: Segment) -> None:
        """Report a file that is gone, unless Vantage removed it itself."""
        self._quarantine(segment, "it is gone")

    def file(self, segment: Segment, reason: object) -> None:
        self._quarantine(segment, str(reason))


@dataclass(frozen=True, slots=True)
class SnapshotAccess:
    """One query's access to a pinned snapshot. One thread at a time; ``tick`` is called between reads, and what readers
    keep is counted in ``budget``."""

    pinned: PinnedSnapshot
    codec: ChunkCodec
    pool: ConnectionPool
    indexes: ChunkIndexCache
    damage: DamageLog
    budget: QueryBudget

    def tick(self) -> None:
        """Look at the time. Raises what the budget raises."""
        self.budget.check()

    def clamp_to_floor(self, time_range: TimeRange) -> TimeRange:
        """Return the range without the times whose data has expired."""
        floor_ms = self.pinned.snapshot.floor_ms
        if floor_ms <= time_range.start_ms:
            return time_range
        return TimeRange(min(floor_ms, time_range.end_ms - 1), time_range.end_ms)

    def sample_blocks(self) -> Iterator[SampleBlock]:
        """Yield the blocks that are not sealed."""
        return iter(self.pinned.samples)

    def span_blocks(self) -> Iterator[SpanBlock]:
        """Yield the blocks that are not sealed."""
        return iter(self.pinned.spans)

    @staticmethod
    def parts(segments: Collection[Segment], time_range: TimeRange) -> Iterator[tuple[Segment, Part]]:
        """Yield the parts that may hold data of the range."""
        for segment in segments:
            for part in segment.parts:
                if part.last_ms >= time_range.start_ms and part.first_ms < time_range.end_ms:
                    yield segment, part

    def read(self, segment: Segment, read: Callable[..., Iterator[T]], *arguments: object) -> Iterator[T]:
        """Yield what ``read(connection, *arguments)`` yields.

        A file that retention has unlinked yields nothing; a damaged one is reported. Raises StoreUnavailable.
        """
        frozen = False
        try:
            with self.pool.reading(segment.path) as db:
                frozen = isinstance(db, FrozenConnection)
                yield from read(db, *arguments)
        except sqlite3.DatabaseError as error:
            if not segment.path.exists():
                self.damage.absent(segment)
                return
            if frozen or not is_damage(error):
                raise StoreUnavailable(f"{segment.name} cannot be read: {error}") from error
            self.damage.file(segment, error)
        except ValueError as error:
            self.damage.row(segment, "directory", error)
