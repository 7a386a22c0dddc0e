"""The ports between ingest and what takes responsibility for a batch, and between a broker and the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vantage.core.batch import Batch
from vantage.core.errors import UnavailableError
from vantage.core.stream_position import StreamPosition


class Sink(Protocol):
    """Takes responsibility for batches."""

    async def publish(self, batch: Batch) -> None:
        """Make the batch durable: committed to the store's journal, or acknowledged by the broker, when it returns.

        May be repeated with the same batch id. Raises BusyError when the queue is full and UnavailableError when the
        batch cannot be made durable; in both cases nothing of it is stored.
        """
        ...


class ClaimLost(UnavailableError):
    """Another worker has the partition now, or may have it."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message: where it is, when it was sent (epoch milliseconds), and its batch, or else why it has none. ``key``,
    ``format`` and ``value`` are those it was sent with."""

    partition: int
    offset: int
    at_ms: int
    nbytes: int
    batch: Batch | None
    problem: str
    key: bytes
    format: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """A range of messages that this worker alone may write, until ``until_s`` of the monotonic clock. ``token`` is the
    same for each worker that claims the range."""

    partition: int
    first: int
    last: int
    token: str
    until_s: float


class StreamPositions(Protocol):
    """Keeps the positions of a broker's partitions, one owner at a time."""

    async def take_partition(self, topic: str, partition: int) -> StreamPosition:
        """Become the owner of a partition: the one before can move it no more. Raises StoreUnavailable."""
        ...

    async def move_partition(self, topic: str, partition: int, position: StreamPosition) -> bool:
        """Set the position, durably. False: the epoch is no longer that of the owner, and nothing is changed. Raises
        StoreUnavailable."""
        ...


class Source(Protocol):
    """Messages of the partitions that this worker is assigned.

    Before it writes a range, a worker claims it; a worker that is assigned the partition later finds the claim, and
    writes exactly that range first. So a range is written under one token, however often workers die in between.
    """

    def on_revoked(self, release: Callable[[Collection[int]], Awaitable[None]]) -> None:
        """Call ``release`` with partitions that are about to go to another worker: it ends what is under way there."""
        ...

    async def fetch(self, timeout_s: float) -> Sequence[Message]:
        """Return the next messages, in order within a partition; none after ``timeout_s``. Must be called again and
        again: that is how the broker knows the worker. Raises UnavailableError, StartupError."""
        ...

    async def rewind(self) -> None:
        """Give all partitions up, as if this worker had just begun: what was fetched and is not done is fetched
        again."""
        ...

    def claimed(self, partition: int) -> tuple[int, int] | None:
        """Return the first and last offset of a range that was claimed before, and may have been written."""
        ...

    async def claim(self, partition: int, first: int, last: int) -> Claim:
        """Claim a range: everything before it is done. Raises ClaimLost, UnavailableError."""
        ...

    async def done(self, claim: Claim) -> None:
        """Record that a range is stored. Raises ClaimLost, UnavailableError; then it may be written again."""
        ...

    async def reject(self, message: Message, reason: str) -> None:
        """Publish a message to the dead letters; durable on return. Raises UnavailableError."""
        ...

    def pause(self, partitions: Collection[int]) -> None:
        """Fetch nothing of these partitions, and of all others again."""
        ...

    def lag(self) -> Mapping[int, int]:
        """Return the number of messages by partition that are not done yet, as far as it is known."""
        ...
