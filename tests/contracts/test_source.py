"""What every Source promises the consumer: on the broker in memory, and on Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.support.kafka_broker import KafkaBroker, running_kafka
from tests.support.samples import a_series
from tests.support.wait import until, wait_until
from vantage.core.batch import Batch, build_batch
from vantage.core.clock import SystemClock
from vantage.core.errors import InputError, StoreUnavailable, UnavailableError
from vantage.ingest.consume import POISON_MAX, Consumer
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.storage.ports import StreamBatch
from vantage.stream.memory import MemoryBroker, MemorySource
from vantage.stream.message import FORMAT, encode_batch
from vantage.stream.ports import ClaimLost, Source
from vantage.telemetry import Telemetry

SERIES = a_series()


def a_batch(name: str, *, value: float = 1.0, samples: int = 2) -> Batch:
    return build_batch([(SERIES, 1_800_000_000_000, value)] * samples, batch_id=name)


class RecordingStore:
    """A store that keeps ranges by token, as ClickHouse does, and fails on request."""

    def __init__(self) -> None:
        self.ranges: dict[str, list[StreamBatch]] = {}
        self.attempts: list[str] = []
        self.failures: list[Exception] = []
        self.refused: set[str] = set()
        self.stores_before_failing = False
        self.stalled = asyncio.Event()
        self.stalled.set()

    async def write_range(self, batches: Sequence[StreamBatch], *, token: str, until_s: float) -> None:
        self.attempts.append(token)
        await self.stalled.wait()
        if self.refused & {item.batch.batch_id for item in batches}:
            raise InputError("this batch can never be stored")
        if self.failures and not self.stores_before_failing:
            raise self.failures.pop()
        self.ranges.setdefault(token, list(batches))
        if self.failures:
            raise self.failures.pop()

    async def batch_ids_before(self, ids: Sequence[str], *, partition: int, offset: int, since_ms: int) -> set[str]:
        stored = {
            item.batch.batch_id
            for items in self.ranges.values()
            for item in items
            if (item.partition != partition or item.offset < offset) and item.at_ms >= since_ms
        }
        return stored & set(ids)

    def stored(self) -> list[str]:
        """Return the ids of all batches, sorted."""
        return sorted(item.batch.batch_id for items in self.ranges.values() for item in items)


class Memory:
    """The broker in memory."""

    def __init__(self, partitions: int = 1) -> None:
        self.broker = MemoryBroker(partitions=partitions, clock=SystemClock())

    async def send(self, value: bytes, version: int = FORMAT, partition: int = 0) -> None:
        self.broker.append(partition, value, version)

    @asynccontextmanager
    async def source(self) -> AsyncIterator[Source]:
        source = MemorySource(self.broker)
        await self.broker.join(source)
        try:
            yield source
        finally:
            await self.broker.leave(source)

    def dead_letters(self) -> list[str]:
        return [reason for _, reason in self.broker.dead_letters]


class Kafka:
    """A topic of its own on a real broker."""

    names = iter(range(1000))

    def __init__(self, broker: KafkaBroker, partitions: int = 1) -> None:
        from confluent_kafka import Producer

        from vantage.stream.kafka.client import Topics, parse_url
        from vantage.stream.kafka.topic_settings import TopicSettings

        self._url = parse_url(broker.url)
        self._topic = TopicSettings(name=f"topic-{next(self.names)}", partitions=partitions)
        self._topics = Topics(self._url, self._topic)
        self._producer: Any = Producer(dict(self._url.settings))
        self._positions = MemoryMetadataStore(SystemClock())
        self._sources = 0
        self._bootstrap = broker.url.removeprefix("kafka://")
        self._seen = self._end_of_dead_letters()

    async def send(self, value: bytes, version: int = FORMAT, partition: int = 0) -> None:
        await asyncio.to_thread(self._topics.topic_id)
        headers = {"vantage-format": str(version)}
        self._producer.produce(self._topic.name, value, headers=headers, partition=partition)
        await asyncio.to_thread(self._producer.flush)

    @asynccontextmanager
    async def source(self) -> AsyncIterator[Source]:
        from vantage.stream.kafka.source import KafkaSource

        async with AsyncExitStack() as stack:
            if not self._sources:
                await stack.enter_async_context(self._positions)  # the first closes it: it ends last
            self._sources += 1
            stack.callback(self._leave)
            yield await stack.enter_async_context(
                KafkaSource(self._url, self._topic, self._positions, group=f"group-{self._topic.name}")
            )

    def _leave(self) -> None:
        self._sources -= 1

    def _end_of_dead_letters(self) -> int:
        from confluent_kafka import Consumer as Client
        from confluent_kafka import KafkaException, TopicPartition

        self._topics.topic_id()
        self._client: Any = Client({"bootstrap.servers": self._bootstrap, "group.id": "dead-letters"})
        partition = TopicPartition("vantage-dead-letters", 0)

        def ends() -> tuple[int, int] | None:
            with contextlib.suppress(KafkaException):  # a topic that was just created has no leader yet
                offsets: tuple[int, int] = self._client.get_watermark_offsets(partition, timeout=10)
                return offsets
            return None

        end: int = wait_until(ends)[1]
        return end

    def dead_letters(self) -> list[str]:
        from confluent_kafka import TopicPartition

        count = self._end_of_dead_letters() - self._seen
        self._client.assign([TopicPartition("vantage-dead-letters", 0, self._seen)])
        messages = self._client.consume(count, 10) if count else []
        return [dict(message.headers())["reason"].decode() for message in messages]


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaBroker]:
    pytest.importorskip("confluent_kafka", reason="pip install 'vantage[kafka]'")
    with running_kafka() as broker:
        yield broker


@pytest.fixture(scope="module")
def kafka_before_kip_848() -> Iterator[KafkaBroker]:
    """A broker without the new protocol of groups, as all were before Kafka 4."""
    pytest.importorskip("confluent_kafka", reason="pip install 'vantage[kafka]'")
    settings = {"group.coordinator.rebalance.protocols": "classic"}
    with running_kafka(within=None, certificate=None, **settings) as broker:
        yield broker


BROKERS = ("memory", "kafka", "kafka_before_kip_848")


def a_broker(request: pytest.FixtureRequest, partitions: int = 1) -> Memory | Kafka:
    """Return a topic of its own on the broker that the test has as its parameter."""
    if request.param == "memory":
        return Memory(partitions)
    return Kafka(request.getfixturevalue(request.param), partitions)


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> Memory | Kafka:
    return a_broker(request)


@pytest.fixture(params=BROKERS)
def broker_of_four(request: pytest.FixtureRequest) -> Memory | Kafka:
    return a_broker(request, partitions=4)


@asynccontextmanager
async def consuming(source: Source, store: RecordingStore, **options: Any) -> AsyncIterator[Consumer]:
    """Run a consumer, and end it in order."""
    consumer = Consumer(source, store, telemetry=Telemetry(), **{"wait_s": 0.02, **options})
    task = asyncio.create_task(consumer.run())
    try:
        yield consumer
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_batches_are_stored_once_in_ranges(broker: Memory | Kafka) -> None:
    store = RecordingStore()
    for number in range(20):
        await broker.send(encode_batch(a_batch(f"b{number:02}")))
        await broker.send(encode_batch(a_batch(f"b{number // 2:02}")))  # sent again, sooner or later
    async with broker.source() as source, consuming(source, store, rows_max=6):
        await until(lambda: len(store.stored()) == 20)
        await until(lambda: list(source.lag().values()) == [0])
    assert store.stored() == [f"b{number:02}" for number in range(20)]
    assert max(len(items) for items in store.ranges.values()) <= 3


async def test_an_outcome_that_is_unknown_is_repeated_under_the_same_token(broker: Memory | Kafka) -> None:
    store = RecordingStore()
    store.stores_before_failing = True
    store.failures = [StoreUnavailable("the connection was lost")] * 2
    await broker.send(encode_batch(a_batch("b0")))
    async with broker.source() as source, consuming(source, store) as consumer:
        await until(lambda: len(store.attempts) == 3)
        await until(lambda: list(source.lag().values()) == [0])
        await consumer.ping()
    assert len(set(store.attempts)) == 1
    assert store.stored() == ["b0"]


async def test_the_next_worker_writes_a_claim_again_as_it_was(broker: Memory | Kafka) -> None:
    """The first worker dies in the middle of a range; more messages come before the next worker begins."""
    store = RecordingStore()
    store.stalled.clear()
    for number in range(3):
        await broker.send(encode_batch(a_batch(f"b{number}")))
    async with broker.source() as source, consuming(source, store):
        await until(lambda: store.attempts)
    for number in range(3, 6):
        await broker.send(encode_batch(a_batch(f"b{number}")))
    store.stalled.set()
    async with broker.source() as source, consuming(source, store):
        await until(lambda: len(store.stored()) == 6)
    assert store.attempts[0] == store.attempts[1] != store.attempts[2]
    assert [len(items) for items in store.ranges.values()] == [3, 3]


async def test_workers_that_come_and_go_lose_nothing_and_store_nothing_twice(broker_of_four: Memory | Kafka) -> None:
    store, sent = RecordingStore(), 0
    rebalanced = asyncio.Event()

    async def send() -> None:
        nonlocal sent
        while not rebalanced.is_set():
            await broker_of_four.send(encode_batch(a_batch(f"b{sent:04}")), partition=sent % 4)
            sent += 1
            await asyncio.sleep(0.005)

    sending = asyncio.create_task(send())
    async with broker_of_four.source() as first, consuming(first, store):
        await until(lambda: set(first.lag()) == {0, 1, 2, 3})
        async with broker_of_four.source() as second, consuming(second, store):
            await until(lambda: len(first.lag()) == len(second.lag()) == 2)
            assert set(first.lag()) | set(second.lag()) == {0, 1, 2, 3}
        await until(lambda: set(first.lag()) == {0, 1, 2, 3})
        async with broker_of_four.source() as third, consuming(third, store):
            await until(lambda: len(first.lag()) == len(third.lag()) == 2)
            rebalanced.set()
            await sending
            await until(lambda: len(set(store.stored())) == sent)
    assert store.stored() == [f"b{number:04}" for number in range(sent)]


async def test_a_worker_that_lost_its_partition_can_claim_nothing(broker: Memory | Kafka) -> None:
    await broker.send(encode_batch(a_batch("b0")))
    async with broker.source() as first:
        first.on_revoked(lambda _: asyncio.sleep(0))
        await until(lambda: first.fetch(0.1))
        claim = await first.claim(0, 0, 0)
    for late in (lambda: first.claim(0, 0, 0), lambda: first.done(claim)):
        with pytest.raises(ClaimLost):
            await late()
    async with broker.source() as second:
        second.on_revoked(lambda _: asyncio.sleep(0))
        await until(lambda: second.fetch(0.1))
        assert second.claimed(0) == (0, 0)
        assert (await second.claim(0, 0, 0)).token == claim.token


async def test_the_client_of_the_broker_is_used_in_one_thread(
    kafka: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calls wait for one another, and in one of them partitions change, which waits for the event loop."""
    import confluent_kafka

    broker, store, threads = Kafka(kafka), RecordingStore(), set[str]()

    class Watched(confluent_kafka.Consumer):
        def __getattribute__(self, name: str) -> Any:
            threads.add(threading.current_thread().name)
            return super().__getattribute__(name)

    monkeypatch.setattr(confluent_kafka, "Consumer", Watched)
    await broker.send(encode_batch(a_batch("b0")))
    async with broker.source() as source, consuming(source, store):
        await until(lambda: list(source.lag().values()) == [0])
        source.pause([0])
        await broker.send(encode_batch(a_batch("b1")))
        source.pause([])
        await until(lambda: len(store.stored()) == 2)
    assert len(threads) == 1
    assert threading.current_thread().name not in threads


@pytest.mark.parametrize(
    ("value", "version", "reason"),
    [
        (b"\x93", FORMAT, "damaged"),
        (b"", FORMAT, "damaged"),
        (encode_batch(a_batch("x"))[:-9], FORMAT, "damaged"),
        (encode_batch(a_batch("x")), 99, "format 99"),
    ],
)
async def test_a_poison_message_goes_to_the_dead_letters_and_the_worker_goes_on(
    broker: Memory | Kafka, value: bytes, version: int, reason: str
) -> None:
    store = RecordingStore()
    await broker.send(encode_batch(a_batch("b0")))
    await broker.send(value, version)
    await broker.send(encode_batch(a_batch("b1")))
    async with broker.source() as source, consuming(source, store) as consumer:
        await until(lambda: store.stored() == ["b0", "b1"])
        await until(lambda: list(source.lag().values()) == [0])
        await consumer.ping()
    (letter,) = await asyncio.to_thread(broker.dead_letters)
    assert reason in letter


async def test_a_batch_that_the_store_refuses_does_not_hold_up_the_others(broker: Memory | Kafka) -> None:
    store = RecordingStore()
    store.refused = {"b1"}
    for number in range(3):
        await broker.send(encode_batch(a_batch(f"b{number}")))
    async with broker.source() as source, consuming(source, store):
        await until(lambda: store.stored() == ["b0", "b2"])
        await until(lambda: list(source.lag().values()) == [0])
    assert await asyncio.to_thread(broker.dead_letters) == ["this batch can never be stored"]


async def test_too_many_poison_messages_stop_the_worker() -> None:
    broker, store = Memory(), RecordingStore()
    for _ in range(POISON_MAX + 1):
        await broker.send(b"")
    async with broker.source() as source, consuming(source, store, rows_max=1) as consumer:
        await until(lambda: consumer.stopped)
        with pytest.raises(UnavailableError, match=f"{POISON_MAX} messages in a row went to the dead letters"):
            await consumer.ping()
        await broker.send(encode_batch(a_batch("b0")))
        await asyncio.sleep(0.2)
        assert store.stored() == []


async def test_a_batch_survives_its_message() -> None:
    from vantage.stream.message import BatchDecoder

    batch = a_batch("b", value=math.pi)
    copy = BatchDecoder().decode(encode_batch(batch), FORMAT)
    assert copy.batch_id == "b"
    assert [series.canonical() for series in copy.series] == [SERIES.canonical()]
    assert copy.value.tolist() == batch.value.tolist()
    assert copy.time_ms.tolist() == batch.time_ms.tolist()
