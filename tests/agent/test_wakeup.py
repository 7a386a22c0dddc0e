"""SIGTERM while the main thread is in C, and what else uses Python's wakeup descriptor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.agent.receiver import Receiver
from tests.agent.test_processes import HOME, python
from tests.support.wait import BUSY_S, wait_until

BUSY = """
import sqlite3, sys
import vantage_agent as v
{before}
v.init_agent("s", runtime_metrics=False, flush_interval_s=600)
v.counter("begun")
{after}
print("ready", flush=True)
sqlite3.connect(":memory:").execute(
    "with recursive n(i) as (select 1 union all select i + 1 from n where i < 900000000) select sum(i) from n")
"""
LOOP = """
import asyncio, signal
async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)
    asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)
asyncio.run(main())
"""
UVLOOP = """
import asyncio, uvloop
uvloop.run(asyncio.sleep(0))
"""
CHILD = """
import os, signal, time
pid = os.fork()
if not pid:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
os.waitpid(pid, 0)
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [("", ""), ("", LOOP), (LOOP, ""), ("", UVLOOP), ("", CHILD)],
    ids=["alone", "after asyncio", "before asyncio", "after uvloop", "after a child's own signal"],
)
def test_a_process_in_a_long_call_of_c_dies_of_sigterm_at_once(receiver: Receiver, before: str, after: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY.format(before=before, after=after)],
        env={**os.environ, "PYTHONPATH": HOME, "VANTAGE_AGENT_COLLECTOR_URL": receiver.url},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        before_s = psutil.Process(process.pid).cpu_times().user
        wait_until(lambda: psutil.Process(process.pid).cpu_times().user > before_s + 0.1)  # in C by now
        began = time.monotonic()
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
        assert time.monotonic() - began < 2 + BUSY_S
        assert receiver.values("begun") == [1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def test_a_child_that_dies_of_sigterm_takes_nobody_with_it(receiver: Receiver) -> None:
    done = python(
        """
        import os, signal, time
        import vantage_agent as v
        v.init_agent("s", runtime_metrics=False, flush_interval_s=600)
        v.counter("parent")
        pids = []
        reader, writer = os.pipe()
        for _ in range(3):
            pid = os.fork()
            if not pid:
                v.counter("child")
                os.write(writer, b"x")
                time.sleep(60)
            os.read(reader, 1)
            pids.append(pid)
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        print("alive")
        """,
        VANTAGE_AGENT_COLLECTOR_URL=receiver.url,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")
    assert (sum(receiver.values("parent")), sum(receiver.values("child"))) == (1, 3)


def test_others_that_use_the_descriptor_do_not_see_the_agents(receiver: Receiver) -> None:
    """Trio warns of another's; warnings are errors here."""
    pytest.importorskip("trio")
    done = python(
        """
        import os, signal
        import vantage_agent as v
        v.init_agent("s", runtime_metrics=False)
        v.counter("a")
        import anyio, trio, asyncio
        async def main():
            with v.span("in trio"):
                await anyio.sleep(0.01)
        anyio.run(main, backend="trio")
        anyio.run(main, backend="asyncio")
        asyncio.run(main())
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        assert signal.set_wakeup_fd(writer) == -1
        assert signal.set_wakeup_fd(-1) == writer
        assert signal.set_wakeup_fd(-1) == -1
        v.shutdown()
        assert signal.set_wakeup_fd(-1) == -1
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert "vantage" not in repr(signal.set_wakeup_fd)
        """,
        VANTAGE_AGENT_COLLECTOR_URL=receiver.url,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(receiver.spans("in trio")) == 3


def test_a_descriptor_of_the_applications_stays(receiver: Receiver) -> None:
    done = python(
        """
        import os, signal
        import vantage_agent as v
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer)
        v.init_agent("s", runtime_metrics=False)
        v.counter("a")
        assert v.flush(10)
        pid = os.fork()
        if not pid:
            os._exit(0 if signal.set_wakeup_fd(-1) == writer else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        v.shutdown()
        assert signal.set_wakeup_fd(-1) == writer
        """,
        VANTAGE_AGENT_COLLECTOR_URL=receiver.url,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_that_closes_its_files_has_no_byte_of_a_signal_in_its_next_ones(
    receiver: Receiver, tmp_path: object
) -> None:
    done = python(
        """
        import os, signal, sys
        import vantage_agent as v
        v.init_agent("s", runtime_metrics=False)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        os.closerange(3, 2048)
        fds = [os.open(f"{sys.argv[1]}/{n}", os.O_WRONLY | os.O_CREAT) for n in range(50)]
        os.kill(os.getpid(), signal.SIGUSR1)
        print(sum(os.fstat(fd).st_size for fd in fds))
        """,
        str(tmp_path),
        VANTAGE_AGENT_COLLECTOR_URL=receiver.url,
    )
    assert (done.returncode, done.stdout) == (0, "0\n")
