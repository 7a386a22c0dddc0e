"""The HTTP clients: the spans of calls, the headers they carry, and that the application sees no difference."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import aiohttp
import httpx
import httpx2
import pytest
import requests
import urllib3

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded
from tests.agent.instrumentation.servers import Upstream
from vantage_agent._tracer import tracer

Start = Callable[..., Recorded]
Ask = Callable[..., Any]


def with_requests(method: str, url: str, **more: Any) -> requests.Response:
    return requests.request(method, url, timeout=more.pop("timeout", 5), **more)


def with_httpx(method: str, url: str, **more: Any) -> httpx.Response:
    return httpx.request(method, url, trust_env=False, timeout=more.pop("timeout", 5), **_for_httpx(more))


def with_async_httpx(method: str, url: str, **more: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=more.pop("timeout", 5)) as client:
            return await client.request(method, url, **_for_httpx(more))

    return asyncio.run(ask())


def with_httpx2(method: str, url: str, **more: Any) -> httpx2.Response:
    return httpx2.request(method, url, trust_env=False, timeout=more.pop("timeout", 5), **_for_httpx(more))


def with_async_httpx2(method: str, url: str, **more: Any) -> httpx2.Response:
    async def ask() -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False, timeout=more.pop("timeout", 5)) as client:
            return await client.request(method, url, **_for_httpx(more))

    return asyncio.run(ask())


def with_urllib3(method: str, url: str, **more: Any) -> SimpleNamespace:
    with urllib3.PoolManager() as manager:
        return _ask_urllib3(manager, method, url, more)


def with_a_pool(method: str, url: str, **more: Any) -> SimpleNamespace:
    with urllib3.connection_from_url(url) as pool:
        return _ask_urllib3(pool, method, f"/{url.partition('//')[2].partition('/')[2]}", more)


def _ask_urllib3(client: Any, method: str, url: str, more: dict[str, Any]) -> SimpleNamespace:
    headers = {"X-A": "1", **more.get("headers", {})}
    before = dict(headers)
    retries = urllib3.Retry(connect=1, read=False, redirect=2)
    timeout, redirect = more.get("timeout", 5), more.get("allow_redirects", True)
    body = urlencode(more.get("data", {})) or None
    response = client.urlopen(
        method, url, body=body, headers=headers, retries=retries, redirect=redirect, timeout=timeout
    )
    assert headers == before
    return _answered(response.status, {name.lower(): value for name, value in headers.items()})


def with_aiohttp(method: str, url: str, **more: Any) -> SimpleNamespace:
    async def ask() -> SimpleNamespace:
        timeout = aiohttp.ClientTimeout(sock_read=more.pop("timeout", 5))
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, url, **more) as response,
        ):
            await response.read()
            before = [_answered(item.status, item.request_info.headers) for item in response.history]
            return _answered(response.status, response.request_info.headers, before)

    return asyncio.run(ask())


def _answered(status: int, headers: Any, history: Sequence[Any] = ()) -> SimpleNamespace:
    return SimpleNamespace(status_code=status, request=SimpleNamespace(headers=headers), history=history)


def _for_httpx(more: dict[str, Any]) -> dict[str, Any]:
    return {"follow_redirects": more.pop("allow_redirects", True), **more}


CLIENTS = [
    pytest.param("requests", with_requests, id="requests"),
    pytest.param("httpx", with_httpx, id="httpx"),
    pytest.param("httpx", with_async_httpx, id="httpx-async"),
    pytest.param("httpx2", with_httpx2, id="httpx2"),
    pytest.param("httpx2", with_async_httpx2, id="httpx2-async"),
    pytest.param("urllib3", with_urllib3, id="urllib3"),
    pytest.param("urllib3", with_a_pool, id="urllib3-pool"),
    pytest.param("aiohttp", with_aiohttp, id="aiohttp"),
]
REFUSED = (
    requests.ConnectionError,
    httpx.ConnectError,
    httpx2.ConnectError,
    urllib3.exceptions.MaxRetryError,
    aiohttp.ClientConnectorError,
)
TIMED_OUT = (
    requests.Timeout,
    httpx.TimeoutException,
    httpx2.TimeoutException,
    urllib3.exceptions.ReadTimeoutError,
    aiohttp.ServerTimeoutError,
)


def kind_of(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


@pytest.mark.parametrize(("name", "ask"), CLIENTS)
class TestEachClient:
    def test_a_call_is_a_span_and_a_duration(self, start: Start, upstream: Upstream, name: str, ask: Ask) -> None:
        recorded = start(name)
        assert ask("POST", f"{upstream.url}/users/7").status_code == 200
        assert recorded.client == [{"method": "POST", "peer": upstream.address, "status": "200"}]
        (span,) = recorded.spans
        assert (span["name"], span["kind"], span["status"]) == ("POST 127.0.0.1", "client", "unset")
        assert span["attributes"]["server.port"] == upstream.address.partition(":")[2]
        ((_, _, value_ms),) = [sample for sample in recorded.samples if sample[0] == "http.client.request.duration"]
        assert value_ms == span["duration_ns"] / 1e6
        assert 0 < value_ms < 5000

    @pytest.mark.parametrize(("status", "span_status"), [(404, "error"), (500, "error"), (204, "unset")])
    def test_the_status_is_recorded(
        self, start: Start, upstream: Upstream, name: str, ask: Ask, status: int, span_status: str
    ) -> None:
        recorded = start(name)
        ask("GET", f"{upstream.url}/status/{status}")
        (tags,) = recorded.client
        assert tags["status"] == str(status)
        assert tags.get("error_type") == ("500" if status == 500 else None)
        assert recorded.spans[0]["status"] == span_status

    def test_the_call_carries_the_trace(self, start: Start, upstream: Upstream, name: str, ask: Ask) -> None:
        recorded = start(name)
        with vantage_agent.span("outer") as outer:
            trace_id, span_id = outer.trace_id, outer.span_id
            response = ask("GET", upstream.url)
        client = next(span for span in recorded.spans if span["kind"] == "client")
        assert upstream.traceparents == [f"00-{trace_id}-{client['span_id']}-01"]
        assert (client["trace_id"], client["parent_span_id"]) == (trace_id, span_id)
        assert "traceparent" not in response.request.headers

    def test_a_trace_that_is_not_sampled_has_the_flag_unset(
        self, start: Start, upstream: Upstream, name: str, ask: Ask
    ) -> None:
        start(name, trace_sample_rate=0)
        ask("GET", upstream.url)
        assert upstream.traceparents[0].endswith("-00")

    def test_a_traceparent_of_the_application_is_preserved(
        self, start: Start, upstream: Upstream, name: str, ask: Ask
    ) -> None:
        start(name)
        own = f"00-{'ab' * 16}-{'cd' * 8}-01"
        response = ask("GET", f"{upstream.url}/redirect", headers={"TraceParent": own})
        assert upstream.traceparents == [own, own]
        assert response.request.headers["traceparent"] == own

    def test_redirects_are_one_call(self, start: Start, upstream: Upstream, name: str, ask: Ask) -> None:
        recorded = start(name)
        response = ask("GET", f"{upstream.url}/redirect")
        assert [path for _, path, _ in upstream.requests] == ["/redirect", "/status/200"]
        assert [tags["status"] for tags in recorded.client] == ["200"]
        assert len(set(upstream.traceparents)) == 1
        assert all(upstream.traceparents)
        assert not any("traceparent" in item.request.headers for item in (response, *response.history))

    def test_a_redirect_that_is_not_followed_is_recorded_as_a_redirect(
        self, start: Start, upstream: Upstream, name: str, ask: Ask
    ) -> None:
        recorded = start(name)
        ask("GET", f"{upstream.url}/redirect", allow_redirects=False)
        assert [tags["status"] for tags in recorded.client] == ["302"]

    def test_head_is_recorded(self, start: Start, upstream: Upstream, name: str, ask: Ask) -> None:
        recorded = start(name)
        ask("HEAD", upstream.url)
        assert recorded.client[0]["method"] == "HEAD"

    def test_an_unknown_method_makes_no_series(self, start: Start, upstream: Upstream, name: str, ask: Ask) -> None:
        recorded = start(name)
        ask("BREW", upstream.url)
        assert recorded.client[0]["method"] == "_OTHER"

    def test_a_refused_connection_is_an_error_with_its_type(self, start: Start, name: str, ask: Ask) -> None:
        recorded = start(name)
        with socket.socket() as used:
            used.bind(("127.0.0.1", 0))
            port = used.getsockname()[1]
            with pytest.raises(REFUSED) as caught:
                ask("GET", f"http://127.0.0.1:{port}/")
        (tags,) = recorded.client
        kind = kind_of(caught.value)
        assert tags == {"method": "GET", "peer": f"127.0.0.1:{port}", "error_type": kind, "error": "true"}
        assert recorded.spans[0]["status"] == "error"

    def test_a_timeout_is_an_error_with_its_type(self, start: Start, upstream: Upstream, name: str, ask: Ask) -> None:
        recorded = start(name)
        with pytest.raises(TIMED_OUT) as caught:
            ask("GET", f"{upstream.url}/hang", timeout=0.1)
        assert recorded.client[0]["error_type"] == kind_of(caught.value)
        assert "status" not in recorded.client[0]

    def test_nothing_of_the_request_but_its_method_and_address_is_sent(
        self, start: Start, upstream: Upstream, name: str, ask: Ask
    ) -> None:
        recorded = start(name)
        url = f"http://user:secret1@{upstream.address}/secret2/{'x' * 400}?a=secret3"
        ask("POST", url, headers={"X-Key": "secret4"}, data={"b": "secret5"})
        assert len(upstream.requests) == 1
        assert len(recorded.client) == 1
        assert "secret" not in recorded.text
        assert "xxx" not in recorded.text

    def test_a_password_longer_than_an_address_is_not_mistaken_for_one(
        self, start: Start, upstream: Upstream, name: str, ask: Ask
    ) -> None:
        recorded = start(name)
        ask("GET", f"http://{'u' * 400}:pw@{upstream.address}/")
        assert recorded.client[0]["peer"] == upstream.address
        assert "uuu" not in recorded.text

    def test_faults_of_the_agent_do_not_reach_the_application(
        self, start: Start, upstream: Upstream, name: str, ask: Ask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("a fault of the agent's")

        start(name)
        for method in ("begin", "end", "deactivate"):
            with monkeypatch.context() as patch:
                patch.setattr(tracer, method, broken)
                # A span that cannot be deactivated stays the current one of its context.
                assert copy_context().run(ask, "GET", upstream.url).status_code == 200
                with pytest.raises(REFUSED):
                    copy_context().run(ask, "GET", "http://127.0.0.1:1/")

    def test_after_the_end_of_the_agent_calls_are_plain(
        self, start: Start, upstream: Upstream, name: str, ask: Ask
    ) -> None:
        start(name)
        vantage_agent.shutdown()
        ask("GET", upstream.url)
        assert upstream.traceparents == [""]

    def test_the_end_of_the_agent_in_the_middle_of_a_call_harms_nothing(
        self, start: Start, upstream: Upstream, name: str, ask: Ask
    ) -> None:
        start(name)
        result: list[Any] = []
        thread = threading.Thread(target=lambda: result.append(ask("GET", f"{upstream.url}/hang").status_code))
        thread.start()
        while not upstream.requests:
            thread.join(0.01)
        vantage_agent.shutdown()
        upstream.hold.set()
        thread.join()
        assert result == [200]


@pytest.mark.parametrize("name", ["requests", "httpx", "urllib3"])
def test_nonsense_fails_as_it_does_without_an_agent(start: Start, name: str) -> None:
    def attempt(action: Callable[[], Any]) -> tuple[type, str]:
        with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is what is compared
            action()
        return type(caught.value), str(caught.value)

    session, client, manager = requests.Session(), httpx.Client(), urllib3.PoolManager()
    pool = urllib3.HTTPConnectionPool("127.0.0.1", 1)
    actions: list[Callable[[], Any]] = [
        lambda: session.get("nonsense"),
        lambda: session.send(requests.Request("GET", "http://127.0.0.1:1/")),  # type: ignore[arg-type]
        lambda: session.send(None),  # type: ignore[arg-type]
        lambda: client.get("nonsense"),
        lambda: client.send(None),  # type: ignore[arg-type]
        lambda: manager.urlopen("GET", None),  # type: ignore[arg-type]
        lambda: manager.urlopen("GET", b"http://127.0.0.1:1/"),  # type: ignore[arg-type]
        lambda: manager.urlopen("GET", "nonsense://x"),
        lambda: manager.urlopen("GET", "http://127.0.0.1:1/", retries=False, headers=7),
        lambda: pool.urlopen("GET", "http://elsewhere/"),
        lambda: pool.urlopen(None, "/", retries=False),  # type: ignore[arg-type]
        lambda: pool.urlopen("GET"),  # type: ignore[call-arg]
    ]
    without = [attempt(action) for action in actions]
    recorded = start(name)
    assert [attempt(action) for action in actions] == without
    assert "internal_error" not in recorded.text


def test_a_prepared_request_sent_twice_is_two_calls(start: Start, upstream: Upstream) -> None:
    recorded = start("requests")
    with requests.Session() as session:
        prepared = session.prepare_request(requests.Request("GET", upstream.url, headers={"X-A": "1"}))
        before = dict(prepared.headers)
        for _ in range(2):
            session.send(prepared)
            assert dict(prepared.headers) == before
    assert len({*upstream.traceparents}) == 2
    assert len(recorded.client) == 2


def test_a_request_of_httpx_sent_twice_is_two_calls(start: Start, upstream: Upstream) -> None:
    recorded = start("httpx")
    with httpx.Client(trust_env=False) as client:
        request = client.build_request("GET", upstream.url)
        before = request.headers.raw
        for _ in range(2):
            client.send(request)
            assert request.headers.raw == before
    assert len({*upstream.traceparents}) == 2
    assert len(recorded.client) == 2


def test_a_streamed_answer_stays_lazy(start: Start, upstream: Upstream) -> None:
    recorded = start("requests", "httpx")
    with requests.get(f"{upstream.url}/stream", stream=True, timeout=5) as response:
        pieces = response.iter_content(1)
        assert next(pieces) == b"a"  # the second is not sent before
        upstream.hold.set()
        assert next(pieces) == b"b"
    upstream.hold.clear()
    with httpx.stream("GET", f"{upstream.url}/stream", trust_env=False) as streamed:
        parts = streamed.iter_raw()
        assert next(parts) == b"a"
        upstream.hold.set()
        assert next(parts) == b"b"
    assert len(recorded.client) == 2


async def test_async_calls_side_by_side_are_children_of_the_same_span(start: Start, upstream: Upstream) -> None:
    recorded = start("httpx")
    async with httpx.AsyncClient(trust_env=False) as client:
        with vantage_agent.span("outer") as outer:
            span_id = outer.span_id
            await asyncio.gather(*(client.get(upstream.url) for _ in range(5)))
    spans = await asyncio.to_thread(lambda: recorded.spans)
    clients = [span for span in spans if span["kind"] == "client"]
    assert [span["parent_span_id"] for span in clients] == [span_id] * 5
    assert len({*upstream.traceparents}) == 5


async def test_a_cancelled_call_is_cancelled(start: Start, upstream: Upstream) -> None:
    recorded = start("httpx")
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.get(f"{upstream.url}/hang"), 0.2)
    (tags,) = await asyncio.to_thread(lambda: recorded.client)
    assert (tags["cancelled"], "error_type" in tags, "error" in tags) == ("true", False, False)


async def test_a_task_begun_inside_a_call_that_outlives_it_is_measured(start: Start, upstream: Upstream) -> None:
    recorded = start("httpx")
    later: list[asyncio.Task[Any]] = []
    go = asyncio.Event()

    async def after() -> None:
        await go.wait()
        await client.get(upstream.url)

    async def hook(request: httpx.Request) -> None:
        if not later:
            later.append(asyncio.create_task(after()))

    async with httpx.AsyncClient(trust_env=False, event_hooks={"request": [hook]}) as client:
        await client.get(upstream.url)
        go.set()
        await later[0]
    assert len(await asyncio.to_thread(lambda: recorded.client)) == 2


def test_the_error_is_the_applications_own(start: Start) -> None:
    start("httpx")
    error = ZeroDivisionError("mine")

    def handler(request: httpx.Request) -> httpx.Response:
        raise error

    with httpx.Client(transport=httpx.MockTransport(handler)) as client, pytest.raises(ZeroDivisionError) as caught:
        client.get("http://x/")
    assert caught.value is error
    assert caught.traceback[-1].name == "handler"
