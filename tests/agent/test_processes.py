"""Exits, forks and the zero-code start, in processes of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from shutil import which

import pytest

import vantage_agent
from tests.agent.receiver import Receiver
from tests.support.wait import BUSY_S
from vantage_agent.run import flag_against, program_name

HOME = str(Path(vantage_agent.__file__).parents[1])
AGENT = [sys.executable, "-m", "vantage_agent"]


def python(code: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments], **environ)


def run(command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": HOME, **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_what_is_recorded_last_is_sent_at_exit(receiver: Receiver) -> None:
    done = python(
        "import vantage_agent as v; v.init_agent('s'); v.gauge('a', 1)", VANTAGE_AGENT_COLLECTOR_URL=receiver.url
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert receiver.values("a") == [1]


def test_a_server_that_never_responds_delays_the_exit_by_two_seconds_at_most() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        code = "import vantage_agent as v; v.init_agent('s'); v.gauge('a', 1); print(v.flush(0.01))"
        empty = python("import vantage_agent as v; v.init_agent('s')")
        assert empty.returncode == 0
        started = time.monotonic()
        done = python(code, VANTAGE_AGENT_COLLECTOR_URL=f"http://127.0.0.1:{silent.getsockname()[1]}")
        took_s = time.monotonic() - started
    assert (done.returncode, done.stdout.strip()) == (0, "False")
    assert took_s < 2 + BUSY_S  # the interpreter itself starts and ends meanwhile


def test_an_exit_during_an_outage_is_no_slower() -> None:
    started = time.monotonic()
    done = python(
        "import time, vantage_agent as v; v.init_agent('s', flush_interval_s=.05); v.gauge('a', 1); time.sleep(.3)",
        VANTAGE_AGENT_COLLECTOR_URL="http://127.0.0.1:9",
    )
    assert done.returncode == 0
    assert time.monotonic() - started < 2 + BUSY_S


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("before", ["", "v.gauge('before', 1)"])
def test_parent_and_child_of_a_fork_both_deliver_and_nothing_arrives_twice(receiver: Receiver, before: str) -> None:
    code = f"""
        import os, sys, warnings, vantage_agent as v
        v.init_agent("s", flush_interval_s=600)
        {before}
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        v.gauge("parent" if child else "child", 1)
        if child:
            os.waitpid(child, 0)
        sys.exit()
    """
    done = python(code, VANTAGE_AGENT_COLLECTOR_URL=receiver.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert receiver.values("parent") == [1]
    assert receiver.values("child") == [1]
    assert receiver.values("before") == ([1] if before else [])


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_of_multiprocessing_deliver_at_their_exit(receiver: Receiver, tmp_path: Path, method: str) -> None:
    (tmp_path / "program.py").write_text(
        textwrap.dedent(f"""
            import multiprocessing, vantage_agent as v

            def work():
                v.init_agent("s", flush_interval_s=600)
                v.gauge("child", 1)

            if __name__ == "__main__":
                context = multiprocessing.get_context("{method}")
                v.init_agent("s", flush_interval_s=600)
                child = context.Process(target=work)
                child.start()
                child.join()
        """)
    )
    done = run([sys.executable, str(tmp_path / "program.py")], VANTAGE_AGENT_COLLECTOR_URL=receiver.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert receiver.values("child") == [1]


def test_no_thread_runs_before_something_is_recorded(receiver: Receiver) -> None:
    code = "import threading, vantage_agent as v; v.init_agent('s'); print(threading.active_count())"
    assert python(code).stdout.strip() == "1"


def test_a_program_is_run_with_the_agent_and_without_a_change(receiver: Receiver) -> None:
    code = "import vantage_agent as v, sys; v.gauge('a', 1); print(sys.argv[1:])"
    options = ["--service-name", "shop", "--collector-url", receiver.url, "--environment", "test"]
    done = run([*AGENT, "run", *options, "--", sys.executable, "-c", code, "--help", "x y"])
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", "['--help', 'x y']")
    assert receiver.values("a") == [1]
    assert receiver.sent[0].packed["resource"]["service_name"] == "shop"
    assert receiver.sent[0].packed["resource"]["environment"] == "test"


def test_the_agent_is_found_by_an_interpreter_that_lacks_it(receiver: Receiver) -> None:
    code = "import sys, vantage_agent as v; v.gauge('a', 1); print([p for p in sys.path if p == sys.argv[1]])"
    done = subprocess.run(
        [sys.executable, str(Path(HOME) / "vantage_agent" / "__main__.py"), "run", "--", sys.executable, "-Sc", "1"],
        env={**os.environ, "PYTHONPATH": HOME, "VANTAGE_AGENT_COLLECTOR_URL": receiver.url},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0  # -S: no site, so no agent, and no harm
    site = str(Path(HOME) / "vantage_agent" / "_site")
    environ = {"PYTHONPATH": site, "VANTAGE_AGENT_COLLECTOR_URL": receiver.url}
    bare = run([getattr(sys, "_base_executable", sys.executable), "-c", code, HOME], **environ)
    assert (bare.returncode, bare.stderr, bare.stdout.strip()) == (0, "", "[]")
    assert receiver.values("a") == [1]


def test_a_sitecustomize_of_the_programs_own_still_runs(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.ours = 'here'\n")
    done = run(
        [*AGENT, "run", "--", sys.executable, "-c", "import sitecustomize; print(ours, sitecustomize.__file__)"],
        PYTHONPATH=os.pathsep.join([HOME, str(tmp_path)]),
        VANTAGE_AGENT_COLLECTOR_URL=receiver.url,
    )
    assert (done.stderr, done.stdout.split()) == ("", ["here", str(tmp_path / "sitecustomize.py")])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run"], 2, "no program given"),
        (["run", "--"], 2, "no program given"),
        (["run", "--", "no-such-program"], 127, "no-such-program: not found"),
        (["run", "--", "/"], 126, "/: Permission denied"),
    ],
)
def test_what_cannot_be_run_is_one_line(arguments: list[str], code: int, said: str) -> None:
    done = run([*AGENT, *arguments])
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_help_is_printed() -> None:
    done = run([*AGENT, "--help"])
    assert done.returncode == 0
    assert "vantage-agent run -- python app.py" in done.stdout


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (["python", "app.py"], "app"),
        (["/usr/bin/python3.11", "-u", "/srv/shop/main.py", "x"], "main"),
        (["python3", "-m", "shop.web", "--port", "1"], "shop"),
        (["python", "-c", "pass"], "python"),
        (["gunicorn", "shop:app"], "gunicorn"),
    ],
)
def test_a_service_without_a_name_is_called_after_its_program(program: list[str], name: str) -> None:
    assert program_name(program) == name


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are read from /proc")
def test_a_forked_child_has_no_part_in_its_parents_connection(receiver: Receiver) -> None:
    code = """
        import os, stat, warnings, vantage_agent as v
        warnings.simplefilter("ignore", DeprecationWarning)
        FILES = "/proc/self/fd/"

        def sockets():
            files = [FILES + fd for fd in os.listdir(FILES)]
            return sum(stat.S_ISSOCK(os.stat(file).st_mode) for file in files if os.path.exists(file))

        v.init_agent("s", flush_interval_s=600)
        v.gauge("a", 1)
        before = sockets()
        assert v.flush()
        assert sockets() == before + 1
        child = os.fork()
        if child == 0:
            assert sockets() == before
        v.gauge("a", 2)
        assert v.flush()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            v.gauge("a", 3)
    """
    done = python(code, VANTAGE_AGENT_COLLECTOR_URL=receiver.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(receiver.values("a")) == [1, 2, 2, 3]
    assert receiver.connections == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_generates_its_own_ids(receiver: Receiver) -> None:
    code = """
        import os, warnings, vantage_agent as v
        warnings.simplefilter("ignore", DeprecationWarning)
        v.init_agent("s", flush_interval_s=600)
        child = os.fork()
        with v.span("parent" if child else "child"):
            pass
        if child:
            os.waitpid(child, 0)
    """
    assert python(code, VANTAGE_AGENT_COLLECTOR_URL=receiver.url).returncode == 0
    (parent,), (child,) = receiver.spans("parent"), receiver.spans("child")
    assert parent["trace_id"] != child["trace_id"]
    assert parent["span_id"] != child["span_id"]
    assert len({sent.packed["batch"] for sent in receiver.sent}) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_forks_while_threads_record_and_the_agent_sends_lose_and_double_nothing(receiver: Receiver) -> None:
    code = """
        import os, threading, time, warnings, vantage_agent as v
        warnings.simplefilter("ignore", DeprecationWarning)
        v.init_agent("s", flush_interval_s=0.05, trace_sample_rate=0.5)
        done = threading.Event()

        def work():
            while not done.is_set():
                with v.span("s"):
                    v.counter("noise")
                time.sleep(0.0005)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for i in range(25):
            child = os.fork()
            if child == 0:
                for _ in range(20):
                    v.counter("child")
                raise SystemExit
            v.counter("parent")
            assert os.waitpid(child, 0)[1] == 0, i
        done.set()
        for thread in threads:
            thread.join()
    """
    done = python(code, VANTAGE_AGENT_COLLECTOR_URL=receiver.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert sum(receiver.values("child")) == 25 * 20
    assert sum(receiver.values("parent")) == 25


def test_importing_the_agent_imports_next_to_nothing() -> None:
    code = """
        import sys, vantage_agent
        heavy = {"asyncio", "email", "http", "inspect", "json", "logging", "socket", "ssl", "urllib", "uuid"}
        print(*sorted(heavy & set(sys.modules)))
    """
    done = run([sys.executable, "-IS", "-c", f"import sys; sys.path.insert(0, {HOME!r})\n" + textwrap.dedent(code)])
    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nothing_is_imported_for_the_first_time_at_the_exit_or_by_a_signal(receiver: Receiver, scheme: str) -> None:
    url = receiver.url if scheme == "http" else "https://localhost:9"
    code = """
        import sys, vantage_agent as v
        v.init_agent("s", flush_interval_s=600)
        before = set(sys.modules)
        v.gauge("a", 1)
        with v.span("b"):
            v.set_tags({"c": "d"})
        v.shutdown(1)
        print(*sorted(set(sys.modules) - before))
    """
    done = python(code, VANTAGE_AGENT_COLLECTOR_URL=url)
    assert (done.returncode, done.stdout.strip()) == (0, "")


WORKERS = """
import os, sys, time
import vantage_agent as v
v.init_agent("s", flush_interval_s=600, tags={"pid": str(os.getpid())} if "tag" in sys.argv else None)
def work(number):
    v.record_metric("total", 1, metric_type="cumulative")
    v.counter("counted")
    assert v.flush(10)
    print(number, flush=True)
    sys.stdin.readline()
children = []
for number in range(3):
    pid = os.fork()
    if not pid:
        work(number)
        v.shutdown()
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux' abstract namespace")
def test_processes_of_one_host_have_series_of_their_own_by_numbers_that_are_reused(receiver: Receiver) -> None:
    for _ in range(2):
        receiver.sent.clear()
        process = subprocess.Popen(
            [sys.executable, "-c", WORKERS],
            env={**os.environ, "PYTHONPATH": HOME, "VANTAGE_AGENT_COLLECTOR_URL": receiver.url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for _ in range(3):  # all of them live
            process.stdout.readline()
        process.communicate("\n\n\n", timeout=30)
        assert process.returncode == 0
        assert sorted(tags.get("worker", "") for tags in receiver.tags("total")) == ["0", "1", "2"]
        assert all("worker" not in tags for tags in receiver.tags("counted"))


def test_the_levels_of_a_process_have_its_number_and_a_tag_of_the_applications_wins(receiver: Receiver) -> None:
    vantage_agent.init_agent("s", receiver.url, flush_interval_s=600)
    agent = vantage_agent._running
    assert agent is not None
    assert agent._runtime is not None
    agent._runtime.measure()
    vantage_agent.record_metric("total", 1, metric_type="cumulative", tags={"worker": "mine"})
    assert vantage_agent.flush(5)
    number = "0" if sys.platform == "linux" else None
    assert [tags.get("worker") for tags in receiver.tags("process.cpu.percent")] == [number]
    assert ["worker" in tags for tags in receiver.tags("process.gc.collections")] == [False]
    assert [tags["worker"] for tags in receiver.tags("total")] == ["mine"]


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (["python3", "-I", "app.py"], "I"),
        (["python3.12", "-bE", "app.py"], "E"),
        (["/usr/bin/python", "-W", "error", "-S", "-c", "pass"], "S"),
        (["python", "-X", "dev", "-Es", "-m", "app"], "E"),
        (["python", "app.py", "-I"], ""),
        (["python", "-m", "app", "-S"], ""),
        (["python", "-cE"], ""),
        (["python", "-WE", "app.py"], ""),
        (["python", "-sP", "app.py"], ""),
        (["gunicorn", "-E"], ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_options_of_python_that_leave_the_agent_out(command: list[str], flag: str) -> None:
    assert flag_against(command) == flag


@pytest.mark.parametrize("flag", ["-E", "-I", "-S"])
def test_run_says_in_a_line_why_a_program_begins_without_the_agent(flag: str, tmp_path: Path) -> None:
    program = [sys.executable, flag, "-c", "import sys; print('vantage_agent' in sys.modules)"]
    done = run([*AGENT, "run", "--", *program])
    assert (done.returncode, done.stdout) == (0, "False\n")
    assert done.stderr.count("\n") == 1
    assert f"option {flag} " in done.stderr
    script = tmp_path / "tool"
    script.write_text(f"#!{sys.executable} {flag}\nprint('ran')\n")
    script.chmod(0o755)
    done = run([*AGENT, "run", "--", str(script)])
    assert (done.returncode, done.stdout, f"option {flag} " in done.stderr) == (0, "ran\n", True)


@pytest.mark.parametrize("last", ["v.flush(5)", "v.shutdown()", "pass"])
@pytest.mark.parametrize("version", ["", "3.12", "3.13"])
def test_what_was_recorded_before_the_exit_is_sent_in_any_order_of_hooks(
    receiver: Receiver, version: str, last: str
) -> None:
    """The slowest trace that was not sampled is recorded at the exit, when the agent has no thread."""
    interpreter = sys.executable if not version else str(interpreter_of(version))
    code = f"""
import atexit
import vantage_agent as v
def hook(): {last}
atexit.register(hook)
v.init_agent("s", {receiver.url!r}, runtime_metrics=False, trace_sample_rate=0.0)
atexit.register(hook)
with v.span("slowest"):
    pass
"""
    done = run([interpreter, "-c", code])
    assert (done.returncode, done.stderr) == (0, "")
    assert len(receiver.spans("slowest")) == 1


def interpreter_of(version: str) -> Path:
    """Return an installed Python; skip the test without one."""
    places = [*Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    if command := which(f"python{version}"):
        places.append(Path(command))
    for interpreter in places:
        if subprocess.run([interpreter, "-c", ""], check=False, capture_output=True).returncode == 0:
            return interpreter
    pytest.skip(f"needs Python {version}: pyenv install {version}, or apt-get install python{version}")
