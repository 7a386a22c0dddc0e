"""Move batches from the broker to the store: each exactly once, whatever dies in between.

Messages of a partition are written in ranges. Before a range is written, it is claimed at the broker; the token of the
claim makes the store take the range once. A worker that dies leaves its claim to the next owner of the partition, which
writes the same range again, under the same token, before anything else. Which messages of a range repeat earlier ones
follows from the batch ids stored before the range, so that it is the same at each attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from vantage.core.batch import BATCH_ID_MEMORY_MS, Batch
from vantage.core.errors import InputError, UnavailableError, VantageError
from vantage.storage.ports import RangeStore, StreamBatch, TelemetryStore
from vantage.stream.ports import ClaimLost, Message, Source
from vantage.telemetry import Telemetry

RANGE_ROWS_MAX: Final = 10_000
RANGE_WAIT_S: Final = 1.0
FETCH_S: Final = 0.1
BUFFERED_NBYTES_MAX: Final = 64 << 20  # of all partitions
RETRY_S: Final = (0.2, 10.0)  # between attempts: at first, at most
RELEASE_S: Final = 5.0
POISON_MAX: Final = 100  # dead letters in a row, then something is wrong with more than a message
UNREADABLE: Final = "unreadable"  # kinds of reasons for dead letters
REFUSED: Final = "refused_by_store"
_log = structlog.get_logger("vantage.ingest.consume")


@dataclass(slots=True)
class _Partition:
    """What was fetched and is not stored yet."""

    number: int
    waiting: deque[Message] = field(default_factory=deque)
    rows: int = 0
    nbytes: int = 0
    since_s: float = 0.0
    writing: asyncio.Task[None] | None = None
    revoked: bool = False

    def add(self, message: Message) -> None:
        if not self.waiting:
            self.since_s = time.monotonic()
        self.waiting.append(message)
        self.rows += _rows(message)
        self.nbytes += message.nbytes

    def take(self) -> Message:
        message = self.waiting.popleft()
        self.rows -= _rows(message)
        self.nbytes -= message.nbytes
        return message


class Consumer:
    """The loop of a worker. ``watchers`` are called with each batch once it is stored, perhaps twice after a crash.

    A range has ``rows_max`` samples and spans, or what came within ``wait_s``. What cannot be decoded, and what the
    store can never take, goes to the dead letters; after POISON_MAX of them in a row the worker stops and says so.
    """

    name = "consumer"

    def __init__(
        self,
        source: Source,
        store: RangeStore,
        *,
        telemetry: Telemetry,
        watchers: Sequence[Callable[[Batch], None]] = (),
        rows_max: int = RANGE_ROWS_MAX,
        wait_s: float = RANGE_WAIT_S,
    ) -> None:
        self._source = source
        self._store = store
        self._telemetry = telemetry
        self._watchers = watchers
        self._rows_max = rows_max
        self._wait_s = wait_s
        self._partitions: dict[int, _Partition] = {}
        self._poison = 0
        self._broken: BaseException | None = None
        self.failing = ""  # why messages are not moved now; empty when they are
        self.stopped = False
        for kind in (UNREADABLE, REFUSED):  # from 0 on: else the first one is no increase
            telemetry.dead_letters.labels(kind)
        source.on_revoked(self._on_revoked)

    async def run(self) -> None:
        """Move messages until cancelled; then end what is under way. After a failure nothing of what was fetched is
        taken for stored."""
        self._broken = None
        try:
            await self._source.rewind()
            while not self.stopped:
                if self._broken is not None:
                    raise self._broken
                try:
                    messages = await self._source.fetch(FETCH_S)
                except VantageError as error:
                    self._note(str(error))
                    await asyncio.sleep(RETRY_S[0])
                    continue
                for message in messages:
                    self._partition(message.partition).add(message)
                for part in self._partitions.values():
                    self._begin(part)
                self._limit_memory()
                self._measure_lag()
            await self._source.rewind()  # others may have the partitions
            await asyncio.Event().wait()  # a person has to look, and start this worker again
        finally:
            await self._on_revoked(list(self._partitions))

    async def ping(self) -> None:
        """Raise UnavailableError when messages are not moved."""
        if self.failing:
            raise UnavailableError(self.failing)

    def _partition(self, number: int) -> _Partition:
        part = self._partitions.get(number)
        if part is None:
            part = self._partitions[number] = _Partition(number)
        return part

    def _limit_memory(self) -> None:
        """Fetch nothing for partitions that have most while all of them together have too much."""
        total = sum(part.nbytes for part in self._partitions.values())
        if total <= BUFFERED_NBYTES_MAX:
            self._source.pause(())
            return
        share = BUFFERED_NBYTES_MAX // (2 * len(self._partitions))
        self._source.pause([part.number for part in self._partitions.values() if part.nbytes > share])

    def _measure_lag(self) -> None:
        for number, lag in self._source.lag().items():
            self._telemetry.kafka_lag.labels(str(number)).set(lag)

    # --- ranges ---

    def _begin(self, part: _Partition) -> None:
        """Begin to write the next range of a partition, if it is due."""
        if part.writing is not None or not part.waiting or part.revoked:
            return
        claimed = self._source.claimed(part.number)
        if claimed is not None and part.waiting[0].offset <= claimed[1]:
            if part.waiting[-1].offset < claimed[1]:
                return  # the rest of the claim is still to come
            messages = self._take(part, lambda message: message.offset <= claimed[1])
        else:
            if part.rows < self._rows_max and time.monotonic() - part.since_s < self._wait_s:
                return
            rows = 0

            def fits(message: Message) -> bool:
                nonlocal rows
                rows += _rows(message)
                return rows <= self._rows_max

            messages = self._take(part, fits)
        part.writing = asyncio.create_task(self._write(part, messages), name=f"vantage range of {part.number}")
        part.writing.add_done_callback(lambda task: self._on_written(part, task))

    def _on_written(self, part: _Partition, task: asyncio.Task[None]) -> None:
        part.writing = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = error

    def _take(self, part: _Partition, fits: Callable[[Message], bool]) -> list[Message]:
        messages = [part.take()]
        fits(messages[0])  # one message is a range, however large
        while part.waiting and fits(part.waiting[0]):
            messages.append(part.take())
        if part.waiting:
            part.since_s = time.monotonic()
        return messages

    async def _write(self, part: _Partition, messages: Sequence[Message]) -> None:
        """Write a range, as often as it takes, until it is stored or the partition is gone."""
        pause_s = RETRY_S[0]
        while not part.revoked:
            try:
                await self._write_once(part, messages)
            except InputError as error:
                if len(messages) > 1:
                    for message in messages:  # nothing of it is stored: find the one that is refused
                        await self._write(part, [message])
                    return
                await self._until_rejected(part, messages[0], str(error))
                return
            except ClaimLost:
                await asyncio.sleep(pause_s)  # the next fetch tells whether the partition is gone
            except VantageError as error:
                self._note(str(error))
                await asyncio.sleep(pause_s)
            except Exception as error:  # noqa: BLE001 - whatever it is, messages must not be lost for it
                _log.exception("a range could not be written, trying again", partition=part.number)
                self._note(str(error))
                await asyncio.sleep(pause_s)
            else:
                if not self.stopped:
                    self.failing = ""
                return
            pause_s = min(RETRY_S[1], 2 * pause_s)

    async def _write_once(self, part: _Partition, messages: Sequence[Message]) -> None:
        first, last = messages[0].offset, messages[-1].offset
        claim = await self._source.claim(part.number, first, last)
        batches = await self._new_batches(part, messages)
        if batches:
            await self._store.write_range(batches, token=claim.token, until_s=claim.until_s)
            self._telemetry.range_rows.observe(sum(item.batch.samples + len(item.batch.spans) for item in batches))
        for message in messages:
            if message.batch is None:
                await self._reject(message, message.problem, UNREADABLE)
            else:
                self._poison = 0
        with contextlib.suppress(ClaimLost):  # it is stored: who owns the partition now finds the claim
            await self._source.done(claim)
        for item in batches:
            for watch in self._watchers:
                watch(item.batch)

    async def _new_batches(self, part: _Partition, messages: Sequence[Message]) -> list[StreamBatch]:
        """Return the batches of a range without those that were sent, and stored, before."""
        batches: dict[str, StreamBatch] = {}
        for message in messages:
            if message.batch is not None:
                batch = message.batch
                if not batch.batch_id:
                    name = f"{part.number}-{message.offset}"
                    batch = msgspec.structs.replace(batch, batch_id=name)
                item = StreamBatch(batch, part.number, message.offset, message.at_ms)
                batches.setdefault(batch.batch_id, item)
        if not batches:
            return []
        earliest_ms = min(item.at_ms for item in batches.values())
        stored = await self._store.batch_ids_before(
            list(batches),
            partition=part.number,
            offset=messages[0].offset,
            since_ms=earliest_ms - BATCH_ID_MEMORY_MS,
        )
        return [item for name, item in batches.items() if name not in stored]

    async def _until_rejected(self, part: _Partition, message: Message, reason: str) -> None:
        while not part.revoked:
            try:
                claim = await self._source.claim(part.number, message.offset, message.offset)
                await self._reject(message, reason, REFUSED)
                await self._source.done(claim)
            except VantageError as error:
                self._note(str(error))
                await asyncio.sleep(RETRY_S[0])
            else:
                return

    async def _reject(self, message: Message, reason: str, kind: str) -> None:
        await self._source.reject(message, reason)
        self._telemetry.dead_letters.labels(kind).inc()
        self._telemetry.errors.note("dead letters", reason)
        self._poison += 1
        _log.warning(
            "message refused", partition=message.partition, offset=message.offset, bytes=message.nbytes, reason=reason
        )
        if self._poison >= POISON_MAX:
            self.stopped = True
            self._note(f"{self._poison} messages in a row went to the dead letters: {reason}")

    def _note(self, problem: str) -> None:
        self._telemetry.errors.note("consumer", problem)
        if problem != self.failing:
            self.failing = problem
            _log.warning("messages are not moved to the store", reason=problem)

    # --- rebalances ---

    async def _on_revoked(self, partitions: Collection[int]) -> None:
        """Forget what was fetched of partitions, and wait a while for the ranges that are being written."""
        parts = [part for number in partitions if (part := self._partitions.pop(number, None)) is not None]
        tasks = [part.writing for part in parts if part.writing is not None]
        for part in parts:
            part.revoked = True
            part.waiting.clear()
            with contextlib.suppress(KeyError):
                self._telemetry.kafka_lag.remove(str(part.number))
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=RELEASE_S)
            for task in unfinished:
                task.cancel()


class BatchByBatch:
    """A store without ranges, whose batch ids make a repeat harmless."""

    def __init__(self, store: TelemetryStore) -> None:
        self._store = store

    async def write_range(self, batches: Sequence[StreamBatch], *, token: str, until_s: float) -> None:
        """Write the batches; the store leaves out those that it has."""
        del token, until_s
        outcomes = await asyncio.gather(*(self._store.write(item.batch) for item in batches), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def batch_ids_before(self, ids: Sequence[str], *, partition: int, offset: int, since_ms: int) -> set[str]:
        """Return none: ``write`` looks for itself."""
        del ids, partition, offset, since_ms
        return set()


def _rows(message: Message) -> int:
    return 1 if message.batch is None else max(1, message.batch.samples + len(message.batch.spans))
