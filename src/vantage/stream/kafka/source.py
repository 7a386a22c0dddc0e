"""Read messages as a member of the consumer group, and claim ranges of them.

The group says who reads which partition. Who owns it, where it is and what is claimed is kept in the metadata
database: a worker that is assigned a partition begins a new epoch of it, and claims of earlier epochs are refused. The
group's own offsets cannot serve for that: the broker takes them from any member, also of partitions that it lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from types import TracebackType
from typing import Any, Final, Self

import structlog

from vantage.core.errors import InputError, UnavailableError
from vantage.core.stream_position import StreamPosition
from vantage.core.turns import wait_in_thread
from vantage.stream.kafka.client import GROUP, BrokerUrl, Topics, deliver, failures_of, library, make
from vantage.stream.kafka.dead_letters import KEY, LEFT_OUT
from vantage.stream.kafka.failures import lacks_kip_848
from vantage.stream.kafka.topic_settings import DEAD_LETTERS, MESSAGE_NBYTES_MAX, RECEIVE_NBYTES_MAX, TopicSettings
from vantage.stream.message import FORMAT_HEADER, BatchDecoder
from vantage.stream.ports import Claim, ClaimLost, Message, StreamPositions

CLAIM_S: Final = 20.0  # how long a claim may be used; within it the group would not have missed this worker
FETCH_MAX: Final = 500  # messages at once
BUFFERED_KBYTES_MAX: Final = 16_384  # fetched and not asked for yet
SESSION_MS: Final = 30_000
RELEASE_TIMEOUT_S: Final = 15.0
REQUEST_TIMEOUT_S: Final = 10.0
REASON_LENGTH_MAX: Final = 1000
KEY_NBYTES_MAX: Final = 4096
_log = structlog.get_logger("vantage.stream.kafka")


class KafkaSource:
    """One worker of the group ``vantage-workers``. ``on_rebalance`` is called at each change of its partitions."""

    def __init__(
        self,
        url: BrokerUrl,
        topics: TopicSettings,
        positions: StreamPositions,
        *,
        group: str = GROUP,
        on_rebalance: Callable[[], None] = lambda: None,
    ) -> None:
        self._url = url
        self._topic = topics.name
        self._topics = Topics(url, topics)
        self._positions = positions
        self._group = group
        self._on_rebalance = on_rebalance
        self._kafka = library()
        self._failures = failures_of(url)
        self._decoder = BatchDecoder()
        self._thread: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._consumer: Any = None
        self._producer: Any = None
        self._consumer_protocol = True  # KIP-848, until the broker says that it does not know it
        self._release: Callable[[Collection[int]], Awaitable[None]] | None = None
        self._lock = threading.Lock()
        self._claims: dict[int, tuple[int, int]] = {}
        self._owned: dict[int, int] = {}  # the epoch of each partition of this worker
        self._next: dict[int, int] = {}  # the first offset that is not done
        self._pause_wanted: frozenset[int] = frozenset()
        self._paused: frozenset[int] = frozenset()
        self._stored: dict[int, int] = {}  # offsets that the broker's tools do not show yet
        self._lags: dict[int, int] = {}
        self._changed: set[int] = set()  # partitions that came or went during the present fetch

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "vantage-consumer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the group: the partitions go to other workers at once."""
        await self._in_thread(self._close)
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    def on_revoked(self, release: Callable[[Collection[int]], Awaitable[None]]) -> None:
        self._release = release

    # --- reading: librdkafka's consumer is used in one thread alone. Its calls wait for each other, and a change of the
    # partitions waits for the event loop.

    async def fetch(self, timeout_s: float) -> Sequence[Message]:
        fetched: Sequence[Message] = await self._in_thread(self._fetch, timeout_s)
        return fetched

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        if self._thread is None or self._loop is None:
            raise UnavailableError("the consumer is closed")
        return await self._loop.run_in_executor(self._thread, work, *arguments)

    def _fetch(self, timeout_s: float) -> list[Message]:
        self._topics.topic_id()
        if self._consumer is None:
            self._consumer = self._subscribed()
        self._changed.clear()
        self._apply_pause()
        self._show_stored()
        try:
            records = self._consumer.consume(FETCH_MAX, timeout_s)
        except self._kafka.KafkaException as error:
            self._begin_again()
            raise self._failures.unavailable(error) from error
        except (UnavailableError, FutureTimeout) as error:  # a partition could not be taken: it is not assigned
            self._begin_again()
            raise UnavailableError(f"the partitions cannot be taken: {error}") from error
        messages, early = [], set()
        for record in records:
            problem = record.error()
            if problem is None and record.partition() in self._changed:
                early.add(record.partition())
            elif problem is None:
                messages.append(self._message(record))
            elif problem.name() != "_PARTITION_EOF":
                self._failures.on_error(problem)
        if self._failures.fatal:
            self._restart_after(self._failures.fatal)
            return []  # what was fetched is fetched again
        self._start_again(early)
        if messages:
            self._failures.clear()
        self._measure_lags()
        return messages

    def _start_again(self, partitions: Collection[int]) -> None:
        """Fetch partitions from their start again: messages that were fetched in the same call as their assignment may
        be from an earlier one."""
        with self._lock:
            parts = [
                self._kafka.TopicPartition(self._topic, number, self._next[number])
                for number in sorted(partitions)
                if number in self._owned
            ]
        if parts:
            self._consumer.incremental_unassign(parts)
            self._consumer.incremental_assign(parts)

    def _subscribed(self) -> Any:
        self._failures.fatal = ""
        protocol = (
            {"group.protocol": "consumer"}
            if self._consumer_protocol
            else {"partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": SESSION_MS}
        )
        consumer = make(
            "Consumer",
            self._url,
            self._failures,
            {
                **protocol,
                "group.id": self._group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.message.max.bytes": MESSAGE_NBYTES_MAX,
                "receive.message.max.bytes": RECEIVE_NBYTES_MAX,
                "queued.max.messages.kbytes": BUFFERED_KBYTES_MAX,
            },
        )
        consumer.subscribe([self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)
        return consumer

    async def rewind(self) -> None:
        await self._in_thread(self._close)

    def _restart_after(self, problem: str) -> None:
        """Begin again with a new consumer; without KIP-848 where the broker does not know it."""
        if lacks_kip_848(problem):
            self._consumer_protocol = False
            _log.info("the broker has the classic protocol of groups alone, so that is used", group=self._group)
        self._begin_again()

    def _begin_again(self) -> None:
        """Leave the group; the next fetch joins it again."""
        try:
            self._give_up(list(self._owned))
        finally:
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                consumer.close()

    def _close(self) -> None:
        self._begin_again()

    def _on_assign(self, consumer: Any, partitions: list[Any]) -> None:
        numbers = [part.partition for part in partitions]
        for number in numbers:
            self._take(consumer, number)
        self._paused -= set(numbers)
        consumer.incremental_assign(
            [self._kafka.TopicPartition(self._topic, number, self._next[number]) for number in numbers]
        )
        self._on_rebalance()
        _log.info("partitions assigned", partitions=numbers)

    def _take(self, consumer: Any, number: int) -> None:
        """Become the owner of a partition: from now on nobody else can claim a range of it."""
        assert self._loop is not None
        taking = asyncio.run_coroutine_threadsafe(
            self._positions.take_partition(self._topics.topic_id(), number), self._loop
        )
        position = taking.result(REQUEST_TIMEOUT_S)
        first = position.next_offset
        if first is None:
            first = self._earliest(consumer, self._kafka.TopicPartition(self._topic, number))
        with self._lock:
            self._owned[number] = position.epoch
            self._next[number] = first
            self._changed.add(number)
            self._claims.pop(number, None)
            if position.claimed_last is not None:
                self._claims[number] = first, position.claimed_last

    def _earliest(self, consumer: Any, part: Any) -> int:
        earliest: int = consumer.get_watermark_offsets(part, timeout=REQUEST_TIMEOUT_S)[0]
        return earliest

    def _on_revoke(self, consumer: Any, partitions: list[Any]) -> None:
        numbers = [part.partition for part in partitions]
        self._give_up(numbers)
        consumer.incremental_unassign(partitions)
        self._on_rebalance()
        _log.info("partitions revoked", partitions=numbers)

    def _give_up(self, partitions: Sequence[int]) -> None:
        """End what is under way in partitions, while commits are still taken."""
        if self._release is not None and self._loop is not None and partitions:
            ended = asyncio.run_coroutine_threadsafe(_awaited(self._release(partitions)), self._loop)
            try:
                ended.result(RELEASE_TIMEOUT_S)
            except FutureTimeout:
                ended.cancel()
        self._show_stored()
        with self._lock:
            self._changed.update(partitions)
            for number in partitions:
                self._owned.pop(number, None)
                self._next.pop(number, None)
                self._claims.pop(number, None)
                self._lags.pop(number, None)

    def _message(self, record: Any) -> Message:
        value = record.value() or b""
        batch, problem = None, ""
        version = dict(record.headers() or ()).get(FORMAT_HEADER) or b"0"
        try:
            batch = self._decoder.decode(value, int(version))
        except ValueError as error:
            problem = str(error)
        return Message(
            record.partition(),
            record.offset(),
            record.timestamp()[1],
            len(value),
            batch,
            problem,
            record.key() or b"",
            version,
            value,
        )

    def pause(self, partitions: Collection[int]) -> None:
        self._pause_wanted = frozenset(partitions)

    def _apply_pause(self) -> None:
        wanted = self._pause_wanted
        with self._lock:
            assigned = frozenset(self._owned)
        stop, resume = (wanted - self._paused) & assigned, (self._paused - wanted) & assigned
        if stop:
            self._consumer.pause([self._kafka.TopicPartition(self._topic, number) for number in sorted(stop)])
        if resume:
            self._consumer.resume([self._kafka.TopicPartition(self._topic, number) for number in sorted(resume)])
        self._paused = wanted & assigned

    # --- claims ---

    def claimed(self, partition: int) -> tuple[int, int] | None:
        with self._lock:
            return self._claims.get(partition)

    async def claim(self, partition: int, first: int, last: int) -> Claim:
        began_s = time.monotonic()
        await self._move(partition, first, last)
        token = f"{self._topics.topic_id()}/{partition}/{first}-{last}"
        return Claim(partition, first, last, token, began_s + CLAIM_S)

    async def done(self, claim: Claim) -> None:
        await self._move(claim.partition, claim.last + 1, None)
        with self._lock:
            self._claims.pop(claim.partition, None)

    async def _move(self, partition: int, first: int, last: int | None) -> None:
        with self._lock:
            epoch = self._owned.get(partition)
        if epoch is None:
            raise ClaimLost("the partition was revoked")
        position = StreamPosition(epoch, first, last)
        if not await self._positions.move_partition(self._topics.topic_id(), partition, position):
            raise ClaimLost("another worker has the partition")
        with self._lock:
            if self._owned.get(partition) == epoch:
                self._next[partition] = first
                if last is None:
                    self._stored[partition] = first

    def _show_stored(self) -> None:
        """Commit offsets for the broker's tools, which show the group's lag; nothing here reads them."""
        with self._lock:
            stored, self._stored = self._stored, {}
        parts = [self._kafka.TopicPartition(self._topic, number, offset) for number, offset in stored.items()]
        if parts and self._consumer is not None:
            with contextlib.suppress(self._kafka.KafkaException, RuntimeError):
                self._consumer.commit(offsets=parts, asynchronous=True)

    # --- dead letters and lag ---

    async def reject(self, message: Message, reason: str) -> None:
        await wait_in_thread(self._reject, message, reason)

    def _reject(self, message: Message, reason: str) -> None:
        if self._producer is None:
            self._producer = make(
                "Producer",
                self._url,
                self._failures,
                {
                    "enable.idempotence": True,
                    "compression.type": "zstd",
                    "message.max.bytes": RECEIVE_NBYTES_MAX,  # before compression; the topic's limit is after it
                    "message.timeout.ms": int(REQUEST_TIMEOUT_S * 1000),
                },
            )
        key = f"{self._topic}/{message.partition}/{message.offset}".encode()
        headers = {
            "reason": reason[:REASON_LENGTH_MAX].encode(),
            "sent-at": str(message.at_ms).encode(),
            KEY: message.key[:KEY_NBYTES_MAX],
            FORMAT_HEADER: message.format[:KEY_NBYTES_MAX],
        }
        try:
            deliver(
                self._producer, DEAD_LETTERS, key=key, value=message.value, headers=headers, failures=self._failures
            )
        except InputError:  # the partition must go on, and the letter says what it lacks
            _log.error("a dead letter is without its message, which is too large", source=key.decode())
            headers[LEFT_OUT] = str(message.nbytes).encode()
            deliver(self._producer, DEAD_LETTERS, key=key, value=b"", headers=headers, failures=self._failures)

    def lag(self) -> Mapping[int, int]:
        with self._lock:
            return dict(self._lags)

    def _measure_lags(self) -> None:
        with self._lock:
            done = dict(self._next)
        for number, offset in done.items():
            part = self._kafka.TopicPartition(self._topic, number)
            with contextlib.suppress(RuntimeError, self._kafka.KafkaException):
                _, end = self._consumer.get_watermark_offsets(part, cached=True)
                if end >= 0:
                    with self._lock:
                        self._lags[number] = max(0, end - offset)

    async def ping(self) -> None:
        """Raise UnavailableError when the broker does not answer."""
        await wait_in_thread(self._topics.ping)


async def _awaited(work: Awaitable[None]) -> None:
    await work
