"""When the server is busy, away, or says no."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from email.utils import formatdate
from time import time

import pytest

from tests.agent.receiver import ACCEPTED, Receiver
from vantage_agent import _exporter
from vantage_agent._batch import RECORDED_SAMPLE
from vantage_agent._buffer import Buffer
from vantage_agent._config import make_config
from vantage_agent._exporter import Exporter


class Delivery:
    """An exporter whose pauses are written down instead of waited for."""

    def __init__(self, url: str) -> None:
        self.pauses: list[float] = []
        self.stop_after: int | None = None
        self.buffer = Buffer(items_max=10, nbytes_max=1 << 20)
        config = make_config({}, service_name="s", collector_url=url, instance="i")
        self.exporter = Exporter(config, self.buffer, self._pause)

    def _pause(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        return self.stop_after is None or len(self.pauses) < self.stop_after

    def record(self, value: float = 1) -> None:
        self.buffer.append(300, RECORDED_SAMPLE, ("m", "gauge", "", (), 1_703_001_234_567, value, "", ""))

    def send(self, *values: float) -> None:
        for value in values or (1,):
            self.record(value)
        self.exporter.send_all()


@pytest.fixture
def delivery(receiver: Receiver) -> Iterator[Delivery]:
    one = Delivery(receiver.url)
    yield one
    one.exporter.close()


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_gets_the_same_batch_again(receiver: Receiver, delivery: Delivery, status: int) -> None:
    receiver.answers = [(status, {"Retry-After": "7"}, b""), (status, {}, b""), ACCEPTED]
    delivery.send()
    bodies = [sent.body for sent in receiver.sent]
    assert len(bodies) == 3
    assert len(set(bodies)) == 1
    assert len(receiver.sent[0].packed["batch"]) == 32
    assert delivery.pauses[0] >= 7
    assert 1 <= delivery.pauses[1] <= 2
    assert delivery.buffer.take_losses() == {}


def test_retry_after_may_be_a_date(receiver: Receiver, delivery: Delivery) -> None:
    receiver.answers = [(503, {"Retry-After": formatdate(time() + 120, usegmt=True)}, b"")]
    delivery.send()
    assert 100 < delivery.pauses[0] <= 120


@pytest.mark.parametrize("text", ["86400", formatdate(time() + 86400, usegmt=True), "1e400"])
def test_a_server_may_not_ask_for_silence_without_end(receiver: Receiver, delivery: Delivery, text: str) -> None:
    receiver.answers = [(503, {"Retry-After": text}, b"")]
    delivery.send()
    assert delivery.pauses == [300]


@pytest.mark.parametrize("text", ["", "soon", "-5", "nan", "Mon, 99 Foo"])
def test_a_retry_after_nobody_understands_is_ignored(receiver: Receiver, delivery: Delivery, text: str) -> None:
    receiver.answers = [(503, {"Retry-After": text}, b"")]
    delivery.send()
    assert 0.5 <= delivery.pauses[0] <= 1


def test_batches_have_ids_of_their_own(receiver: Receiver, delivery: Delivery) -> None:
    delivery.send()
    delivery.send()
    assert len({sent.packed["batch"] for sent in receiver.sent}) == 2


def test_retries_come_ever_more_slowly_and_with_jitter(receiver: Receiver, delivery: Delivery) -> None:
    receiver.answers = [(503, {}, b"")] * 10
    delivery.send()
    for attempt, pause in enumerate(delivery.pauses):
        full = min(60, 2**attempt)
        assert full / 2 <= pause <= full
    assert len(set(delivery.pauses)) == 10


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 301])
def test_a_refusal_is_not_repeated_but_counted_and_reported(
    receiver: Receiver, delivery: Delivery, status: int
) -> None:
    receiver.answers = [(status, {}, b'{"detail":"no"}')]
    delivery.send(1, 2, 3)
    assert len(receiver.sent) == 1
    delivery.send(4)
    assert receiver.sent[1].packed["dropped"] == {f"refused_{status}": 3}
    assert receiver.sent[1].received.dropped == {f"refused_{status}": 3}
    assert delivery.pauses == []
    delivery.send(5)
    assert "dropped" not in receiver.sent[2].packed


def test_losses_whose_report_is_lost_are_reported_again(receiver: Receiver, delivery: Delivery) -> None:
    delivery.send(*range(12))
    assert receiver.sent[0].packed["dropped"] == {"buffer_full": 2}
    receiver.answers = [(400, {}, b"")]
    delivery.buffer.count_loss("invalid", 5)
    delivery.send()
    delivery.send()
    assert receiver.sent[2].packed["dropped"] == {"invalid": 5, "refused_400": 1}


def test_a_server_that_is_away_is_tried_until_it_is_back(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> None:
    delivery = Delivery("http://127.0.0.1:9")  # nothing listens on the discard port
    delivery.stop_after = 3
    delivery.send()
    assert len(delivery.pauses) == 3
    assert delivery.buffer.take_losses() == {"shutdown": 1}


def test_a_batch_is_given_up_after_half_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(_exporter.time, "monotonic", lambda: now_s)
    delivery = Delivery("http://127.0.0.1:9")

    def pause(seconds: float) -> bool:
        nonlocal now_s
        now_s += seconds
        return True

    delivery.exporter = Exporter(delivery.exporter._config, delivery.buffer, pause)
    delivery.send()
    assert 1700 < now_s <= 1800
    assert delivery.buffer.take_losses() == {"retries_exhausted": 1}


def test_rejected_samples_are_told_in_the_log(
    receiver: Receiver, delivery: Delivery, caplog: pytest.LogCaptureFixture
) -> None:
    body = b'{"accepted":0,"rejected":1,"errors":[{"index":0,"field":"tags.instance","reason":"is reserved"}]}'
    receiver.answers = [(202, {}, body)]
    delivery.send()
    assert "1 (tags.instance: is reserved)" in caplog.text


def test_a_long_outage_is_one_warning_a_minute(
    receiver: Receiver, delivery: Delivery, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [(503, {}, b"")] * 20
    delivery.send()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"rejected":"x"}', b"\xff", b'{"errors":[1],"rejected":2}']
)
def test_an_answer_nobody_understands_does_no_harm(receiver: Receiver, delivery: Delivery, body: bytes) -> None:
    receiver.answers = [(202, {}, body), (400, {}, body)]
    delivery.send()
    delivery.send()
    assert len(receiver.sent) == 2
