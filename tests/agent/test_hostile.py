"""Servers, networks and applications that do what they should not."""

from __future__ import annotations

import dataclasses
import gc
import logging
import math
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import vantage_agent
from tests.agent.receiver import Receiver, answer, misbehaving, read_request
from tests.agent.test_processes import python
from tests.support.wait import BUSY_S
from vantage_agent._batch_maker import RECORDED_SAMPLE
from vantage_agent._buffer import Buffer
from vantage_agent._config import make_config
from vantage_agent._exporter import Exporter
from vantage_agent._worker import WorkerNumber


def deliver(url: str, *, attempts: int = 2) -> tuple[Buffer, list[float]]:
    """Send one sample, and give up after ``attempts``. Return the losses, and the pauses between attempts."""
    config = dataclasses.replace(
        make_config({}, service_name="s", collector_url=url, instance="i"), request_timeout_s=0.3
    )
    buffer = Buffer(items_max=10, nbytes_max=1 << 20)
    pauses: list[float] = []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) < attempts - 1

    buffer.append(300, RECORDED_SAMPLE, ("m", "gauge", "", (), 1_703_001_234_567, 1.0, "", ""))
    exporter = Exporter(config, buffer, WorkerNumber(), pause)
    exporter.send_all()
    exporter.close()
    return buffer, pauses


def never_answer(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def answer_garbage(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"\x00\xffnot http at all\r\n\r\n")


def close_at_once(connection: socket.socket) -> None:
    pass


def close_in_the_request(connection: socket.socket) -> None:
    connection.recv(10)


def close_in_the_first_line(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 20")


def close_in_the_answer(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf")


def headers_without_end(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 202 Accepted\r\n")
    while True:
        connection.sendall(b"X-Header: x\r\n" * 100)


def a_line_without_end(connection: socket.socket) -> None:
    read_request(connection)
    while True:
        connection.sendall(b"x" * 65536)


def wrong_chunks(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")


def stop_in_the_answer(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\n{")
    connection.recv(1)


FAULTS: list[Callable[[socket.socket], None]] = [
    never_answer,
    answer_garbage,
    close_at_once,
    close_in_the_request,
    close_in_the_first_line,
    close_in_the_answer,
    headers_without_end,
    a_line_without_end,
    wrong_chunks,
    stop_in_the_answer,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_counts_as_no_answer_and_the_batch_goes_through_when_it_is_over(
    fault: Callable[[socket.socket], None],
) -> None:
    bodies = []

    def behave(connection: socket.socket, nth: int) -> None:
        if nth == 0:
            fault(connection)
        else:
            bodies.append(read_request(connection))
            answer(connection)

    with misbehaving(behave) as server:
        buffer, pauses = deliver(server.url, attempts=3)
    assert len(bodies) == 1
    assert len(pauses) == 1
    assert buffer.take_losses() == {}


def test_an_answer_without_end_is_read_as_far_as_it_matters() -> None:
    def behave(connection: socket.socket, nth: int) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    with misbehaving(behave) as server:
        buffer, pauses = deliver(server.url)
    assert pauses == []
    assert buffer.take_losses() == {}


def test_a_name_that_does_not_resolve_is_retried() -> None:
    buffer, pauses = deliver("http://no-such-host.invalid")
    assert len(pauses) == 1
    assert buffer.take_losses() == {"shutdown": 1}


HANGING_LOOKUP = """
import _socket, ctypes, sys, time
pause = ctypes.CDLL(None).pause  # blocks as a name server that never answers does: in C, without the interpreter's lock
_socket.getaddrinfo = lambda *_, **__: pause()
import vantage_agent as v
v.init_agent("s", "http://collector.example:8000", flush_interval_s=0.05)
v.gauge("a", 1)
time.sleep(0.3)
started = time.monotonic()
for i in range(1000):
    v.gauge("a", i)
assert v.flush(0.05) is False
assert time.monotonic() - started < 5  # a lookup that hangs never ends
"""


def test_a_hanging_lookup_delays_neither_recording_nor_the_exit() -> None:
    started = time.monotonic()
    done = python(HANGING_LOOKUP)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - started < 2 + BUSY_S  # the interpreter itself starts and ends meanwhile


@pytest.mark.parametrize("fault", FAULTS[:2], ids=lambda fault: fault.__name__)
def test_no_server_delays_the_exit(fault: Callable[[socket.socket], None]) -> None:
    with misbehaving(lambda connection, _: fault(connection)) as server:
        started = time.monotonic()
        code = "import vantage_agent as v; v.init_agent('s'); v.gauge('a', 1); v.flush(0.1)"
        done = python(code, VANTAGE_AGENT_COLLECTOR_URL=server.url)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)
        assert time.monotonic() - started < 2 + BUSY_S


def test_the_thread_ends_at_the_timeout_of_shutdown() -> None:
    def behave(connection: socket.socket, nth: int) -> None:
        read_request(connection)
        answer(connection)
        never_answer(connection)

    with misbehaving(behave) as server:
        vantage_agent.init_agent("s", server.url, flush_interval_s=600)
        vantage_agent.gauge("a", 1)
        assert vantage_agent.flush(5)
        agent = vantage_agent._running
        assert agent is not None
        vantage_agent.gauge("a", 2)
        vantage_agent.shutdown(0.3)
        assert agent._ended is not None
        assert agent._ended.acquire(timeout=3)  # much less than the time of one request
        assert agent._buffer.take_losses() == {"shutdown": 1}


NONSENSE: list[Any] = [5, b"x", object(), [1], {"a": object()}, math.nan, "\x00", "x" * 10_000, float("inf"), (), True]
ARGUMENTS = [
    "service_name",
    "collector_url",
    "api_key",
    "environment",
    "service_version",
    "instance",
    "auto_instrument",
    "trace_sample_rate",
    "tags",
    "allowed_tags",
    "redact",
    "runtime_metrics",
    "flush_interval_s",
]


class Spiteful:
    """Raises whatever is done with it."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __float__ = __iter__ = __bool__ = __len__ = __str__
    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("nonsense", [*NONSENSE, Spiteful], ids=lambda value: f"{value!r:.20}")
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_an_agent_is_never_started_into_an_exception(
    argument: str, nonsense: Any, caplog: pytest.LogCaptureFixture
) -> None:
    callbacks_before = len(gc.callbacks)
    nonsensical: dict[str, Any] = {argument: Spiteful() if nonsense is Spiteful else nonsense}
    vantage_agent.init_agent(**nonsensical)
    is_on = vantage_agent._running is not None
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) <= 1
    assert is_on or warnings
    vantage_agent.shutdown(0)
    assert len(gc.callbacks) == callbacks_before


@pytest.mark.parametrize(
    "nonsense", [None, "soon", math.nan, math.inf, -1, 10**400, object()], ids=lambda value: f"{value!r:.20}"
)
def test_a_wait_of_nonsense_still_sends_and_stops(receiver: Receiver, nonsense: Any) -> None:
    vantage_agent.init_agent("s", receiver.url, flush_interval_s=600)
    vantage_agent.gauge("a", 1)
    agent = vantage_agent._running
    assert agent is not None
    vantage_agent.flush(nonsense)
    vantage_agent.gauge("a", 2)
    vantage_agent.shutdown(nonsense)
    assert agent._stopping
    assert agent._ended is not None
    assert agent._ended.acquire(timeout=5)


@pytest.mark.parametrize(
    "given",
    [
        {"service_name": 5},
        {"trace_sample_rate": 1.5},
        {"trace_sample_rate": True},
        {"tags": ["a"]},
        {"tags": {"instance": "x"}},
        {"allowed_tags": 5},
        {"allowed_tags": {"a": 1}},
        {"auto_instrument": [1]},
        {"redact": "name"},
        {"runtime_metrics": "maybe"},
        {"flush_interval_s": 0},
        {"flush_interval_s": "soon"},
        {"api_key": "ключ"},
        {"environment": "a\nb"},
    ],
    ids=str,
)
def test_a_setting_of_the_wrong_kind_is_one_warning_that_names_it(
    given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    vantage_agent.init_agent(**given)
    assert vantage_agent._running is None
    (record,) = caplog.records
    assert next(iter(given)) in record.getMessage()


def test_a_process_whose_agent_could_not_start_records_without_harm() -> None:
    code = """
        import vantage_agent as v
        v.init_agent("s", "nonsense")
        v.gauge("a", 1)
        with v.span("b"), v.timer("c"):
            v.set_tags({"d": "e"})
        print(v.flush())
        v.shutdown()
    """
    done = python(code)
    assert (done.returncode, done.stdout.strip()) == (0, "True")
    assert len(done.stderr.splitlines()) == 1


class Refusing(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        raise RuntimeError("no")


@pytest.fixture
def log_refuses() -> Iterator[None]:
    log, handler = logging.getLogger("vantage_agent"), Refusing()
    log.addHandler(handler)
    yield
    log.removeHandler(handler)


@pytest.mark.usefixtures("log_refuses")
def test_a_log_handler_that_raises_reaches_neither_the_application_nor_the_delivery(receiver: Receiver) -> None:
    vantage_agent.init_agent(service_name=5)  # type: ignore[arg-type]
    receiver.answers = [(400, {}, b"{}")]
    vantage_agent.init_agent("s", receiver.url)
    vantage_agent.gauge("a", 1)
    assert vantage_agent.flush()
    vantage_agent.gauge("a", 2)
    assert vantage_agent.flush()
    assert receiver.sent[1].packed["dropped"] == {"refused_400": 1}


def test_an_application_without_free_threads_records_without_harm(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    vantage_agent.init_agent("s", receiver.url)
    with monkeypatch.context() as patch:
        patch.setattr("vantage_agent._native._start_new_thread", refuse)
        vantage_agent.gauge("a", 1)
        with vantage_agent.span("b"):
            pass
        assert not vantage_agent.flush(0.01)
    vantage_agent.gauge("a", 2)
    assert vantage_agent.flush()
    assert receiver.values("a") == [1, 2]
    assert "dropped" not in receiver.sent[0].packed


def test_tags_that_change_while_they_are_read_cost_that_sample_alone(receiver: Receiver) -> None:
    class Growing(dict[str, str]):
        def items(self) -> Any:
            for i in range(3):
                self[str(i)] = "x"
                yield from list(super().items())
            raise RuntimeError("dictionary changed size during iteration")

    vantage_agent.init_agent("s", receiver.url)
    vantage_agent.gauge("a", 1, tags=Growing(a="b"))
    vantage_agent.set_tags(Growing(a="b"))
    with vantage_agent.span("s", attributes=Growing(a="b")):
        vantage_agent.set_tags(Growing(a="b"))
    vantage_agent.gauge("b", 1)
    assert vantage_agent.flush()
    assert receiver.values("b") == [1]
    assert receiver.sent[0].packed["dropped"]["invalid"] == 1
