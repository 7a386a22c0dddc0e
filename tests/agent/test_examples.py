"""Every application of examples/ runs as it stands, and what it records arrives."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vantage_agent
from tests.agent.receiver import Receiver
from tests.support.programs import free_port, listening

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
URL = "http://127.0.0.1:8000"
SERVERS = {
    "flask_app": ["-m", "gunicorn", "-b", "127.0.0.1:{port}", "flask_app:app"],
    "django_app": ["-m", "gunicorn", "-b", "127.0.0.1:{port}", "django_app:app"],
    "fastapi_app": ["-m", "uvicorn", "--port", "{port}", "fastapi_app:app"],
    "starlette_app": ["-m", "uvicorn", "--port", "{port}", "starlette_app:app"],
    "litestar_app": ["-m", "uvicorn", "--port", "{port}", "litestar_app:app"],
    "any_asgi": ["-m", "uvicorn", "--port", "{port}", "any_asgi:app"],
    "any_wsgi": ["-m", "gunicorn", "-b", "127.0.0.1:{port}", "any_wsgi:app"],
}
ROUTES = {
    "flask_app": "/orders/<int:order_id>",
    "django_app": "/orders/<int:order_id>",
    "fastapi_app": "/orders/{order_id}",
    "starlette_app": "/orders/{order_id}",
    "litestar_app": "/orders/{order_id}",
}


def copied(name: str, folder: Path, receiver: Receiver, **replaced: str) -> Path:
    """An example that sends to the receiver: the addresses in it are those of a reader's machine."""
    text = (EXAMPLES / f"{name}.py").read_text()
    assert URL in text
    for old, new in {URL: receiver.url, **replaced}.items():
        text = text.replace(old, new)
    path = folder / f"{name}.py"
    path.write_text(text)
    return path


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, *(argument.format(port=port) for argument in SERVERS[name])]
    path = f"{ROOT / 'src'}{os.pathsep}{folder}"
    with listening(command, port, folder=folder, environ={"PYTHONPATH": path}):
        yield f"http://127.0.0.1:{port}"


def series(receiver: Receiver) -> list[list[Any]]:
    return [item for sent in receiver.sent for item in sent.packed["series"]]


def spans(receiver: Receiver) -> list[dict[str, Any]]:
    return [item for sent in receiver.sent for item in sent.packed.get("spans", [])]


def test_every_example_is_tried() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SERVERS, "script"}


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_the_agent_needs_three_lines_at_most(name: str) -> None:
    lines = re.findall(
        r"^.*(?:vantage_agent|init_agent|instrument_\w+)\b.*$", (EXAMPLES / f"{name}.py").read_text(), re.M
    )
    assert 2 <= len(lines) <= 3


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_an_application_sends_what_it_answered(name: str, receiver: Receiver, tmp_path: Path) -> None:
    copied(name, tmp_path, receiver, **{"http://127.0.0.1:8001": "http://127.0.0.1:9"})
    with running(name, tmp_path) as url, contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(f"{url}/orders/7?token=secret", timeout=10).read()
    result = {item[0]: item[3] for item in series(receiver)}
    assert result["http.request.duration"].get("endpoint") == ROUTES.get(name)
    if name == "fastapi_app":
        assert result["http.request.duration"]["tier"] == "gold"
        assert result["http.client.request.duration"]["peer"] == "127.0.0.1:9"
        inner, outer = spans(receiver)
        assert (inner["kind"], outer["kind"], inner["parent_span_id"]) == ("client", "server", outer["span_id"])
    assert not [sent for sent in receiver.sent if b"secret" in sent.body]


def test_a_script_sends_its_metrics_and_spans(receiver: Receiver, tmp_path: Path) -> None:
    path = copied("script", tmp_path, receiver)
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, path], env=environ, check=True, timeout=30)
    assert {"report.render", "report.rows", "reports.made", "log.records"} <= {item[0] for item in series(receiver)}
    inner, outer = spans(receiver)
    assert (inner["name"], outer["name"], inner["parent_span_id"]) == ("read", "report", outer["span_id"])
    assert outer["attributes"] == {"kind": "sales", "characters": "3889"}


SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "agent.md").read_text(), re.S)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_a_snippet_of_the_reference_runs(
    snippet: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VANTAGE_AGENT_COLLECTOR_URL", receiver.url)
    if "init_agent(" not in snippet:
        vantage_agent.init_agent("snippet")
    result: dict[str, Any] = {"app": lambda environ, start_response: [b""]}
    exec(snippet.replace("http://localhost:8000", receiver.url), result)
    if "report" in result:
        result["report"]()
    vantage_agent.counter("ran")
    assert vantage_agent.flush(10)
    assert receiver.values("ran") == [1]
    assert not [record for record in caplog.records if record.name == "vantage_agent"]


def test_the_lines_on_the_first_page_record_requests(receiver: Receiver, tmp_path: Path) -> None:
    page = (ROOT / "templates" / "parts" / "start.html").read_text()
    lines = page[page.index("from vantage_agent") : page.index("{%- endset")].replace("{{ base_url }}", receiver.url)
    (tmp_path / "app.py").write_text(
        f"{lines}\nimport flask\napp = flask.Flask('app')\n@app.get('/<int:number>')\n"
        "def one(number): return str(number)\napp.test_client().get('/7')\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "app.py"], cwd=tmp_path, env=environ, check=True, timeout=30)
    assert [tags["endpoint"] for tags in receiver.tags("http.request.duration")] == ["/<int:number>"]
