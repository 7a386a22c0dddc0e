"""Where the agent's settings come from: arguments, its own variables, OpenTelemetry's, git, and defaults."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import vantage_agent
from tests.agent.receiver import Receiver
from vantage_agent._config import Config, make_config
from vantage_agent._git import commit_of


def test_arguments_win_over_own_variables_and_those_over_opentelemetrys() -> None:
    otel = {"OTEL_SERVICE_NAME": "otel", "OTEL_RESOURCE_ATTRIBUTES": "service.name=attribute,service.version=1"}
    own = {"VANTAGE_AGENT_SERVICE_NAME": "own", "VANTAGE_AGENT_SERVICE_VERSION": "2"}
    assert make_config({**otel, **own}, service_name="given", service_version="3").resource["service_name"] == "given"
    assert make_config({**otel, **own}).service_name == "own"
    assert make_config(otel).service_name == "otel"
    del otel["OTEL_SERVICE_NAME"]
    assert make_config(otel).service_name == "attribute"
    assert make_config({**otel, **own}).service_version == "2"
    assert make_config(otel).service_version == "1"


def test_opentelemetrys_resource_identifies_the_process() -> None:
    attributes = (
        "service.name=caf%C3%A9%2C1, service.version = 2.0 ,service.instance.id=pod-7,"
        "deployment.environment=old,deployment.environment.name=prod,host.name=x,empty="
    )
    config = make_config({"OTEL_RESOURCE_ATTRIBUTES": attributes})
    assert config.resource == {
        "service_name": "café,1",
        "service_version": "2.0",
        "instance": "pod-7",
        "environment": "prod",
    }
    assert make_config({"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=old"}).environment == "old"


@pytest.mark.parametrize("text", ["service.name", "service.name=a,nonsense", "service.name=%FF", "=a"])
def test_an_invalid_resource_is_ignored_completely_with_a_warning(text: str, caplog: pytest.LogCaptureFixture) -> None:
    config = make_config({"OTEL_RESOURCE_ATTRIBUTES": f"service.version=1,{text}", "OTEL_SERVICE_NAME": "s"})
    assert (config.service_name, config.service_version == "1") == ("s", False)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_every_setting_that_can_be_text_has_a_variable() -> None:
    texts = {
        "SERVICE_NAME": "a",
        "COLLECTOR_URL": "https://host/base/",
        "API_KEY": "k",
        "ENVIRONMENT": "e",
        "SERVICE_VERSION": "v",
        "INSTANCE": "i",
        "AUTO_INSTRUMENT": "flask, requests,flask,",
        "TRACE_SAMPLE_RATE": "0.25",
        "TAGS": "team=shop,zone=eu%2D1",
        "ALLOWED_TAGS": "team, zone",
        "RUNTIME_METRICS": "off",
        "FLUSH_INTERVAL_S": "2.5",
    }
    config = make_config({f"VANTAGE_AGENT_{name}": text for name, text in texts.items()})
    assert config == Config(
        service_name="a",
        scheme="https",
        host="host",
        port=443,
        path="/base/v1/metrics",
        api_key="k",
        environment="e",
        service_version="v",
        instance="i",
        auto_instrument=("flask", "requests"),
        trace_sample_rate=0.25,
        tags={"team": "shop", "zone": "eu-1"},
        allowed_tags=frozenset(("team", "zone")),
        runtime_metrics=False,
        flush_interval_s=2.5,
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("TRACE_SAMPLE_RATE", "often"),
        ("TRACE_SAMPLE_RATE", "-0.1"),
        ("TAGS", "team"),
        ("FLUSH_INTERVAL_S", "0"),
        ("FLUSH_INTERVAL_S", "nan"),
        ("RUNTIME_METRICS", "perhaps"),
        ("COLLECTOR_URL", "localhost"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=name.lower() if name != "TAGS" else "VANTAGE_AGENT_TAGS"):
        make_config({f"VANTAGE_AGENT_{name}": text})


@pytest.mark.parametrize("text", ["", "1", "true", "YES", "on"])
def test_runtime_metrics_are_on_unless_they_are_turned_off(text: str) -> None:
    assert make_config({"VANTAGE_AGENT_RUNTIME_METRICS": text}).runtime_metrics is True
    assert make_config({"VANTAGE_AGENT_RUNTIME_METRICS": text}, runtime_metrics=False).runtime_metrics is False


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://x",
        "http://",
        "http://:80",
        "http://x:port",
        "http://x:0",
        "http://x:99999",
        "http://[::1",
        "http://a b",
        f"http://{'x' * 64}.example",
        "http://a..b",
        "nonsense",
        "//x",
    ],
)
def test_a_nonsense_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="collector_url must look like"):
        make_config({}, collector_url=url)


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path"),
    [
        ("http://x", "http", "x", 80, "/v1/metrics"),
        ("https://X/", "https", "x", 443, "/v1/metrics"),
        ("http://[::1]:8000/a/b/", "http", "::1", 8000, "/a/b/v1/metrics"),
        ("http://x/a b/ü%20", "http", "x", 80, "/a%20b/%C3%BC%20/v1/metrics"),
        ("http://bücher.example?q=1#f", "http", "bücher.example", 80, "/v1/metrics"),
    ],
)
def test_a_url_is_parsed(url: str, scheme: str, host: str, port: int, path: str) -> None:
    config = make_config({}, collector_url=url)
    assert (config.scheme, config.host, config.port, config.path) == (scheme, host, port, path)


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "one")
    return folder


def head_of(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD")[:12]


def test_the_version_defaults_to_the_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = repository / "src" / "app"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert make_config({}).service_version == head_of(repository)
    assert make_config({}, service_version="1").service_version == "1"


def test_a_commit_is_found_on_a_branch_packed_detached_and_in_a_worktree(repository: Path, tmp_path: Path) -> None:
    first = head_of(repository)
    git(repository, "pack-refs", "--all")
    assert not (repository / ".git" / "refs" / "heads" / "main").exists()
    assert commit_of(str(repository)) == first
    git(repository, "worktree", "add", "--quiet", "-b", "other/branch", str(tmp_path / "tree"))
    git(tmp_path / "tree", "commit", "--quiet", "--allow-empty", "--message", "two")
    second = head_of(tmp_path / "tree")
    assert first != second
    assert commit_of(str(tmp_path / "tree")) == second
    git(repository, "pack-refs", "--all")
    assert commit_of(str(tmp_path / "tree")) == second
    git(repository, "checkout", "--quiet", "--detach")
    assert commit_of(str(repository)) == first


def test_without_a_commit_there_is_no_version(tmp_path: Path) -> None:
    assert commit_of(str(tmp_path)) == ""
    assert commit_of(str(tmp_path / "gone")) == ""
    assert commit_of("") == commit_of(str(Path.cwd()))
    git(tmp_path, "init", "--quiet")
    assert commit_of(str(tmp_path)) == ""


@pytest.mark.parametrize("head", ["", "x" * 40, "ref: ../secret", "ref: refs/../../secret", "ref:", "\x00\xff"])
def test_a_head_that_is_none_is_no_version(tmp_path: Path, head: str) -> None:
    (tmp_path / ".git" / "refs").mkdir(parents=True)
    (tmp_path / ".git" / "HEAD").write_text(head, encoding="latin-1")
    (tmp_path / "secret").write_text("a" * 40)
    assert commit_of(str(tmp_path)) == ""


def test_a_deleted_working_directory_does_not_stop_the_agent(tmp_path: Path) -> None:
    code = (
        "import os, vantage_agent as v\nos.mkdir('d'); os.chdir('d'); os.rmdir('../d')\n"
        "v.init_agent('s'); print(v._running is not None)"
    )
    home = str(vantage_agent.__file__).rpartition("/vantage_agent/")[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": home}, capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.stderr) == ("True", "")


def test_one_agent_is_started_however_many_threads_start_it(receiver: Receiver) -> None:
    barrier = threading.Barrier(8)

    def start(name: str) -> None:
        barrier.wait()
        vantage_agent.init_agent(name, receiver.url)

    threads = [threading.Thread(target=start, args=(f"s{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    vantage_agent.gauge("a", 1)
    assert vantage_agent.flush()
    assert receiver.values("a") == [1]


PRIVATE = {"customer": "ann@example.org", "shop": "berlin"}


def record_everything() -> None:
    vantage_agent.gauge("own.sample", 1, tags=PRIVATE)
    with vantage_agent.timer("own.timer", tags=PRIVATE):
        pass
    with vantage_agent.span("own.span", attributes=PRIVATE) as span:
        vantage_agent.set_tags({"by": "set_tags", "customer": "bob"})
        span.set_attribute("customer", "eve")
    vantage_agent.record_span(
        "own.finished", trace_id="t", span_id="s", start_ns=1, duration_ns=1, attributes=dict(PRIVATE)
    )

    def app(environ: Any, start_response: Any) -> Any:
        vantage_agent.set_tags(PRIVATE)
        start_response("200 OK", [])
        return []

    vantage_agent.instrument_wsgi(app)({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)
    assert vantage_agent.flush()


def pairs_that_left(receiver: Receiver) -> set[tuple[str, str]]:
    (sent,) = receiver.sent
    series = [tags for _, _, _, tags in sent.packed["series"]]
    spans = [span.get("attributes", {}) for span in sent.packed["spans"]]
    assert len(series) == 3
    assert len(spans) == 3
    return {pair for pairs in (*series, *spans) for pair in pairs.items()}


def test_all_tags_are_sent_by_default(receiver: Receiver) -> None:
    vantage_agent.init_agent("s", receiver.url, tags={"team": "shop"})
    record_everything()
    assert {*PRIVATE.items(), ("customer", "bob"), ("by", "set_tags"), ("team", "shop")} <= pairs_that_left(receiver)


def test_only_allowed_tags_are_sent(receiver: Receiver) -> None:
    vantage_agent.init_agent("s", receiver.url, allowed_tags=["shop", "method"], tags={"team": "shop"})
    record_everything()
    assert pairs_that_left(receiver) == {("shop", "berlin"), ("method", "GET")}
    assert b"@example.org" not in receiver.sent[0].body


def test_a_hook_decides_what_is_sent(receiver: Receiver) -> None:
    def redact(pairs: dict[str, str]) -> dict[str, Any] | None:
        if "customer" in pairs:
            pairs["customer"] = "somebody"
        pairs.pop("team", None)
        return {**pairs, "absent": None, "number": 1}

    vantage_agent.init_agent("s", receiver.url, redact=redact, tags={"team": "shop"})
    record_everything()
    left = pairs_that_left(receiver)
    assert {value for key, value in left if key == "customer"} == {"somebody"}
    assert {"team", "absent"}.isdisjoint(key for key, _ in left)
    assert ("number", "1") in left


@pytest.mark.parametrize("answer", [None, {}])
def test_a_hook_that_returns_none_sends_nothing(receiver: Receiver, answer: Any) -> None:
    vantage_agent.init_agent("s", receiver.url, redact=lambda pairs: answer)
    record_everything()
    assert pairs_that_left(receiver) == set()


@pytest.mark.parametrize("wrong", [1, "text", [("a",)]])
def test_a_hook_that_fails_lets_nothing_out_and_is_counted(receiver: Receiver, wrong: Any) -> None:
    def redact(pairs: dict[str, str]) -> Any:
        if "customer" in pairs:
            raise KeyError("customer")
        return wrong

    vantage_agent.init_agent("s", receiver.url, redact=redact)
    record_everything()
    assert pairs_that_left(receiver) == set()
    assert receiver.sent[0].packed["dropped"]["redaction_failed"] >= 6


def test_a_hook_cannot_make_a_batch_unreadable(receiver: Receiver) -> None:
    vantage_agent.init_agent(
        "s", receiver.url, redact=lambda pairs: {f"k{i}" * 100: "\ud800" * 10_000 for i in range(200)}
    )
    record_everything()
    received = receiver.sent[0].received
    assert received.accepted + received.rejected == 6
