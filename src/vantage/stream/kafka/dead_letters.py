"""Messages that workers could not store: list them, look at one, and send them again.

A letter is known by its place in the topic, as ``PARTITION-OFFSET``. That it was sent again is a message of the same
topic too, with the header ``replayed`` and no value: it lives longer than the letter does.

Before a letter is sent again, it is claimed by such a message with the header ``claim``, in the letter's partition. Of
those who claim it at the same time, the first in the partition sends it: its order is the same for all of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import uuid4

from vantage.core.errors import InputError, NotFoundError, UnavailableError
from vantage.stream.kafka.client import REQUEST_TIMEOUT_S, BrokerUrl, deliver, failures_of, library, make
from vantage.stream.kafka.topic_settings import DEAD_LETTERS, LETTER_NBYTES_MAX, RECEIVE_NBYTES_MAX, TOPIC
from vantage.stream.message import FORMAT, FORMAT_HEADER

READ_MAX: Final = 100_000  # messages of the topic that are looked at, the latest
REPLAYED: Final = "replayed"  # header of a mark: the letter's id
CLAIM: Final = "claim"  # header of a claim: the letter's id, and who claims it
RELEASE: Final = "release"  # header of a message that ends the claims before it: the letter's id
CLAIM_MS: Final = 60_000  # then it lapses: who claimed the letter has died, and cannot send it any more
SEND_S: Final = 20.0  # after its claim a letter is sent within this time, or claimed again
KEY: Final = "key"  # header of a letter: the key of the message it was
LEFT_OUT: Final = "left-out"  # header of a letter without its message: how many bytes that had
_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that could not be stored. Times are epoch milliseconds; ``source`` is where it was, as
    ``topic/partition/offset``; ``replayed_at_ms`` is None until it is sent again. One that ``is_empty`` is without its
    message, which was too large for the topic. ``claimed_by`` is who sends it again now."""

    id: str
    at_ms: int
    sent_at_ms: int
    source: str
    reason: str
    format: int
    nbytes: int
    key: bytes
    value: bytes
    is_empty: bool = False
    replayed_at_ms: int | None = None
    claimed_by: str = ""


class DeadLetters:
    """The topic of dead letters. Its methods block, and raise UnavailableError when the broker does not answer."""

    def __init__(self, url: BrokerUrl) -> None:
        self._url = url
        self._kafka = library()
        self._failures = failures_of(url)

    def latest(self) -> tuple[list[Letter], int]:
        """Return the letters of the last READ_MAX messages without their values, the latest first, and how many
        messages before them were not looked at."""
        pile = _Pile()
        skipped = 0
        with self._consumer() as consumer:
            for partition, low, high in self._ends(consumer):
                start = max(low, high - READ_MAX)
                skipped += start - low
                for record in self._read(consumer, partition, start, high):
                    pile.add(record, with_value=False)
        return sorted(pile.letters(), key=lambda letter: (-letter.at_ms, letter.id)), skipped

    def letter(self, letter_id: str) -> Letter:
        """Return a letter. Raises InputError when the id has another form, NotFoundError when there is none."""
        partition, offset = _position(letter_id)
        pile = _Pile()
        with self._consumer() as consumer:
            for number, low, high in self._ends(consumer):
                first = offset if number == partition else high - READ_MAX  # marks are anywhere
                for record in self._read(consumer, number, max(low, first), high):
                    pile.add(record, with_value=number == partition and record.offset() == offset)
        for letter in pile.letters():
            if letter.id == letter_id:
                return letter
        raise NotFoundError(f"there is no dead letter {letter_id}: they are deleted after 7 days")

    def replay(self, letter_ids: Sequence[str], on_sent: Callable[[str], None], *, again: bool = False) -> None:
        """Send messages again as they were, then mark them; ``on_sent`` is called after each. Those that somebody else
        sends at the same time are left out, and without ``again`` those that were sent before. One that is interrupted
        between sending and marking is sent again next time: its batch id lets it be stored once. Raises as
        ``letter``."""
        producer = make(
            "Producer",
            self._url,
            self._failures,
            {
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "zstd",
                "message.max.bytes": RECEIVE_NBYTES_MAX,
                "message.timeout.ms": int(REQUEST_TIMEOUT_S * 1000),
            },
        )
        for letter_id in letter_ids:
            letter = self._claimed(producer, letter_id)
            if letter is None:
                continue
            if letter.is_empty or (letter.replayed_at_ms is not None and not again):
                self._note(producer, letter_id, {RELEASE: letter_id.encode()})
                continue
            headers = {FORMAT_HEADER: str(letter.format).encode()}
            topic, failures = letter.source.split("/")[0] or TOPIC, self._failures
            deliver(producer, topic, key=letter.key, value=letter.value, headers=headers, failures=failures)
            self._note(producer, letter_id, {REPLAYED: letter_id.encode()})
            on_sent(letter_id)

    def _claimed(self, producer: Any, letter_id: str) -> Letter | None:
        """Return a letter that nobody else sends for SEND_S; None when another one has claimed it."""
        while True:
            token, began_s = uuid4().hex, time.monotonic()
            self._note(producer, letter_id, {CLAIM: f"{letter_id} {token}".encode()})
            letter = self.letter(letter_id)
            if letter.claimed_by != token:
                return None
            if time.monotonic() < began_s + SEND_S:
                return letter

    def _note(self, producer: Any, letter_id: str, headers: Mapping[str, bytes]) -> None:
        """Publish a claim or a mark behind the letter."""
        partition, _ = _position(letter_id)
        deliver(
            producer,
            DEAD_LETTERS,
            key=b"",
            value=None,
            headers=headers,
            failures=self._failures,
            partition=partition,
        )

    @contextlib.contextmanager
    def _consumer(self) -> Iterator[Any]:
        consumer = make(
            "Consumer",
            self._url,
            self._failures,
            {
                "group.id": f"{DEAD_LETTERS}-{uuid4().hex}",  # the client wants one; nothing is committed in it
                "enable.auto.commit": False,
                "fetch.message.max.bytes": LETTER_NBYTES_MAX,
                "receive.message.max.bytes": RECEIVE_NBYTES_MAX,
            },
        )
        try:
            yield consumer
        except self._kafka.KafkaException as error:
            raise self._failures.unavailable(error) from error
        finally:
            consumer.close()

    def _ends(self, consumer: Any) -> list[tuple[int, int, int]]:
        """Return each partition with its first offset and the one after its last; none when there is no topic."""
        topic = consumer.list_topics(DEAD_LETTERS, timeout=REQUEST_TIMEOUT_S).topics[DEAD_LETTERS]
        return [
            (
                number,
                *consumer.get_watermark_offsets(
                    self._kafka.TopicPartition(DEAD_LETTERS, number), timeout=REQUEST_TIMEOUT_S
                ),
            )
            for number in sorted(topic.partitions)
        ]

    def _read(self, consumer: Any, partition: int, start: int, end: int) -> Iterator[Any]:
        """Yield the messages from ``start`` on that were there at the beginning."""
        if start >= end:
            return
        consumer.assign([self._kafka.TopicPartition(DEAD_LETTERS, partition, start)])
        silent_s = 0.0
        while True:
            record = consumer.poll(_POLL_S)
            if record is None:
                silent_s += _POLL_S
                if silent_s >= REQUEST_TIMEOUT_S:
                    self._failures.note_silence()
                    raise UnavailableError(self._failures.latest)
                continue
            silent_s = 0.0
            if record.error() is not None:
                raise UnavailableError(self._failures.reason(record.error()))
            yield record
            if record.offset() >= end - 1:
                return


class _Pile:
    """Letters, and marks of those that were sent again."""

    def __init__(self) -> None:
        self._letters: dict[str, Letter] = {}
        self._replayed_ms: dict[str, int] = {}
        self._claims: dict[str, list[tuple[int, str]]] = {}  # since the last mark or release: time, and who

    def add(self, record: Any, *, with_value: bool) -> None:
        """Add a message of the topic."""
        headers = dict(record.headers() or ())
        if (replayed := headers.get(REPLAYED)) is not None:
            letter_id = replayed.decode("utf-8", "replace")
            self._replayed_ms[letter_id] = record.timestamp()[1]
            self._claims.pop(letter_id, None)
            return
        if (released := headers.get(RELEASE)) is not None:
            self._claims.pop(released.decode("utf-8", "replace"), None)
            return
        if (claim := headers.get(CLAIM)) is not None:
            letter_id, _, token = claim.decode("utf-8", "replace").partition(" ")
            self._claims.setdefault(letter_id, []).append((record.timestamp()[1], token))
            return
        value = record.value() or b""
        letter_id = f"{record.partition()}-{record.offset()}"
        self._letters[letter_id] = Letter(
            id=letter_id,
            at_ms=record.timestamp()[1],
            sent_at_ms=_number(headers.get("sent-at"), 0),
            source=(record.key() or b"").decode("utf-8", "replace"),
            reason=(headers.get("reason") or b"").decode("utf-8", "replace"),
            format=_number(headers.get(FORMAT_HEADER), FORMAT),
            nbytes=_number(headers.get(LEFT_OUT), len(value)),
            key=headers.get(KEY) or b"",
            value=value if with_value else b"",
            is_empty=LEFT_OUT in headers,
        )

    def letters(self) -> Iterator[Letter]:
        """Yield the letters, each with what the marks say of it."""
        for letter in self._letters.values():
            yield replace(
                letter, replayed_at_ms=self._replayed_ms.get(letter.id), claimed_by=self._claimed_by(letter.id)
            )

    def _claimed_by(self, letter_id: str) -> str:
        claims = self._claims.get(letter_id, [])
        latest_ms = claims[-1][0] if claims else 0
        return next((token for at_ms, token in claims if at_ms > latest_ms - CLAIM_MS), "")


def _position(letter_id: str) -> tuple[int, int]:
    partition, dash, offset = letter_id.partition("-")
    if not dash or not (partition + offset).isascii() or not partition.isdigit() or not offset.isdigit():
        raise InputError(f"{letter_id[:40]!r} is not the id of a dead letter, such as 0-12")
    return int(partition), int(offset)


def _number(text: bytes | None, otherwise: int) -> int:
    try:
        return int(text) if text is not None else otherwise
    except ValueError:
        return otherwise
