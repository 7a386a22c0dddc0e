"""The command line with hostile arguments, files, variables and servers: one line, no traceback, no secret."""

from __future__ import annotations

import argparse
import contextlib
import http.server
import io
import json
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Server, serving
from vantage import cli

LONG = bool(os.environ.get("VANTAGE_TEST_LONG"))
ROUNDS = 40 if LONG else 3
SECRET = "s3cr3t-k3y-\x07-4711"
NOWHERE = "http://127.0.0.1:1"
HOSTILE = [
    "",
    " ",
    "-",
    "--",
    ".",
    "..",
    "/dev/null",
    "/dev/null/x",
    "/dev/full",
    "/dev/zero",
    "/proc/self/mem",
    "\udcff\udc80",
    "é" * 70,
    "a" * 300,
    "a" * 5000,
    "a/" * 3000,
    "\x1b[31mred\x1b[0m",
    "a\r\nX: y",
    "a\nb",
    "\u202eevil",
    "0",
    "-1",
    "1e999",
    "nan",
    "9" * 400,
    str(2**63),
    str(2**70),
    "999999999999",
    "none",
    "http://[::1",
    "http://",
    "https://\udcff",
    "http://127.0.0.1:1",
    "http://" + "a" * 300,
    "http://é" + "é" * 70,
    "ftp://x",
    "http://user:pass@127.0.0.1:1/",
    "sqlite:///",
    "sqlite:////dev/null",
    "chdb:///",
    "[[[[",
    "a=b",
    "=",
    "a=" + "[" * 5000,
    "now-1h",
    "0.0.0.0",
    "::",
    "127.0.0.1",
    "SELECT 1",
    "(" * 3000,
    "%s%n",
    "folder",
    "lines",
    "deep.toml",
    "nul.toml",
    "binary",
    "$(id)",
    "*",
    "€",
]
VARIABLES = [
    "DATA",
    "HOST",
    "PORT",
    "API_KEY",
    "API_KEY_FILE",
    "STORE_URL",
    "METADATA_URL",
    "RETENTION_DAYS",
    "RETENTION_RULES",
    "TRUSTED_PROXIES",
    "ALLOWED_HOSTS",
    "CORS_ORIGINS",
    "TLS_CERTIFICATE",
    "TLS_KEY",
    "LOG_LEVEL",
    "DRAIN_DELAY_S",
    "SHUTDOWN_TIMEOUT_S",
    "QUEUE_BYTES_MAX",
    "SERIES_MAX",
    "CONNECTIONS_MAX",
    "QUERY_TIMEOUT_S",
    "NO_SUCH",
]


def files(folder: Path) -> None:
    (folder / "folder").mkdir()
    (folder / "deep.toml").write_text("a = " + "[" * 5000)
    (folder / "nul.toml").write_text('data = "a\\u0000b"')
    (folder / "binary").write_bytes(bytes(range(256)) * 10)
    (folder / "lines").write_bytes(b'{"type":"sample"' + b"[" * 3000 + b"\n\xff\n")


def parsers() -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    """Yield each command with its parser."""
    waiting: list[tuple[list[str], argparse.ArgumentParser]] = [([], cli._parser())]
    while waiting:
        words, parser = waiting.pop()
        yield words, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += [([*words, name], inner) for name, inner in action.choices.items()]


COMMANDS = {" ".join(words): parser for words, parser in parsers() if words != ["keys"]}


def arguments_at_random(command: str, rng: random.Random) -> list[str]:
    arguments = command.split()
    for action in COMMANDS[command]._actions:
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
            continue
        value = rng.choice(list(action.choices)) if action.choices and rng.random() < 0.7 else rng.choice(HOSTILE)
        if not action.option_strings:
            arguments.append(value)
        elif rng.random() < 0.4:
            takes_value = action.nargs != 0
            arguments.append(f"{action.option_strings[0]}={value}" if takes_value else action.option_strings[0])
    if rng.random() < 0.5:
        names = {option for action in COMMANDS[command]._actions for option in action.option_strings}
        arguments += [f"--url={NOWHERE}"] if "--url" in names else []
        arguments += [f"--api-key={SECRET}"] if "--api-key" in names else []
    return arguments


def run(arguments: list[str]) -> tuple[Any, str, str]:
    """Run a command in this process; return its status and what it printed."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: Any = cli.main(arguments)
        except SystemExit as error:  # how argparse ends
            status = error.code
    texts = []
    for stream in (out, err):
        if not stream.closed:
            stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8", "replace") if not stream.closed else "")
    return status, texts[0], texts[1]


def check(what: object, status: Any, out: str, err: str) -> None:
    assert status in (0, 1, 2, 130), (what, status, err)
    assert "Traceback" not in out + err, (what, err)
    assert SECRET not in out + err, what
    assert repr(SECRET)[1:-1] not in out + err, what
    assert "\x1b" not in out + err, what
    if status:
        assert re.search(r"(?m)^(vantage: |FAIL|nothing was deleted)", err + out) or not err, (what, out, err)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vantage.log.configure", lambda **_: None)
    monkeypatch.setattr("vantage.server.serve", lambda *_: 0)
    monkeypatch.setattr("vantage.commands.client.PATIENCE_S", 0.0)
    monkeypatch.setattr("vantage.commands.delete._confirm", lambda *_: False)
    return tmp_path


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_with_hostile_values_ends_with_a_line(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(os.environ.get("VANTAGE_TEST_SEED") or random.randrange(1 << 32))
    rng = random.Random(seed)
    monkeypatch.setattr("sys.stdin", io.StringIO("x"))
    for number in range(ROUNDS):
        arguments = arguments_at_random(command, rng)
        with monkeypatch.context() as patched:
            if rng.random() < 0.5:
                for name in rng.sample(VARIABLES, 2):
                    patched.setenv(f"VANTAGE_{name}", rng.choice(HOSTILE))
            if rng.random() < 0.3:
                patched.setenv("VANTAGE_API_KEY", SECRET)
            data = [] if "--data" not in COMMANDS[command].format_help() else [f"--data={folder}/data-{number}"]
            check((seed, arguments), *run([*arguments, *(data if rng.random() < 0.5 else [])]))


CASES: list[tuple[list[str], dict[str, str], str]] = [
    (["serve", "--host", "a" * 300], {}, "is not an address"),
    (["serve", "--host", "é" * 70], {}, "is not an address"),
    (["serve", "--config", "deep.toml"], {}, "nested too deeply"),
    (["serve", "--config", "nul.toml"], {}, "cannot be printed"),
    (["serve", "--config", "binary"], {}, "not valid UTF-8"),
    (["serve", "--config", "/dev/zero"], {}, "longer than"),
    (["serve"], {"VANTAGE_API_KEY_FILE": "binary"}, "not valid UTF-8"),
    (["serve"], {"VANTAGE_API_KEY_FILE": "/dev/zero"}, "longer than"),
    (["serve"], {"VANTAGE_STORE_URL": "sqlite:///"}, "names nothing"),
    (["serve"], {"VANTAGE_METADATA_URL": "sqlite:///"}, "names nothing"),
    (["serve"], {"VANTAGE_RETENTION_DAYS": "9" * 20}, "retention_days"),
    (["serve"], {"VANTAGE_RETENTION_DAYS": "36501"}, "retention_days"),
    (["serve"], {"VANTAGE_SERIES_MAX": str(2**70)}, "series_max"),
    (["serve"], {"VANTAGE_DRAIN_DELAY_S": "nan"}, "drain_delay_s"),
    (["keys", "create", "a", "--expires", "999999999999"], {}, "--expires"),
    (["query", "x", "--url", "http://[::1"], {}, "--url"),
    (["query", "x", "--url", NOWHERE, "--api-key", "a\r\nX: y"], {}, "--api-key"),
    (["query", "x", "--url", NOWHERE, "--api-key", "€" * 9], {}, "--api-key"),
    (["query", "x", "--url", NOWHERE], {"VANTAGE_API_KEY": "€" * 9}, "no header can carry"),
    (["query", "x", "--api-kye", SECRET], {}, "did you mean --api-key?"),
    (["query", "x", f"--api-kye={SECRET}"], {}, "did you mean --api-key?"),
    (["backup", "data/inside"], {}, "inside the data folder"),
    (["backup", "data"], {}, "inside the data folder"),
    (["backup", "elsewhere/../data/x"], {}, "inside the data folder"),
]


@pytest.mark.parametrize(("arguments", "environ", "said"), CASES)
def test_what_was_a_traceback_is_a_line(
    arguments: list[str], environ: dict[str, str], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "data").mkdir()
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    status, out, err = run(arguments)
    check(arguments, status, out, err)
    assert status in (1, 2)
    assert err.startswith("vantage: ")
    assert err.count("\n") == 1
    assert said in err
    assert "€" not in err


# ---- servers that answer with something else

ANSWERS: list[tuple[int, Any]] = [
    (200, b"[" * 100_000),
    (200, b"\xff\xfe"),
    (200, b""),
    (
        200,
        {
            "columns": [{"name": "\x1b[31m", "type": "time"}],
            "rows": [[10**400]],
            "truncated": 0,
            "range": {"start": 0, "end": 1},
            "warnings": ["\x1b[31m\n"],
            "elapsed_ms": "x",
            "cached": 1,
        },
    ),
    (
        200,
        {
            "columns": [{"name": "a", "type": "float"}],
            "rows": [["\ud800"]],
            "truncated": [],
            "range": {"start": "x", "end": None},
            "warnings": 5,
            "elapsed_ms": None,
            "cached": None,
        },
    ),
    (200, {"accepted": "x", "rejected": None, "errors": 5}),
    (200, {"samples": [], "spans": {}, "series": "1", "deployments": None, "bytes": "nan"}),
    (400, {"field": "query", "detail": "\x1b[31m\n", "line": -5, "column": 10**9}),
    (400, {"field": "query", "detail": ["\x1b"], "line": True, "column": True}),
    (400, b"[" * 100_000),
    (401, {"detail": SECRET}),
    (302, b""),
    (503, {"detail": {"a": "\x1b"}}),
    (599, b"\x00" * 100),
]


@pytest.fixture
def impostor() -> Iterator[tuple[str, list[tuple[int, Any]]]]:
    """Yield the address of a server and the list whose last entry it answers with."""
    answers: list[tuple[int, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = answers[-1]
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Retry-After", "nan")
            self.send_header("Location", "http://[::1")
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", answers
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize("index", range(len(ANSWERS)))
def test_whatever_a_server_answers_a_command_ends_with_a_line(
    index: int, folder: Path, impostor: tuple[str, list[tuple[int, Any]]]
) -> None:
    url, answers = impostor
    answers.append(ANSWERS[index])
    line = {"type": "sample", "metric_name": "m", "value": 1, "timestamp": 1_700_000_000_000, "service_name": "s"}
    (folder / "one.ndjson").write_text(json.dumps(line) + "\n")
    for arguments in (
        *(["query", "SELECT \x1b[31m 1", f"--format={kind}"] for kind in ("table", "json", "csv", "ndjson")),
        ["export"],
        ["export", "out.ndjson.gz"],
        ["import", "one.ndjson"],
        ["delete", "--service=a", "--yes"],
        ["healthcheck"],
        ["demo", "--remove"],
    ):
        exported = arguments[0] == "export"
        status, out, err = run(
            [*arguments, "--url", url, *([] if arguments[0] == "healthcheck" else ["--api-key", SECRET])]
        )
        check(arguments, status, "" if exported else out, err)


# ---- the process as a whole


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("hostile") / "data") as server:
        yield server


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "2>&-", ">&- 2>&-", "| true"])
@pytest.mark.parametrize("command", ["config", "keys list", "query 'SELECT count() FROM metrics'", "--version"])
def test_output_that_cannot_be_written_is_no_traceback(
    server: Server, tmp_path: Path, command: str, redirection: str
) -> None:
    words = f"{sys.executable} -m vantage {command}"
    options = (
        f" --url {server.url}" if command.startswith("query") else "" if command == "--version" else " --data data"
    )
    done = subprocess.run(
        ["sh", "-c", f"{words}{options} {redirection}"], capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr
    if redirection == ">/dev/full":
        assert done.returncode == 1
        assert "No space left" in done.stderr


def test_an_export_into_a_device_writes_to_it_and_never_replaces_it(
    folder: Path, impostor: tuple[str, list[tuple[int, Any]]]
) -> None:
    url, answers = impostor
    answers.append((200, b'{"type":"sample"}\n'))
    (folder / "device").symlink_to("/dev/null")
    status, _, err = run(["export", "device", "--url", url])
    assert status == 0, err
    assert (folder / "device").is_char_device()
    assert sorted(path.name for path in folder.glob("*.part")) == []


@pytest.mark.parametrize("before", [(), ("promote",), ("keys",), ("dead-letters", "list")])
def test_a_url_in_the_wrong_place_shows_no_password(
    before: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main([*before, "clickhouse://writer:s3cr3t@host:9000/db"])
    assert raised.value.code == 2
    shown = capsys.readouterr().err
    assert "clickhouse://writer:" in shown
    assert "s3cr3t" not in shown
