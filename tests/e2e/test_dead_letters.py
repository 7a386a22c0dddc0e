"""``vantage dead-letters`` on a real broker: listed, shown, sent again, and stored once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.support.kafka_broker import KafkaBroker, running_kafka
from tests.support.samples import a_batch
from tests.support.server import vantage
from tests.support.wait import until
from vantage.core.clock import SystemClock
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.stream.kafka.client import Topics, parse_url
from vantage.stream.kafka.dead_letters import CLAIM, CLAIM_MS, DeadLetters
from vantage.stream.kafka.source import KafkaSource
from vantage.stream.kafka.topic_settings import DEAD_LETTERS, TOPIC, TopicSettings
from vantage.stream.message import FORMAT, encode_batch
from vantage.stream.ports import Message, Source


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaBroker]:
    with running_kafka() as broker:
        yield broker


async def rejected(source: Source, count: int, reason: str) -> list[Message]:
    """Read so many messages, and reject them all."""
    messages: list[Message] = []

    async def fetched() -> bool:
        messages.extend(await source.fetch(0.2))
        return len(messages) >= count

    await until(fetched)
    for message in messages:
        await source.reject(message, reason)
    return messages


@pytest.mark.timeout(300)
async def test_letters_are_listed_shown_and_sent_again_once(broker: KafkaBroker, tmp_path: Path) -> None:
    environ = {"VANTAGE_BROKER_URL": broker.url}

    def run(*arguments: str, status: int = 0) -> str:
        done = vantage("dead-letters", *arguments, cwd=tmp_path, environ=environ)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    url, topics = parse_url(broker.url), TopicSettings(partitions=1)
    assert "there are no dead letters" in run("list")
    Topics(url, topics).topic_id()
    producer = Producer(dict(url.settings))
    good = encode_batch(a_batch(1.0, 2.0, batch_id="good"))
    for value, key, version in ((good, "good", FORMAT), (b"\x93\xff poison", "bad", FORMAT), (good, "later", 99)):
        producer.produce(TOPIC, value, key, headers={"vantage-format": str(version)})
    producer.flush()

    async with (
        MemoryMetadataStore(SystemClock()) as positions,
        KafkaSource(url, topics, positions) as source,
    ):
        await rejected(source, 3, "the disk of ClickHouse has\nno room")
        text = run("list")
        assert text.count("waiting") == 4
        assert "3 waiting: the disk of ClickHouse has" in text
        listed = json.loads(run("list", "--format", "json", "--limit", "2"))
        assert (len(listed["letters"]), listed["left_out"]) == (2, 1)
        assert {letter["id"] for letter in listed["letters"]} <= {"0-0", "0-1", "0-2"}

        shown = run("show", "0-0")
        assert '"batch_id": "good"' in shown
        assert '"value": 2.0' in shown
        assert "poison" in run("show", "0-1")
        assert "format 99" in run("show", "0-2")

        assert "give ids, --reason TEXT, or --all" in run("replay", status=1)
        assert "give --yes" in run("replay", "0-0", status=1)
        assert "sent 1 of 1 again" in run("replay", "0-0", "--yes")
        assert "left out" in run("replay", "0-0", "--yes")
        assert run("list").count("replayed") == 1
        assert "sent 2 of 2 again" in run("replay", "--reason", "disk", "--yes")
        assert "no dead letter waits" in run("replay", "--all", "--yes")
        assert "sent 1 of 1 again" in run("replay", "0-0", "--again", "--yes")

        again = await rejected(source, 4, "still")
        assert [(message.key, message.format, message.value) for message in again] == [
            (b"good", b"1", good),
            (b"bad", b"1", b"\x93\xff poison"),
            (b"later", b"99", good),
            (b"good", b"1", good),
        ]
        assert [message.batch and message.batch.batch_id for message in again] == ["good", None, None, "good"]


async def test_commands_at_the_same_time_send_each_letter_once(broker: KafkaBroker) -> None:
    url, topic = parse_url(broker.url), TopicSettings(name="metrics-twice", partitions=1)
    await asyncio.to_thread(Topics(url, topic).topic_id)
    producer = Producer(dict(url.settings))
    for number in range(6):
        producer.produce(topic.name, encode_batch(a_batch(1.0, batch_id="")), headers={"vantage-format": str(number)})
    producer.flush()
    async with (
        MemoryMetadataStore(SystemClock()) as positions,
        KafkaSource(url, topic, positions, group="twice") as source,
    ):
        await rejected(source, 6, "refused")
        letters = [letter for letter in DeadLetters(url).latest()[0] if letter.source.startswith(f"{topic.name}/")]
        ids = [letter.id for letter in letters]
        for again in (False, True):
            sent: list[str] = []
            commands = [asyncio.to_thread(DeadLetters(url).replay, ids, sent.append, again=again) for _ in range(3)]
            await asyncio.gather(*commands)
            assert sorted(sent) == sorted(ids) if not again else set(sent) == set(ids)
            messages = await rejected(source, len(sent), "refused again")
            assert len(messages) == len(sent)
            assert await source.fetch(1.0) == []
        # One that died with a claim keeps nobody from the letter for more than a minute.
        late, other = [letter.id for letter in DeadLetters(url).latest()[0] if letter.reason == "refused again"][:2]
        now_ms = SystemClock().now_ms()
        for letter_id, at_ms in ((late, now_ms - CLAIM_MS - 1000), (other, now_ms)):
            claim = f"{letter_id} somebody-else"
            producer.produce(DEAD_LETTERS, None, "", headers={CLAIM: claim}, timestamp=at_ms)
        producer.flush()
        sent = []
        await asyncio.to_thread(DeadLetters(url).replay, [late, other], sent.append)
        assert sent == [late]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("show", "0-999999999"), "there is no dead letter 0-999999999"),
        (("show", "first"), "'first' is not the id of a dead letter"),
        (("replay", "7-0", "--yes"), "there is no dead letter 7-0"),
        (("list", "--limit", "0"), "--limit"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    broker: KafkaBroker, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    done = vantage("dead-letters", *arguments, environ={"VANTAGE_BROKER_URL": broker.url}, cwd=tmp_path)
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_broker_it_says_what_is_missing(tmp_path: Path) -> None:
    assert "set broker_url" in vantage("dead-letters", "list", environ={}, cwd=tmp_path).stderr
    url = "kafka://me:secret@127.0.0.1:1"
    done = vantage("dead-letters", "list", environ={"VANTAGE_BROKER_URL": url}, cwd=tmp_path)
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert "secret" not in done.stderr
