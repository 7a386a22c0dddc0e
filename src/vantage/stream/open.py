"""From settings to a broker."""

from __future__ import annotations

from collections.abc import Callable

from vantage.config import Settings
from vantage.stream.kafka.client import parse_url
from vantage.stream.kafka.live import LiveReader, LiveWriter
from vantage.stream.kafka.sink import KafkaSink
from vantage.stream.kafka.source import KafkaSource
from vantage.stream.kafka.topic_settings import TopicSettings
from vantage.stream.ports import StreamPositions


def open_sink(settings: Settings) -> KafkaSink:
    """Return the sink of the settings, not yet opened. Raises ConfigError."""
    return KafkaSink(
        parse_url(settings.broker_url),
        _topics(settings),
        acks=settings.kafka_acks,
        compression=settings.kafka_compression,
        nbytes_max=settings.queue_bytes_max,
    )


def open_source(settings: Settings, positions: StreamPositions, *, on_rebalance: Callable[[], None]) -> KafkaSource:
    """Return the source of the settings, not yet opened. Raises ConfigError."""
    return KafkaSource(parse_url(settings.broker_url), _topics(settings), positions, on_rebalance=on_rebalance)


def open_live_writer(settings: Settings) -> LiveWriter:
    """Return the writer of live updates. Raises ConfigError."""
    return LiveWriter(parse_url(settings.broker_url), _topics(settings))


def open_live_reader(settings: Settings) -> LiveReader:
    """Return a reader of live updates, not yet opened. Raises ConfigError."""
    return LiveReader(parse_url(settings.broker_url), _topics(settings))


def _topics(settings: Settings) -> TopicSettings:
    return TopicSettings(partitions=settings.kafka_partitions, replicas=settings.kafka_replicas)
