"""Topics that an operator created with other settings, and messages as large as they take, on a real broker."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.kafka_broker import KafkaBroker, running_kafka
from tests.support.samples import a_batch
from tests.support.server import serving
from tests.support.wait import until, wait_until
from vantage.core.batch import build_batch
from vantage.core.clock import SystemClock
from vantage.core.errors import InputError
from vantage.core.sample import Kind
from vantage.core.series import make_series
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.stream.kafka.client import Topics, parse_url
from vantage.stream.kafka.dead_letters import DeadLetters
from vantage.stream.kafka.sink import KafkaSink
from vantage.stream.kafka.source import KafkaSource
from vantage.stream.kafka.topic_settings import (
    DEAD_LETTERS,
    LETTER_NBYTES_MAX,
    MESSAGE_NBYTES_MAX,
    TOPIC,
    VALUE_NBYTES_MAX,
    TopicSettings,
    differences,
)
from vantage.stream.message import encode_batch
from vantage.stream.ports import Message

NUMBERS = count()


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaBroker]:
    pytest.importorskip("confluent_kafka", reason="pip install 'vantage[kafka]'")
    with running_kafka() as broker:
        yield broker


def create(broker: KafkaBroker, name: str, partitions: int, **config: str) -> None:
    """Create a topic as an operator would, and wait until it is there."""
    kafka_admin: Any = importlib.import_module("confluent_kafka.admin")

    admin = kafka_admin.AdminClient(dict(parse_url(broker.url).settings))
    settings = {key.replace("_", "."): value for key, value in config.items()}
    for future in admin.create_topics([kafka_admin.NewTopic(name, partitions, 1, config=settings)]).values():
        future.result()
    wait_until(lambda: name in admin.list_topics(timeout=10).topics)


def config_of(broker: KafkaBroker, name: str) -> dict[str, str]:
    kafka_admin: Any = importlib.import_module("confluent_kafka.admin")

    admin = kafka_admin.AdminClient(dict(parse_url(broker.url).settings))
    (future,) = admin.describe_configs([kafka_admin.ConfigResource(kafka_admin.ResourceType.TOPIC, name)]).values()
    return {key: entry.value for key, entry in future.result().items()}


async def fetched(source: KafkaSource, number: int) -> list[Message]:
    messages: list[Message] = []

    async def enough() -> bool:
        messages.extend(await source.fetch(0.2))
        return len(messages) >= number

    await until(enough)
    return messages


def test_each_setting_that_matters_is_a_sentence() -> None:
    wanted = TopicSettings(partitions=6)
    assert differences(TOPIC, 6, wanted.config(TOPIC), wanted) == []
    assert differences(TOPIC, 12, {}, wanted) == []
    assert differences(DEAD_LETTERS, 1, wanted.config(DEAD_LETTERS), wanted) == []
    config = {
        "retention.ms": "3600000",
        "retention.bytes": "1000",
        "cleanup.policy": "compact,delete",
        "max.message.bytes": "1048588",
    }
    sentences = differences(TOPIC, 2, config, wanted)
    assert [sentence.partition(":")[0] for sentence in sentences] == [
        "the topic metrics-raw has fewer partitions than kafka_partitions, 2 of 6",
        "the topic metrics-raw keeps messages for 1 h and not for 7 days",
        "the topic metrics-raw deletes messages beyond a size",
        "the topic metrics-raw deletes messages by key",
        "the topic metrics-raw refuses messages of more than 1048588 bytes",
    ]
    assert f"max.message.bytes to {LETTER_NBYTES_MAX}" in differences(DEAD_LETTERS, 1, config, wanted)[-1]


def test_a_topic_with_other_settings_works_and_is_a_warning_of_health(broker: KafkaBroker, tmp_path: Path) -> None:
    create(broker, TOPIC, 2, retention_ms="3600000")
    with serving(tmp_path / "data", environ={"VANTAGE_BROKER_URL": broker.url}) as server:
        payload = {"service_name": "s", "metrics": [{"metric_name": "m", "metric_type": "gauge", "value": 7}]}
        assert server.send(payload).status == 202
        wait_until(lambda: server.total("s", "m") == (1, 7.0))
        health = server.get("/health")
    assert health.status == 200
    assert len(health.json()["warnings"]) == 3
    assert "2 of 6" in health.json()["warnings"][0]
    assert "keeps messages for 1 h" in health.json()["warnings"][1]
    assert "refuses messages of more than 1048588 bytes" in health.json()["warnings"][2]
    assert server.output.count("keeps messages for 1 h") == 1


async def test_a_batch_that_the_topic_refuses_is_an_error_of_the_batch(broker: KafkaBroker) -> None:
    topic = TopicSettings(name=f"topic-{next(NUMBERS)}", partitions=1)
    await asyncio.to_thread(create, broker, topic.name, 1, max_message_bytes="2000")
    tags = {f"tag{number}": os.urandom(50).hex() for number in range(40)}
    large = make_series(service="s", metric="m", kind=Kind.GAUGE, environment="", tags=tags)
    async with KafkaSink(parse_url(broker.url), topic, acks="all", compression="none", nbytes_max=1 << 20) as sink:
        with pytest.raises(InputError, match=r"larger than the broker takes: max\.message\.bytes"):
            await sink.publish(build_batch([(large, 1, 1.0)], batch_id="large"))
        await sink.publish(a_batch(1.0, batch_id="small"))
        assert sink.queued_nbytes == 0


async def test_the_largest_message_becomes_a_letter_and_is_sent_again(broker: KafkaBroker) -> None:
    """A letter is larger than its message. What another program sent may be larger than any letter."""
    from confluent_kafka import Producer

    url, topic = parse_url(broker.url), TopicSettings(name=f"topic-{next(NUMBERS)}", partitions=1)
    await asyncio.to_thread(Topics(url, topic).topic_id)
    config = await asyncio.to_thread(config_of, broker, DEAD_LETTERS)
    assert int(config["max.message.bytes"]) == LETTER_NBYTES_MAX == 2 * MESSAGE_NBYTES_MAX
    producer: Any = Producer({**url.settings, "message.max.bytes": 100 << 20, "enable.idempotence": True})
    outcomes: list[Any] = []

    def send(value: bytes) -> None:
        producer.produce(topic.name, value, "k" * 1000, on_delivery=lambda error, _: outcomes.append(error))
        producer.flush()

    largest = os.urandom(VALUE_NBYTES_MAX)
    await asyncio.to_thread(send, largest)
    await asyncio.to_thread(send, os.urandom(50_000_000))
    assert [error and error.name() for error in outcomes] == [None, "MSG_SIZE_TOO_LARGE"]

    letters = DeadLetters(url)
    async with MemoryMetadataStore(SystemClock()) as positions, KafkaSource(url, topic, positions, group="g") as source:
        (message,) = await fetched(source, 1)
        assert message.value == largest
        await source.reject(message, "x" * 2000)
        (letter,) = [letter for letter in letters.latest()[0] if letter.source.startswith(f"{topic.name}/")]
        assert (letter.nbytes, letter.is_empty, len(letter.reason)) == (VALUE_NBYTES_MAX, False, 1000)
        await asyncio.to_thread(letters.replay, [letter.id], lambda _: None)
        (again,) = await fetched(source, 1)
        assert (again.key, again.value) == (b"k" * 1000, largest)


async def test_a_message_larger_than_any_letter_does_not_stop_its_partition(broker: KafkaBroker) -> None:
    from confluent_kafka import Producer

    url, topic = parse_url(broker.url), TopicSettings(name=f"topic-{next(NUMBERS)}", partitions=1)
    await asyncio.to_thread(create, broker, topic.name, 1, max_message_bytes=str(60 << 20))
    producer: Any = Producer({**url.settings, "message.max.bytes": 100 << 20})
    producer.produce(topic.name, os.urandom(50_000_000))
    producer.produce(topic.name, encode_batch(a_batch(1.0, batch_id="b")), headers={"vantage-format": "1"})
    await asyncio.to_thread(producer.flush)
    async with MemoryMetadataStore(SystemClock()) as positions, KafkaSource(url, topic, positions, group="h") as source:
        large, small = await fetched(source, 2)
        assert small.batch is not None
        await source.reject(large, large.problem)
    (letter,) = [letter for letter in DeadLetters(url).latest()[0] if letter.source.startswith(f"{topic.name}/")]
    assert (letter.nbytes, letter.is_empty) == (50_000_000, True)
    assert "format 0" in letter.reason
