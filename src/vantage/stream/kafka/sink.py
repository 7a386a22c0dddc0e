"""Publish batches: a 202 is answered when the brokers have acknowledged the message."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

import msgspec
import structlog

from vantage.core.batch import Batch
from vantage.core.errors import BusyError, ConfigError, InputError
from vantage.core.turns import wait_in_thread
from vantage.stream.kafka.client import BrokerUrl, Topics, failures_of, library, make
from vantage.stream.kafka.topic_settings import MESSAGE_NBYTES_MAX, VALUE_NBYTES_MAX, TopicSettings
from vantage.stream.message import FORMAT, FORMAT_HEADER, encode_batch

DELIVERY_TIMEOUT_S: Final = 15.0  # then a batch is refused; the client sends it again
LINGER_MS: Final = 5
FLUSH_TIMEOUT_S: Final = 8.0
_log = structlog.get_logger("vantage.stream.kafka")
_POLL_S: Final = 0.1


class KafkaSink:
    """Publishes to the topic; ``nbytes_max`` bounds what waits for acknowledgement. ``acks`` is ``all`` or ``1``.

    A batch without an id gets one, and the id is the message's key: a batch that is sent again comes to the same
    partition, behind the first.
    """

    def __init__(self, url: BrokerUrl, topics: TopicSettings, *, acks: str, compression: str, nbytes_max: int) -> None:
        self._url = url
        self._topic = topics.name
        self._topics = Topics(url, topics)
        self._acks = acks
        self._compression = compression
        self._nbytes_max = nbytes_max
        self._kafka = library()
        self._failures = failures_of(url)
        self._producer: Any = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._preparing: asyncio.Task[str] | None = None
        self.queued_nbytes = 0

    async def __aenter__(self) -> Self:
        """Start. A broker that is down does not keep the process from starting: ``publish`` is refused meanwhile."""
        self._producer = self._make_producer()
        self._stop.clear()
        self._thread = threading.Thread(target=self._poll, name="vantage-producer", daemon=True)
        self._thread.start()
        self._prepare()
        return self

    def warnings(self) -> Sequence[str]:
        """Return what is wrong with topics that were not created here."""
        return self._topics.warnings

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await wait_in_thread(self._producer.flush, FLUSH_TIMEOUT_S)
        self._stop.set()
        if self._thread is not None:
            await wait_in_thread(self._thread.join)

    def _make_producer(self) -> Any:
        producer = make(
            "Producer",
            self._url,
            self._failures,
            {
                "acks": self._acks,
                "enable.idempotence": self._acks == "all",
                "compression.type": self._compression,
                "linger.ms": LINGER_MS,
                "message.max.bytes": MESSAGE_NBYTES_MAX,
                "message.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),
                "queue.buffering.max.kbytes": max(1024, 2 * self._nbytes_max >> 10),
            },
        )
        self._failures.fatal = ""
        return producer

    def _poll(self) -> None:
        while not self._stop.is_set():
            producer = self._producer
            producer.poll(_POLL_S)
            if self._failures.fatal:  # an idempotent producer that lost its place cannot go on: a new one can
                with contextlib.suppress(ConfigError):  # its file of certificates is away now: try again
                    self._producer = self._make_producer()
                    producer.purge()
                    producer.poll(0)

    async def publish(self, batch: Batch) -> None:
        batch = batch if batch.batch_id else msgspec.structs.replace(batch, batch_id=uuid4().hex)
        if not batch.samples and not batch.spans:
            return
        if self.queued_nbytes + batch.nbytes > self._nbytes_max:
            raise BusyError("the queue of batches waiting for the broker is full")
        self.queued_nbytes += batch.nbytes
        try:
            await self._until_prepared()
            value = encode_batch(batch)
            if len(value) > VALUE_NBYTES_MAX:
                raise InputError(f"takes {len(value)} bytes as a message, more than {VALUE_NBYTES_MAX}")
            await self._deliver(batch.batch_id, value)
        finally:
            self.queued_nbytes -= batch.nbytes

    async def _until_prepared(self) -> None:
        """Create and check the topics once. Batches that come while a broker does not answer wait for one attempt
        together, not each for its own in a thread that the health check needs as well."""
        if not self._topics.ready:
            await asyncio.shield(self._prepare())

    def _prepare(self) -> asyncio.Task[str]:
        if self._preparing is None or self._preparing.done():
            self._preparing = asyncio.create_task(wait_in_thread(self._topics.topic_id))
            self._preparing.add_done_callback(self._on_prepared)
        return self._preparing

    def _on_prepared(self, task: asyncio.Task[str]) -> None:
        if not task.cancelled() and task.exception() is None:  # who waits for it has the exception
            for sentence in self._topics.warnings:
                _log.warning("topic", reason=sentence)

    async def _deliver(self, key: str, value: bytes) -> None:
        loop = asyncio.get_running_loop()
        delivered: asyncio.Future[None] = loop.create_future()

        def settle(error: Any) -> None:
            if delivered.done():
                return
            if error is None:
                delivered.set_result(None)
            else:
                delivered.set_exception(self._failures.refused(error))

        def on_delivery(error: Any, _message: Any) -> None:
            loop.call_soon_threadsafe(settle, error)

        try:
            self._producer.produce(
                self._topic,
                value=value,
                key=key.encode(),
                headers={FORMAT_HEADER: str(FORMAT).encode()},
                on_delivery=on_delivery,
            )
        except BufferError as error:
            raise BusyError("the queue of batches waiting for the broker is full") from error
        except self._kafka.KafkaException as error:
            raise self._failures.refused(error.args[0]) from error
        await delivered
        self._failures.clear()

    async def ping(self) -> None:
        """Raise UnavailableError when the broker does not answer."""
        await wait_in_thread(self._topics.ping)
