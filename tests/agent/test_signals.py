"""SIGTERM, and the servers that run applications: what was recorded in each process arrives once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import vantage_agent
from tests.agent.receiver import Receiver, answer, misbehaving, read_request
from tests.agent.test_processes import AGENT, HOME, python
from tests.support.wait import BUSY_S
from vantage_agent._sigterm import sigterm_handler

APP = """
import os, sys
import vantage_agent as v
{start}

def record():
    v.counter("handled", tags={{"pid": str(os.getpid())}})

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    record()
    body = str(os.getpid()).encode()
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}})
    await send({{"type": "http.response.body", "body": body}})

asgi = v.instrument_asgi(asgi)

def wsgi(environ, start_response):
    record()
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
STARTED = 'v.init_agent("app", flush_interval_s=600)'


@contextmanager
def running(command: list[str], cwd: Path, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server; yield it and its URL."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": HOME, "PYTHONUNBUFFERED": "1", **environ},
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    output: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line)
            if re.search(r"https?://127\.0\.0\.1:\d+", line):
                ready.set()
        ready.set()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        assert ready.wait(30)
        result = re.search(r"http://127\.0\.0\.1:\d+", "".join(output))
        assert result, "".join(output)
        yield process, result[0]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        thread.join()
        assert process.stdout is not None
        process.stdout.close()
    assert "Traceback" not in "".join(output), "".join(output)


def get(url: str) -> str:
    for _ in range(100):
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return str(response.read().decode())
        except OSError:  # it listens in a moment
            time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")


def stop(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(15)


GUNICORN = ["gunicorn", "app:wsgi", "--bind", "127.0.0.1:0", "--workers", "2"]
SERVERS = {
    "uvicorn": ["uvicorn", "app:asgi", "--port", "0"],
    "uvicorn --workers": ["uvicorn", "app:asgi", "--port", "0", "--workers", "2"],
    "gunicorn sync": GUNICORN,
    "gunicorn gthread": [*GUNICORN, "--worker-class", "gthread", "--threads", "4"],
    "gunicorn --preload": [*GUNICORN, "--preload"],
}


@pytest.mark.parametrize("name", SERVERS)
def test_what_each_process_of_a_server_recorded_arrives_once(receiver: Receiver, tmp_path: Path, name: str) -> None:
    (tmp_path / "app.py").write_text(APP.format(start=STARTED))
    command = [sys.executable, "-m", *SERVERS[name]]
    with running(command, tmp_path, VANTAGE_AGENT_COLLECTOR_URL=receiver.url) as (process, url):
        pids = [get(url) for _ in range(20)]
        status = stop(process)
    assert status == (-signal.SIGTERM if name == "uvicorn" else 0)  # each server's own
    assert sum(receiver.values("handled")) == 20
    assert {tags["pid"] for tags in receiver.tags("handled")} == set(pids)


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_needs_no_change_to_be_seen(receiver: Receiver, tmp_path: Path, name: str) -> None:
    (tmp_path / "app.py").write_text(APP.format(start=""))
    command = [*AGENT, "run", "--", sys.executable, "-m", *SERVERS[name]]
    environ = {"VANTAGE_AGENT_COLLECTOR_URL": receiver.url, "VANTAGE_AGENT_FLUSH_INTERVAL_S": "600"}
    with running(command, tmp_path, **environ) as (process, url):
        for _ in range(20):
            get(url)
        stop(process)
    assert sum(receiver.values("handled")) == 20


FRAMEWORKS = {
    "flask": (
        ["gunicorn", "app:app", *GUNICORN[2:]],
        "import flask\napp = flask.Flask('app')\n@app.get('/<int:number>')\ndef one(number): return str(number)\n",
    ),
    "fastapi": (
        ["uvicorn", "app:app", "--port", "0"],
        "import fastapi\napp = fastapi.FastAPI()\n@app.get('/{number}')\nasync def one(number: int): return number\n",
    ),
}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_requests_of_an_application_without_a_change_are_recorded(
    receiver: Receiver, tmp_path: Path, name: str
) -> None:
    command, code = FRAMEWORKS[name]
    (tmp_path / "app.py").write_text(code)
    program, *arguments = command
    command = [*AGENT, "run", "--", str(Path(sys.executable).with_name(program)), *arguments]
    environ = {"PYTHONPATH": os.pathsep.join((HOME, str(tmp_path)))}  # unlike python -m, the command adds nothing
    with running(command, tmp_path, VANTAGE_AGENT_COLLECTOR_URL=receiver.url, **environ) as (process, url):
        for i in range(5):
            get(f"{url}/{i}")
        stop(process)
    assert len(receiver.values("http.request.duration")) == 5
    assert {sent.packed["resource"]["service_name"] for sent in receiver.sent} == {program}


def terminated(code: str, **environ: str) -> tuple[int, str, float]:
    """Exit status and output of a program that is sent SIGTERM when it has said ``ready``, and how long that took. Its
    input ends once the signal has been sent."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": HOME, **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        process.stdin.close()
        started = time.monotonic()
        status = process.wait(15)
        return status, process.stdout.read(), time.monotonic() - started


WAITING = """
    import signal, time, vantage_agent as v
    {before}
    v.init_agent("s", flush_interval_s=600)
    {after}
    v.gauge("a", 1)
    print("ready", flush=True)
    time.sleep(30)
"""


def test_buffered_items_are_sent_before_sigterm_ends_the_process(receiver: Receiver) -> None:
    code = WAITING.format(before="", after="")
    status, _, _ = terminated(code, VANTAGE_AGENT_COLLECTOR_URL=receiver.url)
    assert status == -signal.SIGTERM
    assert receiver.values("a") == [1]


def test_a_process_dies_of_sigterm_within_two_seconds_of_a_server_that_never_answers() -> None:
    def never_answer(connection: Any, nth: int) -> None:
        while connection.recv(65536):
            pass

    with misbehaving(never_answer) as server:
        code = WAITING.format(before="", after="")
        status, _, took_s = terminated(code, VANTAGE_AGENT_COLLECTOR_URL=server.url)
    assert status == -signal.SIGTERM
    assert took_s < 2 + BUSY_S


OWN = """signal.signal(signal.SIGTERM, lambda *_: (print("own"), exit(3)))"""


@pytest.mark.parametrize("index", ["before", "after"])
def test_a_handler_of_the_applications_own_stays(receiver: Receiver, index: str) -> None:
    code = WAITING.format(**{"before": "", "after": "", index: OWN})
    status, output, _ = terminated(code, VANTAGE_AGENT_COLLECTOR_URL=receiver.url)
    assert (status, output) == (3, "own\n")
    assert receiver.values("a") == [1]  # at its exit


def test_sigterm_is_ignored_where_the_application_ignores_it(receiver: Receiver) -> None:
    code = WAITING.format(before="signal.signal(signal.SIGTERM, signal.SIG_IGN)", after="")
    code = code.replace("time.sleep(30)", "import sys; sys.stdin.read()")
    status, _, _ = terminated(code, VANTAGE_AGENT_COLLECTOR_URL=receiver.url)
    assert status == 0


def test_sigterm_in_the_middle_of_recording_and_of_a_shutdown_is_survived(receiver: Receiver) -> None:
    code = """
        import threading, vantage_agent as v
        v.init_agent("s", flush_interval_s=0.05, trace_sample_rate=0)
        print("ready", flush=True)
        while True:
            with v.span("s"):
                v.counter("a")
            v.flush(0.001)
    """
    for _ in range(5):
        status, _, took_s = terminated(code, VANTAGE_AGENT_COLLECTOR_URL=receiver.url)
        assert status == -signal.SIGTERM
        assert took_s < 2 + BUSY_S


LOCKS = ["v._running._buffer._lock", "tracer._lock", "counters._lock", "loops._lock"]


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("ends", ["a span", "the agent"])
def test_a_signal_handler_may_record_whatever_it_interrupts(receiver: Receiver, lock: str, ends: str) -> None:
    code = f"""
        import asyncio, os, signal, time, vantage_agent as v
        from vantage_agent._counters import counters
        from vantage_agent._runtime import _loops as loops, watch_loop
        from vantage_agent._tracer import tracer

        loop = asyncio.new_event_loop()

        def handle(*_):
            if {ends == "the agent"}:
                started = time.monotonic()
                v.shutdown(5)
                assert time.monotonic() - started < 3
            with v.span("s"):
                v.gauge("a", 1)
            counters.add("c", (), None)
            counters.take()
            loops.watch(loop)

        v.init_agent("s", flush_interval_s=600, trace_sample_rate=0)
        v.gauge("a", 1)
        signal.signal(signal.SIGUSR1, handle)
        with {lock}:
            os.kill(os.getpid(), signal.SIGUSR1)
        print(v.flush(5))
        loop.close()
    """
    done = python(code, VANTAGE_AGENT_COLLECTOR_URL=receiver.url)
    assert (done.returncode, done.stdout) == (0, "True\n")
    assert receiver.values("a") == ([1, 1] if ends == "a span" else [1])


def test_a_signal_during_the_shutdown_waits_for_what_is_being_sent(receiver: Receiver) -> None:
    arrived, released = threading.Event(), threading.Event()

    def answer_when_released(connection: Any, nth: int) -> None:
        read_request(connection)
        arrived.set()
        released.wait(30)
        answer(connection)

    code = """
        import vantage_agent as v
        v.init_agent("s", flush_interval_s=600)
        v.gauge("a", 1)
        v.shutdown(10)
    """
    with misbehaving(answer_when_released) as slow:
        environ = {**os.environ, "PYTHONPATH": HOME, "VANTAGE_AGENT_COLLECTOR_URL": slow.url}
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=environ)
        assert arrived.wait(30)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        released.set()
        assert process.wait(15) == -signal.SIGTERM


@pytest.fixture
def sigterm_as_it_was() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("sigterm_as_it_was")
def test_shutdown_puts_the_default_back_unless_there_is_another_handler(receiver: Receiver) -> None:
    vantage_agent.init_agent("s", receiver.url)
    assert signal.getsignal(signal.SIGTERM) == sigterm_handler._handle
    vantage_agent.shutdown()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    vantage_agent.init_agent("s", receiver.url)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    vantage_agent.shutdown()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


@pytest.mark.usefixtures("sigterm_as_it_was")
def test_an_agent_started_in_another_thread_sets_no_handler(receiver: Receiver) -> None:
    thread = threading.Thread(target=vantage_agent.init_agent, args=("s", receiver.url))
    thread.start()
    thread.join()
    assert vantage_agent._running is not None
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_child_of_multiprocessing_that_is_terminated_sends_what_it_has(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        textwrap.dedent("""
            import multiprocessing, time, vantage_agent as v
            v.init_agent("s", flush_interval_s=600)

            def work(ready):
                v.gauge("child", 1)
                ready.set()
                time.sleep(30)

            if __name__ == "__main__":
                context = multiprocessing.get_context("fork")
                ready = context.Event()
                child = context.Process(target=work, args=(ready,))
                child.start()
                ready.wait()
                child.terminate()
                child.join()
                print(child.exitcode)
        """)
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        env={**os.environ, "PYTHONPATH": HOME, "VANTAGE_AGENT_COLLECTOR_URL": receiver.url},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stdout.strip(), done.stderr) == (str(-signal.SIGTERM), "")
    assert receiver.values("child") == [1]
