"""A broker in memory: the twin of Kafka for tests, with partitions, claims and workers that come and go."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.stream.message import FORMAT, BatchDecoder, encode_batch
from vantage.stream.ports import Claim, ClaimLost, Message

CLAIM_S: Final = 30.0


@dataclass(slots=True)
class _Partition:
    messages: list[tuple[int, bytes, int]] = field(default_factory=list)  # time, value and format
    done: int = 0
    claimed: tuple[int, int] | None = None
    owner: MemorySource | None = None


class MemoryBroker:
    """Messages of one topic, lost with the process; and its sink."""

    def __init__(self, *, partitions: int = 1, clock: Clock) -> None:
        self.partitions = [_Partition() for _ in range(partitions)]
        self.dead_letters: list[tuple[Message, str]] = []
        self._clock = clock
        self._sources: list[MemorySource] = []

    async def publish(self, batch: Batch) -> None:
        """Append the batch to the partition of its id."""
        self.append(crc32(batch.batch_id.encode()) % len(self.partitions), encode_batch(batch))

    def append(self, partition: int, value: bytes, version: int = FORMAT) -> None:
        """Append a message of any content."""
        self.partitions[partition].messages.append((self._clock.now_ms(), value, version))

    async def join(self, source: MemorySource) -> None:
        """Share the partitions with one more worker."""
        self._sources.append(source)
        await self._assign()

    async def leave(self, source: MemorySource, *, orderly: bool = True) -> None:
        """Share the partitions of a worker among the others; without order it had no chance to end its ranges."""
        if not orderly:
            source.position.clear()
        self._sources.remove(source)
        await self._assign()

    async def _assign(self) -> None:
        owners = {
            number: self._sources[number % len(self._sources)] if self._sources else None
            for number in range(len(self.partitions))
        }
        for source in {part.owner for part in self.partitions if part.owner is not None}:
            lost = [number for number in source.position if owners[number] is not source]
            await source.release(lost)
        for number, owner in owners.items():
            part = self.partitions[number]
            if part.owner is not owner:
                part.owner = owner
                if owner is not None:
                    owner.position[number] = part.done


class MemorySource:
    """One worker of a MemoryBroker."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._decoder = BatchDecoder()
        self._release: Callable[[Collection[int]], Awaitable[None]] | None = None
        self._paused: frozenset[int] = frozenset()
        self.position: dict[int, int] = {}

    def on_revoked(self, release: Callable[[Collection[int]], Awaitable[None]]) -> None:
        self._release = release

    async def release(self, partitions: Collection[int]) -> None:
        """Give partitions up."""
        if self._release is not None and partitions:
            await self._release(partitions)
        for number in partitions:
            del self.position[number]

    async def fetch(self, timeout_s: float) -> Sequence[Message]:
        end_s = time.monotonic() + timeout_s
        while True:
            messages = [
                message for number in self.position if number not in self._paused for message in self._next(number)
            ]
            if messages or time.monotonic() >= end_s:
                return messages
            await asyncio.sleep(0.005)

    def _next(self, number: int) -> list[Message]:
        start = self.position[number]
        fetched = []
        for offset, (at_ms, value, version) in enumerate(self._broker.partitions[number].messages[start:], start):
            batch, problem = None, ""
            try:
                batch = self._decoder.decode(value, version)
            except ValueError as error:
                problem = str(error)
            fetched.append(
                Message(number, offset, at_ms, len(value), batch, problem, b"", str(version).encode(), value)
            )
        self.position[number] = start + len(fetched)
        return fetched

    async def rewind(self) -> None:
        await self.release(list(self.position))
        for number, part in enumerate(self._broker.partitions):
            if part.owner is self:
                self.position[number] = part.done

    def claimed(self, partition: int) -> tuple[int, int] | None:
        return self._broker.partitions[partition].claimed

    async def claim(self, partition: int, first: int, last: int) -> Claim:
        part = self._owned(partition)
        part.done, part.claimed = first, (first, last)
        return Claim(partition, first, last, f"memory/{partition}/{first}-{last}", time.monotonic() + CLAIM_S)

    async def done(self, claim: Claim) -> None:
        part = self._owned(claim.partition)
        part.done, part.claimed = claim.last + 1, None

    def _owned(self, partition: int) -> _Partition:
        part = self._broker.partitions[partition]
        if part.owner is not self or partition not in self.position:
            raise ClaimLost("another worker has the partition")
        return part

    async def reject(self, message: Message, reason: str) -> None:
        self._broker.dead_letters.append((message, reason))

    def pause(self, partitions: Collection[int]) -> None:
        self._paused = frozenset(partitions)

    def lag(self) -> Mapping[int, int]:
        lags: dict[int, int] = defaultdict(int)
        for number in self.position:
            part = self._broker.partitions[number]
            lags[number] = len(part.messages) - part.done
        return lags
