"""Every command of the README and every example of the API's page, run as a new user would.

``COMMANDS`` says what is expected of each. A command that is added to the README without an entry here is a failure.
Ports are free ones, the checkout is a copy, and the copy borrows this environment's packages: installing them from the
lock files is what ``test_wheel`` does, and ``make test-long`` does everything from nothing.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.clickhouse_server import running_clickhouse
from tests.support.kafka_broker import running_kafka
from tests.support.server import Server, serving
from tests.support.wait import wait_until

ROOT = Path(__file__).resolve().parents[2]
HERE = "http://127.0.0.1:8000"
APPLICATION = """
from flask import Flask

app = Flask("shop")
app.get("/orders/<int:order>")(lambda order: str(order))
with app.test_client() as client, client.get("/orders/7") as answer:
    assert answer.data == b"7"
"""
READY = re.compile(r"is ready: (http://127\.0\.0\.1:\d+)")
pytestmark = pytest.mark.timeout(600)


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)


def environment(**more: str) -> dict[str, str]:
    """This environment without what configures Vantage or leads to another checkout."""
    stored = {k: v for k, v in os.environ.items() if not k.startswith(("VANTAGE_", "MAKE", "MFLAGS", "PYTHON"))}
    return {**stored, "PYTHONUNBUFFERED": "1", **more}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout as it is, with this environment's packages, so that make has nothing to install."""
    folder = tmp_path_factory.mktemp("readme") / "vantage"
    copy_checkout(folder)
    venv = folder / ".venv"
    venv.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (venv / name).symlink_to(Path(sys.prefix) / name)
    shutil.copytree(ROOT / "static" / "vendor", folder / "static" / "vendor")
    stamps = venv / ".stamps"
    stamps.mkdir()
    for name in ("venv", "server", "build", "project", "dev"):  # in this order, each no older than the one before
        (stamps / name).touch()
    return folder


def copy_checkout(folder: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: clone the repository to run this test")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


@contextmanager
def started(command: str, checkout: Path, **environ: str) -> Iterator[Started]:
    """A command of the README that serves; stopped as Ctrl-C would. Then the server ends with status 0, and make, which
    was interrupted too, by the signal."""
    process = Started(command, checkout, environ)
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()
    assert process.process.returncode in ((0, -signal.SIGINT) if command.startswith("make ") else (0,)), process.output


class Started:
    def __init__(self, command: str, checkout: Path, environ: dict[str, str]) -> None:
        self.output = ""
        self.url = ""
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            shlex.split(command), cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment(PYTHONPATH=str(checkout / "src"), **environ), start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                self.output += line
                if match := READY.search(line):
                    self.url = match[1]
                    self._ready.set()
        self._ready.set()

    def wait_ready(self, timeout_s: float = 240.0) -> None:
        assert self._ready.wait(timeout_s), self.output
        assert self.url, self.output

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)  # the group of this process alone: a session of its own
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        self._reader.join(10)
        assert not self._reader.is_alive(), "somebody is left running, holding the output open"
        assert "Traceback" not in self.output, self.output

    def services(self) -> dict[str, Any]:
        return {item["name"]: item for item in httpx.get(f"{self.url}/api/services").json()["services"]}


def on_a_free_port(command: str) -> str:
    """The command with the one thing changed that a test may not have: port 8000."""
    return f'{command} ARGS="--port 0"' if command.startswith("make ") else f"{command} --port 0"


def run(command: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        shlex.split(command), cwd=cwd, env=environment(**environ), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def curl(command: str, url: str) -> tuple[int, Any]:
    """Status and JSON of what a documented curl line asks of the server at ``url``, without needing curl."""
    words = iter(shlex.split(command)[1:])
    method, headers, body, target = "", {}, None, ""
    for word in words:
        if word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(words)
        elif word == "-X":
            method = next(words)
        elif word.startswith("http"):
            target = word
        else:
            assert word == "-sS", f"this test does not know curl {word}"
    assert target.startswith(f"{HERE}/")
    answer = httpx.request(
        method or ("GET" if body is None else "POST"), target.replace(HERE, url, 1), headers=headers, content=body
    )
    return answer.status_code, answer.json()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server") / "data") as process:
        yield process


def make_run(command: str, checkout: Path, server: Server) -> None:
    with started(on_a_free_port(command), checkout) as process:
        assert str(checkout / "data") in process.output or "data in ./data" in process.output
        wait_until(lambda: "vantage" in process.services())
        assert httpx.get(process.url).status_code == 200
    assert (checkout / "data" / "journal.db").is_file()


def make_run_with_options(command: str, checkout: Path, server: Server) -> None:
    assert "--port 9000" in command
    with started(command.replace("--port 9000", "--port 0"), checkout) as process:
        assert process.url


def make_test(command: str, checkout: Path, server: Server) -> None:
    done = run(f'{command} ARGS="-q tests/core/test_number_format.py"', checkout, PYTHONPATH=str(checkout / "src"))
    assert re.search(r"\d+ passed", done.stdout)


def make_demo(command: str, checkout: Path, server: Server) -> None:
    with started(on_a_free_port(command), checkout) as process:
        wait_until(lambda: sum(result["environments"] == ["demo"] for result in process.services().values()) == 5)
        (removal,) = (line for line in blocks("README.md", "sh") if line.endswith("demo --remove"))
        done = run(f"{removal} --url {process.url}", checkout, PYTHONPATH=str(checkout / "src"))
        assert re.search(r"removed [1-9]\d* samples", done.stdout)


def is_run_by_make_demo(command: str, checkout: Path, server: Server) -> None:
    assert command.endswith("demo --remove")


def send_a_sample(command: str, checkout: Path, server: Server) -> None:
    status, answer = curl(command, server.url)
    assert status == 202
    assert json.dumps(answer, separators=(",", ":")) in (ROOT / "README.md").read_text(encoding="utf-8")
    if shutil.which("curl"):
        assert json.loads(run(command.replace(HERE, server.url), checkout).stdout) == answer


def ask_for_the_sample(command: str, checkout: Path, server: Server) -> None:
    _, answer = curl(command, server.url)
    points = [value for _, value in answer["series"][0]["points"]]
    assert points == [123.45, None]


def ask_by_a_query(command: str, checkout: Path, server: Server) -> None:
    _, answer = curl(command, server.url)
    assert answer["rows"][0][1:6] == ["my-api", "production", "http.request.duration", "histogram", 123.45]


def ask_from_the_shell(command: str, checkout: Path, server: Server) -> None:
    ran = subprocess.run(
        [*shlex.split(command), "--url", server.url, "--format", "csv"],
        capture_output=True,
        text=True,
        cwd=checkout,
        env=environment(),
        timeout=60,
    )
    # Others may have sent the README's sample as well.
    assert ran.stdout.splitlines()[:2] == ["timestamp,value,endpoint", "1703001234567,123.45,/api/users"], ran.stderr


def ask_for_the_trace(command: str, checkout: Path, server: Server) -> None:
    _, answer = curl(command, server.url)
    assert (answer[0]["service"], answer[0]["span_id"], answer[0]["duration"]) == ("my-api", "span001", 123.45)


def install_the_agent(command: str, checkout: Path, server: Server) -> None:
    """Into a folder of its own, without an index: then nothing but the server was needed."""
    address = command.removeprefix("pip install ").replace(HERE, server.url)
    into = checkout.parent / "application"
    options = f"--quiet --disable-pip-version-check --no-index --target {into}"
    run(f"{sys.executable} -m pip install {options} {address}", checkout)
    assert (into / "vantage_agent" / "__init__.py").is_file()
    assert not [path for path in into.iterdir() if not re.match(r"vantage|bin$", path.name)]
    record_with_the_agent(into, server)


def record_with_the_agent(installed: Path, server: Server) -> None:
    """The README's two lines, in front of an application that answers one request."""
    (program,) = blocks("README.md", "python")
    assert HERE in program
    program = program.replace(HERE, server.url).replace("my-api", "two-lines") + APPLICATION
    run(f"{sys.executable} -c {shlex.quote(program)}", installed, PYTHONPATH=str(installed))
    assert server.total("two-lines", "http.request.duration")[0] == 1


def make_a_key(command: str, checkout: Path, server: Server) -> None:
    data = checkout.parent / "keys"
    done = run(f"{command} --data {data}", checkout, PYTHONPATH=str(checkout / "src"))
    assert done.stdout.startswith("vtg_")
    with started(f".venv/bin/vantage serve --port 0 --data {data}", checkout) as process:
        assert httpx.get(f"{process.url}/api/services").status_code == 401
        for header in ({"X-API-Key": done.stdout.strip()}, {"Authorization": f"Bearer {done.stdout.strip()}"}):
            assert httpx.get(f"{process.url}/api/services", headers=header).status_code == 200
        page = httpx.get(process.url, headers={"Accept": "text/html"})
        assert page.headers["location"].startswith("/login")


def serve_beyond_loopback(command: str, checkout: Path, server: Server) -> None:
    with started(on_a_free_port(command), checkout) as process:
        assert "ANYONE WHO CAN REACH THIS ADDRESS" in process.output


def install_the_drivers(command: str, checkout: Path, server: Server) -> None:
    """They are installed here: the command is held against the extras that it names."""
    match = re.fullmatch(r"\.venv/bin/pip install -e '\.\[([a-z,]+)\]'", command)
    assert match
    extras = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(match[1].split(",")) <= set(extras)


def serve_in_roles(command: str, checkout: Path, server: Server) -> None:
    """All three, with the settings as they are written, but for where the broker and ClickHouse are."""
    (written,) = blocks("README.md", "ini")
    commands = [line for line in blocks("README.md", "sh") if "--role=" in line]
    assert len(commands) == 3
    with running_kafka() as broker, running_clickhouse() as clickhouse, ExitStack() as stack:
        text = written.replace("kafka://127.0.0.1:9092", broker.url)
        text = text.replace("127.0.0.1:9000", f"127.0.0.1:{clickhouse.port}")
        (checkout / ".env").write_text(text)
        stack.callback((checkout / ".env").unlink)
        ingest, worker, api = (stack.enter_context(started(on_a_free_port(line), checkout)) for line in commands)
        assert [line.rpartition("=")[2] for line in commands] == ["ingest", "worker", "api"]
        sample = {"service_name": "split", "metrics": [{"metric_name": "m", "value": 1}]}
        assert httpx.post(f"{ingest.url}/v1/metrics", json=sample).status_code == 202
        wait_until(lambda: "split" in api.services())
        assert worker.url


def is_run_with_the_other_roles(command: str, checkout: Path, server: Server) -> None:
    assert command.startswith(".venv/bin/vantage serve --role=")


def print_the_settings(command: str, checkout: Path, server: Server) -> None:
    done = run(command, checkout, PYTHONPATH=str(checkout / "src"), VANTAGE_PORT="9000")
    assert re.search(r"^port +9000 +environment \(VANTAGE_PORT\)$", done.stdout, re.MULTILINE)


def back_up_and_restore(command: str, checkout: Path, server: Server) -> None:
    """The copy of a server that runs, served from another folder."""
    (restoration,) = (line for line in blocks("README.md", "sh") if "vantage restore" in line)
    sample = {"service_name": "kept", "metrics": [{"metric_name": "m", "value": 1}]}
    assert server.send(sample).status == 202
    done = run(f"{command} --data {server.data}", checkout, PYTHONPATH=str(checkout / "src"))
    assert re.search(r"^backup: .* files", done.stdout)
    assert (checkout / "backup" / "backup.json").is_file()
    run(restoration, checkout, PYTHONPATH=str(checkout / "src"))
    with started(".venv/bin/vantage serve --port 0 --data ./restored", checkout) as process:
        assert process.services()["kept"]["samples"] == 1


def export_the_rules(command: str, checkout: Path, server: Server) -> None:
    def rules() -> list[dict[str, Any]]:
        done = run(f"{command} --url {server.url}", checkout, PYTHONPATH=str(checkout / "src"))
        exported: list[dict[str, Any]] = yaml.safe_load(done.stdout)["rules"]
        return exported

    listed = wait_until(rules)  # the default rules are there once they are first evaluated
    assert "Most requests fail" in [rule["name"] for rule in listed]


def is_run_by_the_backup(command: str, checkout: Path, server: Server) -> None:
    assert command.endswith("--data ./restored")


def compose_up_lite(command: str, checkout: Path, server: Server) -> None:
    """Containers are not started by tests: ``tests/rules/test_container.py`` holds the files against their schemas, and
    here the command is held against the file it reads."""
    assert command == "docker compose --profile lite up vantage"
    process = compose_services(checkout)["vantage"]
    assert process["profiles"] == ["lite"]
    assert process["ports"] == ["127.0.0.1:8000:8000"]
    assert (checkout / process["build"] / "Dockerfile").is_file()


def compose_up(command: str, checkout: Path, server: Server) -> None:
    assert command == "docker compose up"
    services = compose_services(checkout)
    started = {name: service for name, service in services.items() if not service.get("profiles")}
    rows = re.findall(r"^\| `([\w-]+)` \|([\d, ]*)\|", (checkout / "README.md").read_text(), re.MULTILINE)
    ports = {name: {port.split(":")[1] for port in service.get("ports", [])} for name, service in started.items()}
    assert {name: set(re.findall(r"\d+", text)) for name, text in rows} == ports


def compose_services(checkout: Path) -> dict[str, Any]:
    return yaml.safe_load((checkout / "compose.yaml").read_text())["services"]


COMMANDS: dict[str, Callable[[str, Path, Server], None]] = {
    "make run": make_run,
    "make test": make_test,
    "curl -sS http://127.0.0.1:8000/v1/metrics": send_a_sample,
    "curl -sS 'http://127.0.0.1:8000/api/metrics/timeseries": ask_for_the_sample,
    "curl -sS 'http://127.0.0.1:8000/traces/": ask_for_the_trace,
    "curl -sS http://127.0.0.1:8000/vql/execute": ask_by_a_query,
    ".venv/bin/vantage query": ask_from_the_shell,
    "pip install": install_the_agent,
    "make demo": make_demo,
    ".venv/bin/vantage demo --remove": is_run_by_make_demo,
    ".venv/bin/vantage keys create": make_a_key,
    ".venv/bin/vantage serve --host": serve_beyond_loopback,
    ".venv/bin/pip install -e": install_the_drivers,
    ".venv/bin/vantage serve --role=ingest": serve_in_roles,
    ".venv/bin/vantage serve --role=": is_run_with_the_other_roles,
    ".venv/bin/vantage config": print_the_settings,
    ".venv/bin/vantage alerts rules export": export_the_rules,
    ".venv/bin/vantage backup": back_up_and_restore,
    ".venv/bin/vantage restore": is_run_by_the_backup,
    "make run ARGS=": make_run_with_options,
    "docker compose --profile lite": compose_up_lite,
    "docker compose up": compose_up,
}


def test_of_command(command: str) -> Callable[[str, Path, Server], None]:
    """The longest beginning that fits."""
    fitting = [start for start in COMMANDS if command.startswith(start)]
    assert fitting, f"no test knows the README's command {command!r}: add it to COMMANDS"
    return COMMANDS[max(fitting, key=len)]


test_of_command.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", blocks("README.md", "sh"))
def test_a_command_of_the_readme_does_what_it_says(command: str, checkout: Path, server: Server) -> None:
    assert len(command.splitlines()) == 1, "a command that can be pasted is one line"
    test_of_command(command)(command, checkout, server)


def test_no_command_is_expected_that_the_readme_lacks() -> None:
    used = {test_of_command(command) for command in blocks("README.md", "sh")}
    assert used == set(COMMANDS.values())


def shape(value: Any) -> Any:
    """What of an answer must be the same: names and kinds, not figures. A list is as its first entry."""
    if isinstance(value, dict):
        return {name: shape(below) for name, below in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, bool) or value is None:
        return value
    return "number" if isinstance(value, (int, float)) else "text"


def api_examples() -> list[tuple[str, str]]:
    """Each curl line of the API's page and the answer that stands below it."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(curl .*)\n```\n\n```json\n(.*)\n```$", text, re.MULTILINE)


def test_examples_of_the_api_answer_as_written(tmp_path: Path) -> None:
    examples = api_examples()
    assert len(examples) == len(blocks("docs/api.md", "sh")), "every example is one line, and its answer follows"
    with serving(tmp_path / "data", environ={"VANTAGE_SELF_TELEMETRY": "false"}) as server:
        for command, written in sorted(examples, key=lambda example: "-X DELETE" in example[0]):
            _, answer = curl(command, server.url)
            if "/api/services" in command:
                answer["services"] = [item for item in answer["services"] if item["name"] == "my-api"]
            if "/api/deployments?" in command:
                wait_until(lambda: len(server.get("/api/deployments?start=2023-12-01").json()["deployments"]) == 2)
            if "/api/storage" in command:  # nothing is sealed yet, and nothing of the last day is there
                recorded = json.loads(written)
                answer |= {name: recorded[name] for name in ("usage", "growing", "new_series") if not answer[name]}
            assert shape(answer) == shape(json.loads(written)), f"{command}\nanswered\n{json.dumps(answer)}"


@pytest.mark.long
def test_a_bare_checkout_runs_with_one_command(tmp_path: Path) -> None:
    """Everything from nothing: packages, front-end files, the server, and the second start in under 3 s."""
    copy_checkout(tmp_path / "vantage")
    with started('make run ARGS="--port 0"', tmp_path / "vantage") as process:
        wait_until(lambda: "vantage" in process.services())
    with started('make run ARGS="--port 0"', tmp_path / "vantage") as again:
        assert again.services()
