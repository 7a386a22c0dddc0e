"""The topic ``vantage-live``: what workers tell of the moment, for every process that has pages open.

A message that is lost is a moment that pages do not show: one replica acknowledges it, and nobody repeats it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

from vantage.core.errors import UnavailableError
from vantage.core.turns import wait_in_thread
from vantage.stream.kafka.client import BrokerUrl, Topics, failures_of, library, make
from vantage.stream.kafka.topic_settings import LIVE, TopicSettings

READ_MAX: Final = 200  # messages at once
QUEUE_KBYTES: Final = 8192  # that wait to be sent, or to be read


class LiveWriter:
    """Sends messages to the topic."""

    def __init__(self, url: BrokerUrl, topics: TopicSettings) -> None:
        self._url = url
        self._topics = Topics(url, topics)
        self._kafka = library()
        self._failures = failures_of(url)
        self._producer: Any = None

    async def send(self, messages: list[bytes]) -> None:
        """Hand messages to the broker's client. Raises UnavailableError; then some of them are not sent."""
        await wait_in_thread(self._send, messages)

    def _send(self, messages: list[bytes]) -> None:
        self._topics.topic_id()
        if self._producer is None:
            self._producer = make(
                "Producer",
                self._url,
                self._failures,
                {
                    "acks": "1",
                    "compression.type": "lz4",
                    "message.timeout.ms": 2000,
                    "queue.buffering.max.kbytes": QUEUE_KBYTES,
                },
            )
        try:
            for message in messages:
                self._producer.produce(LIVE, value=message)
        except BufferError as error:
            raise UnavailableError("the queue of live updates for the broker is full") from error
        except self._kafka.KafkaException as error:
            raise self._failures.unavailable(error) from error
        finally:
            self._producer.poll(0)


class LiveReader:
    """Reads what is sent to the topic from now on, as one of any number of readers."""

    def __init__(self, url: BrokerUrl, topics: TopicSettings) -> None:
        self._url = url
        self._topics = Topics(url, topics)
        self._kafka = library()
        self._failures = failures_of(url)
        self._thread: ThreadPoolExecutor | None = None
        self._consumer: Any = None

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, "vantage-live")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown(wait=False)

    async def read(self, timeout_s: float) -> list[bytes]:
        """Return the next messages, none after ``timeout_s``. Raises UnavailableError."""
        if self._thread is None:
            raise UnavailableError("the reader of live updates is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, timeout_s)

    def _read(self, timeout_s: float) -> list[bytes]:
        self._topics.topic_id()
        if self._consumer is None:
            consumer = make(
                "Consumer",
                self._url,
                self._failures,
                {
                    "group.id": f"{LIVE}-{uuid4().hex}",  # the client wants one; nothing is committed in it
                    "enable.auto.commit": False,
                    "queued.max.messages.kbytes": QUEUE_KBYTES,
                },
            )
            consumer.assign([self._kafka.TopicPartition(LIVE, 0, self._kafka.OFFSET_END)])
            self._consumer = consumer
        try:
            records = self._consumer.consume(READ_MAX, timeout_s)
        except self._kafka.KafkaException as error:
            raise self._failures.unavailable(error) from error
        for record in records:
            if record.error() is not None:
                self._failures.on_error(record.error())
        if self._failures.fatal:
            self._close()
        return [record.value() for record in records if record.error() is None and record.value()]

    def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._failures.fatal = ""
        if consumer is not None:
            consumer.close()
