"""Delivery to a server that is busy, unavailable, or refuses."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Iterator
from email.utils import formatdate
from time import time

import pytest

from tests.agent.receiver import ACCEPTED, NOW_MS, Receiver, answer, misbehaving, read_request
from tests.support.ingest import native_format
from tests.support.wait import wait_until
from vantage_agent._batch import Batch
from vantage_agent._batch_maker import BATCH_NBYTES_MAX, BATCH_NBYTES_MIN, RECORDED_SAMPLE, RECORDED_SPAN, BatchMaker
from vantage_agent._buffer import Buffer
from vantage_agent._config import make_config
from vantage_agent._exporter import Exporter
from vantage_agent._pack import MEDIA_TYPE
from vantage_agent._worker import WorkerNumber


class Delivery:
    """An exporter whose pauses are written down instead of waited for."""

    def __init__(self, url: str) -> None:
        self.pauses: list[float] = []
        self.stop_after: int | None = None
        self.buffer = Buffer(items_max=10, nbytes_max=1 << 20)
        config = make_config({}, service_name="s", collector_url=url, instance="i")
        self.exporter = Exporter(config, self.buffer, WorkerNumber(), self._pause)

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
    first = Delivery(receiver.url)
    yield first
    first.exporter.close()


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


@pytest.mark.parametrize(
    "text", ["86400", formatdate(time() + 86400, usegmt=True), "1e400"], ids=["seconds", "date", "beyond floats"]
)
def test_retry_after_is_limited(receiver: Receiver, delivery: Delivery, text: str) -> None:
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
    monkeypatch.setattr("vantage_agent._exporter.time.monotonic", lambda: now_s)
    delivery = Delivery("http://127.0.0.1:9")

    def pause(seconds: float) -> bool:
        nonlocal now_s
        now_s += seconds
        return True

    delivery.exporter = Exporter(delivery.exporter._config, delivery.buffer, WorkerNumber(), pause)
    delivery.send()
    assert 1700 < now_s <= 1800
    assert delivery.buffer.take_losses() == {"retries_exhausted": 1}


def test_rejected_samples_are_logged(receiver: Receiver, delivery: Delivery, caplog: pytest.LogCaptureFixture) -> None:
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


def test_batches_share_a_connection(receiver: Receiver, delivery: Delivery) -> None:
    for status in (202, 503, 400, 202):
        receiver.answers.append((status, {}, b"{}"))
    for _ in range(3):
        delivery.send()
    assert (len(receiver.sent), receiver.connections) == (4, 1)


def test_a_connection_that_was_closed_while_idle_costs_no_pause() -> None:
    bodies = []

    def behave(connection: socket.socket, nth: int) -> None:
        bodies.append(read_request(connection))
        answer(connection)

    with misbehaving(behave) as server:
        delivery = Delivery(server.url)
        for value in range(3):
            delivery.send(value)
            wait_until(lambda value=value: server.closed > value)
        delivery.exporter.close()
    assert delivery.pauses == []
    assert delivery.buffer.take_losses() == {}
    assert len(bodies) == 3
    assert len(set(bodies)) == 3


def test_a_batch_whose_answer_was_cut_off_is_sent_again_at_once_as_it_was() -> None:
    bodies = []

    def behave(connection: socket.socket, nth: int) -> None:
        bodies.append(read_request(connection))
        answer(connection)
        if nth == 0:
            bodies.append(read_request(connection))  # and closes without a word

    with misbehaving(behave) as server:
        delivery = Delivery(server.url)
        delivery.send(1)
        delivery.send(2)
        delivery.exporter.close()
    assert delivery.pauses == []
    assert len(bodies) == 3
    assert bodies[1] == bodies[2] != bodies[0]


def test_a_server_that_accepts_only_json_gets_json_from_then_on(receiver: Receiver, delivery: Delivery) -> None:
    receiver.answers = [(415, {}, b"")]
    delivery.buffer.count_loss("invalid", 3)
    delivery.buffer.append(
        300, RECORDED_SAMPLE, ("n", "counter", "ms", (("k", "é\ud800"),), 1_703_001_234_567, 2.0, "t1", "s1")
    )
    span = {"trace_id": "t", "span_id": "s", "name": "n", "start_ns": 1, "duration_ns": 2, "kind": "server"}
    delivery.buffer.append(300, RECORDED_SPAN, {**span, "status": "unset", "attributes": {"a": "b"}})
    delivery.send(7)
    delivery.send(8)
    first, metrics, spans, later = receiver.sent
    assert [sent.headers["Content-Type"] for sent in receiver.sent] == [MEDIA_TYPE] + ["application/json"] * 3
    assert [sent.path for sent in receiver.sent] == ["/v1/metrics", "/v1/metrics", "/v1/spans", "/v1/metrics"]
    ids = [sent.headers["Idempotency-Key"] for sent in receiver.sent]
    assert len(set(ids)) == 4
    assert first.packed["batch"] == ids[0]
    as_read = native_format().receive(metrics.body, batch_id="", now_ms=NOW_MS, oldest_ms=0)
    assert (as_read.accepted, as_read.errors) == (3, [])
    single, two, lost = metrics.json["metrics"]
    assert single == {
        "metric_name": "n",
        "metric_type": "counter",
        "unit": "ms",
        "tags": {"k": "é?"},
        "timestamp": 1_703_001_234_567,
        "value": 2.0,
        "trace_id": "t1",
        "span_id": "s1",
    }
    assert (two["metric_name"], two["value"]) == ("m", 7)
    assert (lost["metric_name"], lost["value"], lost["tags"]) == ("vantage_agent.dropped", 3, {"reason": "invalid"})
    assert metrics.json["service_name"] == spans.json["service_name"] == "s"
    assert spans.json["spans"] == [{**span, "status": "unset", "attributes": {"a": "b"}}]
    assert later.values == {"m": [8]}


def test_json_with_many_repeated_tags_is_sent_in_parts(receiver: Receiver) -> None:
    delivery = Delivery(receiver.url)
    delivery.buffer = Buffer(items_max=5000, nbytes_max=1 << 30)
    delivery.exporter = Exporter(delivery.exporter._config, delivery.buffer, WorkerNumber(), delivery._pause)
    receiver.answers = [(415, {}, b"")]
    tags = tuple((f"tag{i}", "x" * 500) for i in range(8))
    for i in range(5000):
        delivery.buffer.append(300, RECORDED_SAMPLE, ("m", "gauge", "", tags, 1, float(i), "", ""))
    delivery.exporter.send_all()
    delivery.exporter.close()
    sent = receiver.sent[1:]
    assert max(len(first.body) for first in sent) < 8 << 20
    assert [value for first in sent for value in first.values["m"]] == list(range(5000))
    assert len({first.headers["Idempotency-Key"] for first in sent}) == len(sent) > 1


def test_a_batch_that_is_too_large_is_halved_once_and_the_next_ones_are_smaller(
    receiver: Receiver, delivery: Delivery
) -> None:
    too_large: tuple[int, dict[str, str], bytes] = (413, {}, b"")
    receiver.answers = [too_large, ACCEPTED, too_large]
    delivery.buffer.count_loss("invalid", 2)
    delivery.send(1, 2, 3, 4, 5)
    complete, first, second = receiver.sent
    assert [item.values["m"] for item in (complete, first, second)] == [[1, 2, 3, 4, 5], [1, 2], [3, 4, 5]]
    assert len({item.packed["batch"] for item in receiver.sent}) == 3
    assert [item.packed.get("dropped") for item in receiver.sent] == [{"invalid": 2}, {"invalid": 2}, None]
    assert delivery.buffer.take_losses() == {"refused_413": 3}
    assert delivery.exporter._maker._nbytes_max == BATCH_NBYTES_MAX // 2
    for _ in range(20):
        delivery.exporter._maker.lower_limit()
    assert delivery.exporter._maker._nbytes_max == BATCH_NBYTES_MIN


def test_the_size_of_batches_follows_what_the_maker_may_take() -> None:
    buffer = Buffer(items_max=5000, nbytes_max=1 << 30)
    maker = BatchMaker(make_config({}), buffer, WorkerNumber())

    def sizes() -> list[int]:
        for i in range(3000):
            buffer.append(300, RECORDED_SAMPLE, (f"m{i}", "gauge", "", (("t", "x" * 300),), 1, 1.0, "", ""))
        batches = []
        while (batch := maker.next()) is not None:
            batches.append(batch.size)
        return batches

    before = sizes()
    maker.lower_limit()
    assert len(sizes()) == pytest.approx(2 * len(before), abs=1)


@pytest.mark.parametrize("seed", range(20))
def test_halves_contain_everything_once(seed: int) -> None:
    chance = random.Random(seed)
    buffer = Buffer(items_max=5000, nbytes_max=1 << 30)
    for i in range(chance.randint(2, 60)):
        if chance.random() < 0.3:
            span = {"trace_id": "t", "span_id": f"s{i}", "name": "n", "start_ns": 1, "duration_ns": 2}
            buffer.append(1, RECORDED_SPAN, span)
        else:
            name, link = f"m{chance.randint(0, 3)}", f"t{i}" if chance.random() < 0.5 else ""
            buffer.append(1, RECORDED_SAMPLE, (name, "gauge", "", (), i, float(i), link, ""))
    batch = BatchMaker(make_config({}), buffer, WorkerNumber()).next()
    assert batch is not None
    halves = batch.halves()

    def content(*batches: Batch) -> list[object]:
        result: list[object] = []
        for batch in batches:
            result += [span[1] for span in batch.spans]
            for identity, column in batch.columns.items():
                links = {index: trace for index, trace, _ in column.all_exemplars}
                result += [
                    (identity[0], time_ms, value, links.get(index))
                    for index, (time_ms, value) in enumerate(zip(column.times_ms, column.values, strict=True))
                ]
                assert set(links) <= set(range(len(column.values)))
        return sorted(result, key=repr)

    assert content(*halves) == content(batch)
    assert abs(halves[0].size - halves[1].size) <= 1
    assert halves[0].items + halves[1].items == batch.items
