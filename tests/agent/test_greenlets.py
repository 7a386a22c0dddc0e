"""gevent and eventlet: the agent never waits in C in the thread that runs the application's greenlets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.agent.receiver import Receiver, misbehaving
from tests.agent.test_processes import AGENT, HOME, python
from tests.support.wait import BUSY_S, wait_until

GEVENT = "from gevent import monkey, sleep, spawn; monkey.patch_all()"
EVENTLET = """
import warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
from eventlet import sleep, spawn
"""
LIBRARIES = {"gevent": GEVENT, "eventlet": EVENTLET}
INIT = """
import vantage_agent as v
v.init_agent("s", runtime_metrics=False, flush_interval_s=3, auto_instrument="all")
"""
# A greenlet that should run every 5 ms; its longest pause is that of all greenlets.
WATCH = """
import time
longest = 0.0
def tick():
    global longest
    while True:
        before = time.monotonic()
        sleep(0.005)
        longest = max(longest, time.monotonic() - before)
spawn(tick)
sleep(0)
"""
IMPORTED = """
import vantage_agent as v
import queue, threading, socket, ssl, http.client, logging
"""
ORDERS = {
    "patched before": "{patch}{init}",
    "patched after": "{init}{patch}",
    "patched after the first record": "{init}v.counter('early')\n{patch}",
    "imported before, begun after": "{imported}{patch}{init}",
}


def hanging(connection: socket.socket, _nth: int) -> None:
    while connection.recv(65536):
        pass


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_greenlets_go_on_while_the_agent_waits(library: str, order: str) -> None:
    pytest.importorskip(library)
    program = ORDERS[order].format(patch=f"{LIBRARIES[library]}\n", init=INIT, imported=IMPORTED) + textwrap.dedent(
        """
        {}
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            with v.span("work"):
                sleep(0.01)
        print("flushed", v.flush(2))
        print("longest", longest)
        v.shutdown(0.3)
        """
    ).format(WATCH)
    with misbehaving(hanging) as server:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": HOME, "VANTAGE_AGENT_COLLECTOR_URL": server.url},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "flushed False" in done.stdout
    # The agent waits for 3 s between two rounds, 2 s in the flush and 10 s for the server.
    assert float(done.stdout.split("longest ")[1]) < 1.9, done.stdout


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_greenlets_record_is_sent_at_the_exit_and_on_sigterm(library: str, receiver: Receiver) -> None:
    pytest.importorskip(library)
    begin = f"{LIBRARIES[library]}{INIT.replace('=3', '=600')}"
    done = python(f"{begin}\nv.counter('exit')", VANTAGE_AGENT_COLLECTOR_URL=receiver.url)
    assert done.returncode == 0, done.stderr
    assert receiver.values("exit") == [1]
    program = f"{begin}\nv.counter('term')\nprint('ready', flush=True)\nwhile True: sleep(0.05)"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": HOME, "VANTAGE_AGENT_COLLECTOR_URL": receiver.url},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    process.terminate()
    assert process.wait(30) == -signal.SIGTERM
    process.stdout.close()
    assert time.monotonic() - began < 2 + BUSY_S
    assert receiver.values("term") == [1]


def test_a_worker_of_gunicorn_that_patches_itself_serves_and_sends(receiver: Receiver, tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    (tmp_path / "application.py").write_text(
        "import time\n"
        "from flask import Flask\n"
        "app = Flask(__name__)\n"
        "@app.get('/')\n"
        "def page():\n    time.sleep(0.005)\n    return 'x'\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*AGENT, "run", "--service-name", "app", "--collector-url", receiver.url, "--", sys.executable, "-m"]
    command += ["gunicorn", "-k", "gevent", "-w", "1", "-b", f"127.0.0.1:{port}", "application:app"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": HOME}, stderr=subprocess.DEVNULL)
    slowest_s = 0.0
    try:
        wait_until(lambda: _answers(port))
        for _ in range(100):
            began = time.monotonic()
            assert _answers(port)
            slowest_s = max(slowest_s, time.monotonic() - began)
    finally:
        process.terminate()
        process.wait(30)
    assert slowest_s < 4  # the agent waits for 5 s between two batches
    answered = len([value for sent in receiver.sent for value in sent.values.get("http.request.duration", [])])
    assert answered >= 101


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = b""
            while more := connection.recv(65536):
                answer += more
    except OSError:
        return False
    return answer.endswith(b"x")
