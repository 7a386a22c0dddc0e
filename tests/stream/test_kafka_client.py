"""The URL of a broker: what it becomes, and one clear line for what it cannot be, without the password."""

from __future__ import annotations

import pytest

from tests.support.wait import BUSY_S
from vantage.core.batch import build_batch
from vantage.core.errors import ConfigError, UnavailableError
from vantage.stream.kafka.client import parse_url
from vantage.stream.kafka.topic_settings import TopicSettings

SECRET = "p4ssw0rd"


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("kafka://one", {"bootstrap.servers": "one:9092"}),
        ("one:9093,two", {"bootstrap.servers": "one:9093,two:9092"}),
        ("kafka://[::1]:9092/", {"bootstrap.servers": "[::1]:9092"}),
        (
            f"kafka://user:{SECRET}@one",
            {
                "bootstrap.servers": "one:9092",
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "PLAIN",
                "sasl.username": "user",
                "sasl.password": SECRET,
            },
        ),
        (
            "kafka://us%40er:a%2Fb@one?tls=true&sasl=SCRAM-SHA-512",
            {
                "bootstrap.servers": "one:9092",
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": "us@er",
                "sasl.password": "a/b",
            },
        ),
        (
            "kafka://one?ca=/etc/ca.pem",
            {"bootstrap.servers": "one:9092", "security.protocol": "SSL", "ssl.ca.location": "/etc/ca.pem"},
        ),
    ],
)
def test_a_url_becomes_settings_of_the_library(url: str, settings: dict[str, str]) -> None:
    assert parse_url(url).settings == settings


@pytest.mark.parametrize(
    "url",
    [
        "http://one",
        "kafka://",
        f"kafka://user:{SECRET}@",
        f"kafka://user:{SECRET}@one:port",
        f"kafka://user:{SECRET}@one:0",
        f"kafka://user:{SECRET}@one/topic",
        f"kafka://user:{SECRET}@one?sasl=GUESS",
        f"kafka://user:{SECRET}@one?tls=maybe",
        f"kafka://user:{SECRET}@one?acks=1",
        "kafka://one?sasl=PLAIN",
        "kafka://one two",
    ],
)
def test_any_other_url_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError) as failure:
        parse_url(url)
    assert "broker_url" in str(failure.value)
    assert SECRET not in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("kafka://127.0.0.1:1", "does not answer"),
        ("kafka://no-host.invalid", "cannot be resolved|does not answer"),
    ],
)
async def test_a_broker_that_is_not_there_is_told_and_keeps_nobody_waiting(url: str, reason: str) -> None:
    pytest.importorskip("confluent_kafka", reason="pip install 'vantage[kafka]'")
    import asyncio

    from tests.support.samples import a_series
    from vantage.stream.kafka.client import REQUEST_TIMEOUT_S
    from vantage.stream.kafka.sink import KafkaSink

    sink = KafkaSink(parse_url(url), TopicSettings(), acks="all", compression="lz4", nbytes_max=1 << 20)
    async with sink:
        with pytest.raises(UnavailableError, match=reason):
            await sink.ping()
        async with asyncio.timeout(REQUEST_TIMEOUT_S + BUSY_S):
            with pytest.raises(UnavailableError, match=reason):
                await sink.publish(build_batch([(a_series(), 1, 1.0)]))
        assert sink.queued_nbytes == 0
