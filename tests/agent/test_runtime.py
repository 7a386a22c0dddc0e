"""How the process is: measured by the agent's thread, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

import vantage_agent
from tests.agent.receiver import Receiver
from tests.support.wait import wait_until
from vantage_agent import _agent, _runtime
from vantage_agent._runtime import RuntimeMetrics, watch_loop


class Figures:
    """What is recorded, by name."""

    def __init__(self) -> None:
        self.kinds: dict[str, tuple[str, str]] = {}
        self.values: dict[str, float] = {}
        self.runtime = RuntimeMetrics(self._record)

    def _record(self, name: str, kind: str, unit: str, value: float) -> None:
        self.kinds[name] = (kind, unit)
        self.values[name] = value

    def measure(self) -> dict[str, float]:
        self.values.clear()
        self.runtime.measure()
        return dict(self.values)


@pytest.fixture
def figures() -> Iterator[Figures]:
    gauges = Figures()
    gauges.runtime.start()
    yield gauges
    gauges.runtime.stop()


def test_the_names_and_units_are_those_of_vantage_itself(figures: Figures) -> None:
    figures.measure()
    assert figures.kinds == {
        "process.cpu.percent": ("gauge", "%"),
        "process.memory.rss": ("gauge", "By"),
        "process.threads": ("gauge", ""),
        "process.open_files": ("gauge", ""),
        "process.gc.pause": ("gauge", "ms"),
        "process.gc.collections": ("counter", ""),
    }


def test_cpu_is_that_of_the_interval(figures: Figures) -> None:
    figures.measure()
    started_s, used_s = time.monotonic(), time.process_time()
    while time.process_time() < used_s + 0.2:
        pass
    busy = figures.measure()["process.cpu.percent"]
    own = (time.process_time() - used_s) / (time.monotonic() - started_s) * 100  # less where others are busy too
    time.sleep(0.3)
    idle = figures.measure()["process.cpu.percent"]
    assert busy == pytest.approx(own, rel=0.25)
    assert idle < busy / 2


def test_memory_is_resident_bytes(figures: Figures) -> None:
    before = figures.measure()["process.memory.rss"]
    stored = b"x" * (64 << 20)
    after = figures.measure()["process.memory.rss"]
    assert 10 << 20 < before < 8 << 30
    assert after - before > 48 << 20
    assert stored


def test_threads_and_files_are_counted(figures: Figures) -> None:
    before = figures.measure()
    let_go = threading.Event()
    threads = [threading.Thread(target=let_go.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    ends = os.pipe()
    after = figures.measure()
    let_go.set()
    for thread in threads:
        thread.join()
    for end in ends:
        os.close(end)
    assert after["process.threads"] - before["process.threads"] == 3
    assert after["process.open_files"] - before["process.open_files"] == 2


def test_the_longest_pause_and_the_collections_of_the_interval_are_recorded(figures: Figures) -> None:
    gc.disable()
    try:
        figures.measure()
        garbage = [[i] for i in range(300_000)]
        gc.collect()
        gc.collect(0)
        result = figures.measure()
        assert result["process.gc.collections"] == 2
        assert 0.5 < result["process.gc.pause"] < 5000
        assert figures.measure()["process.gc.pause"] == 0
        assert garbage
    finally:
        gc.enable()


def test_without_proc_the_other_metrics_are_still_recorded(figures: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise FileNotFoundError("/proc/self/stat")

    monkeypatch.setattr(_runtime, "_threads_and_rss", refuse)
    result = figures.measure()
    assert "process.memory.rss" not in result
    assert {"process.cpu.percent", "process.gc.pause"} <= set(result)


def test_no_gc_callback_remains() -> None:
    before = list(gc.callbacks)
    gauges = Figures()
    gauges.runtime.start()
    gauges.runtime.start()  # as in a forked child
    assert len(gc.callbacks) == len(before) + 1
    gauges.runtime.stop()
    gauges.runtime.stop()
    assert gc.callbacks == before


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.AbstractEventLoop]:
    monkeypatch.setattr(_runtime, "PROBE_S", 0.02)
    gauges = LOOPS[request.param]()
    yield gauges
    gauges.close()


def test_the_lag_of_a_blocked_loop_is_measured(figures: Figures, loop: asyncio.AbstractEventLoop) -> None:
    async def work(blocked_s: float) -> None:
        watch_loop()
        await asyncio.sleep(0.1)
        time.sleep(blocked_s)
        await asyncio.sleep(0.1)

    assert "process.event_loop.lag" not in figures.measure()
    loop.run_until_complete(work(0.6))
    held_up = figures.measure()["process.event_loop.lag"]
    loop.run_until_complete(work(0))
    free = figures.measure()["process.event_loop.lag"]
    assert 500 < held_up < 5000
    assert free < held_up / 2
    time.sleep(0.05)
    assert "process.event_loop.lag" not in figures.measure()  # it does not run, so there is no lag


def test_a_loop_that_is_stuck_is_seen_while_it_is(figures: Figures, loop: asyncio.AbstractEventLoop) -> None:
    seen: list[float] = []

    async def work() -> None:
        watch_loop()
        await asyncio.sleep(0.05)
        thread = threading.Timer(0.2, lambda: seen.append(figures.measure()["process.event_loop.lag"]))
        thread.start()
        thread.join()  # blocks the loop

    loop.run_until_complete(work())
    assert seen[0] > 100


def test_one_timer_a_loop_however_many_requests(figures: Figures, loop: asyncio.AbstractEventLoop) -> None:
    calls = []
    call_later = loop.call_later

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(loop, name)

        def call_later(self, *args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            return call_later(*args, **kwargs)

    proxy = Counting()
    for _ in range(1000):
        _runtime._loops.watch(proxy)
    assert len(calls) == 1


def test_the_timer_ends_with_the_agent(figures: Figures, loop: asyncio.AbstractEventLoop) -> None:
    async def work() -> None:
        watch_loop()
        await asyncio.sleep(0.05)
        (probe,) = _runtime._loops._probes.values()
        figures.runtime.stop()
        due_s = probe.due_s
        await asyncio.sleep(0.1)
        assert probe.due_s == due_s
        watch_loop()
        assert not _runtime._loops._probes
        figures.runtime.start()
        watch_loop()
        assert len(_runtime._loops._probes) == 1

    loop.run_until_complete(work())


def test_neither_a_loop_nor_a_request_is_kept_alive(figures: Figures) -> None:
    from contextvars import ContextVar

    class OfTheRequest:
        pass

    variable: ContextVar[OfTheRequest] = ContextVar("variable")
    seen: list[weakref.ref[Any]] = []

    async def request() -> None:
        stored = OfTheRequest()
        variable.set(stored)
        seen.append(weakref.ref(stored))
        watch_loop()

    async def serve() -> None:
        await asyncio.create_task(request())
        await asyncio.sleep(0)
        gc.collect()
        assert seen[0]() is None

    new = asyncio.new_event_loop()
    new.run_until_complete(serve())
    loops = weakref.ref(new)
    new.close()
    del new
    gc.collect()
    assert loops() is None
    figures.measure()


def test_outside_a_loop_there_is_nothing_to_watch(figures: Figures) -> None:
    watch_loop()
    assert not _runtime._loops._probes


def test_a_process_ends_though_its_loop_is_watched() -> None:
    code = (
        "import asyncio, vantage_agent as v; from vantage_agent._runtime import watch_loop\n"
        "async def main():\n    watch_loop(); await asyncio.sleep(0.01)\n"
        "v.init_agent('s', 'http://127.0.0.1:9')\nasyncio.run(main(), debug=True)"
    )
    home = str(vantage_agent.__file__).rpartition("/vantage_agent/")[0]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": home},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_agent_sends_them_every_interval(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_agent, "RUNTIME_INTERVAL_S", 0.1)
    started_s = time.monotonic()
    vantage_agent.init_agent("s", receiver.url, flush_interval_s=0.3)
    vantage_agent.gauge("a", 1)
    wait_until(lambda: len(receiver.values("process.memory.rss")) >= 5)
    vantage_agent.shutdown()
    measured = len(receiver.values("process.memory.rss"))
    assert measured <= (time.monotonic() - started_s) / 0.1 + 2
    assert len(receiver.sent) < measured  # measured more often than sent


def test_they_go_on_while_the_server_is_away(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_agent, "RUNTIME_INTERVAL_S", 0.1)
    receiver.answers = [(503, {"Retry-After": "1"}, b"")]
    vantage_agent.init_agent("s", receiver.url, flush_interval_s=0.05)
    vantage_agent.gauge("a", 1)
    receiver.wait_for(2)
    vantage_agent.shutdown()
    assert len(receiver.values("process.memory.rss")) >= 5


def test_they_can_be_turned_off(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_agent, "RUNTIME_INTERVAL_S", 0.05)
    before = list(gc.callbacks)
    vantage_agent.init_agent("s", receiver.url, flush_interval_s=0.05, runtime_metrics=False)
    assert gc.callbacks == before
    for count in range(1, 5):
        vantage_agent.gauge("a", 1)
        receiver.wait_for(count)
    vantage_agent.shutdown()
    assert {name for sent in receiver.sent for name in sent.values} == {"a"}


async def test_requests_make_the_agent_watch_the_loop(receiver: Receiver) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def nothing(*_: Any) -> Any:
        return None

    vantage_agent.init_agent("s", receiver.url)
    wrapped = vantage_agent.instrument_asgi(app)
    await wrapped({"type": "http", "method": "GET", "headers": [], "path": "/"}, nothing, nothing)
    assert len(_runtime._loops._probes) == 1
    vantage_agent.shutdown()
    assert not _runtime._loops._probes
