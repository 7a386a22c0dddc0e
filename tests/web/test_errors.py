"""One table from errors to answers, on every boundary: static files, bodies, forms, sockets and ingest."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.server import Server, serving
from vantage.core.errors import BusyError, InputError, StoreTimeout, VantageError
from vantage.web.problems import problem_of

QUIET = {"VANTAGE_INGEST_RATE_LIMIT": "0", "VANTAGE_API_RATE_LIMIT": "0", "VANTAGE_SELF_TELEMETRY": "false"}
JSON_TYPE = {"Content-Type": "application/json"}
FORM_TYPE = {"Content-Type": "application/x-www-form-urlencoded"}
UNREADABLE = {
    "arrays": b"[" * 100_000,
    "objects": b'{"a":' * 20_000,
    "arrays in an unknown field": b'{"query":"a","x":' + b"[" * 100_000,
    "objects in an unknown field": b'{"query":"a","x":' + b'{"a":' * 20_000,
    "a key that is not UTF-8": b'{"query\xd6": "a"}',
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("errors") / "data", environ=QUIET) as server:
        yield server
        assert "Traceback" not in server.output, server.output


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("x"), 400),
        (RecursionError(), 400),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), 400),
        (MemoryError(), 503),
        (OSError(errno.ENOMEM, "x"), 503),
        (OSError(errno.EMFILE, "x"), 503),
        (RuntimeError("can't start new thread"), 503),
        (BusyError("x"), 503),
        (StoreTimeout("x"), 504),
        (VantageError("x"), 500),
        (OSError(errno.EIO, "x"), 500),
        (RuntimeError("x"), 500),
        (ValueError("a secret"), 500),
    ],
)
def test_every_error_has_an_answer(error: Exception, status: int) -> None:
    problem = problem_of(error)
    assert problem.status == status
    assert (status == 503) == ("retry-after" in dict(problem.headers))
    assert "secret" not in problem.detail


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "path",
    [
        "css/vantage.css%00.js",
        "%00",
        "a" * 5000,
        "a/" * 3000,
        "%ff%fe",
        "..%2f..%2fpyproject.toml",
        "js",
        "",
        "js/live.js/",
        "js/live.js/x",
        "js%2flive.js%00",
        "con",
        "%c0%ae%c0%ae/",
    ],
)
def test_a_path_of_no_static_file_is_404(server: Server, method: str, path: str) -> None:
    assert server.request(method, f"/static/{path}").status == (200 if path == "js/live.js/" else 404)


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize(
    "path", ["/vql/execute", "/vql/completions", "/api/deployments", "/v1/metrics", "/v1/spans", "/v1/metrics/"]
)
def test_json_that_is_nested_too_deeply_or_no_text_is_400(server: Server, path: str, name: str) -> None:
    answer = server.request("POST", path, UNREADABLE[name], JSON_TYPE)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/spans"])
def test_a_slash_at_the_end_changes_nothing(server: Server, path: str) -> None:
    body = {"service_name": "slash", "metrics": [], "spans": []}
    assert server.send(body, f"{path}/").status == 202
    assert server.request("GET", f"{path}/").status == 405
    assert server.send(body, f"{path}//").status == 404
    counted = server.counts()
    assert counted[f'vantage_collector_requests_total{{endpoint="{path}",status="202"}}'] >= 1


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"\xff\xfe=%zz&&&=;", FORM_TYPE),
        (b"key=%ff%00&next=%00", FORM_TYPE),
        (b"--x\r\n\r\n", {"Content-Type": "multipart/form-data; boundary=x"}),
        (b"--x", {"Content-Type": "multipart/form-data"}),
        (b"", {"Content-Type": "multipart/form-data; boundary="}),
        (b"[" * 4000, JSON_TYPE),
        (b"key", {}),
        (b'--x\r\nContent-Disposition: form-data; name="key"; filename="a"\r\n\r\nk\r\n--x--', {
            "Content-Type": "multipart/form-data; boundary=x"}),
    ],
)  # fmt: skip
def test_a_form_that_cannot_be_read_is_no_fault_of_the_server(
    server: Server, body: bytes, headers: dict[str, str]
) -> None:
    assert server.request("POST", "/login", body, headers).status in (400, 401, 413, 429)


class OutOfMemory:
    """Stands in for what a request needs; using it finds no memory."""

    def __getattr__(self, _name: str) -> Any:
        raise MemoryError


async def test_ingest_without_memory_is_503_and_says_when_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from vantage.core.clock import SystemClock
    from vantage.telemetry import Telemetry
    from vantage.web.api.ingest import IngestApp
    from vantage.web.auth import Authenticator
    from vantage.web.limits import TokenBuckets, TrustedProxies
    from vantage.web.request_metrics import RequestMetrics

    telemetry, clock = Telemetry(), SystemClock()
    ingest = IngestApp(
        OutOfMemory(),  # type: ignore[arg-type]
        authenticator=Authenticator(clock=clock, auth="off", api_key=""),
        proxies=TrustedProxies(()),
        rates=TokenBuckets(0),
        telemetry=telemetry,
        requests=RequestMetrics(telemetry),
        clock=clock,
    )
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/v1/metrics",
        "header_map": {},
        "request_id": "r",
        "client": None,
    }
    await ingest(scope, receive, send)
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"5") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["status"] == 503
