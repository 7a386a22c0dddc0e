"""aiohttp's client, what it has besides: one event loop, base URLs, hooks that see the request, tunnels and sockets."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import multidict
import pytest
import yarl
from aiohttp import web
from aiohttp.test_utils import TestServer

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded
from tests.agent.instrumentation.servers import Upstream

Start = Callable[..., Recorded]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as client_session:
        yield client_session


async def test_it_stays_a_coroutine_function(start: Start) -> None:
    start("aiohttp")
    for wrapped in (aiohttp.ClientSession._request, aiohttp.ClientRequest.send):
        assert inspect.iscoroutinefunction(wrapped)


async def test_each_request_method_is_a_call(start: Start, upstream: Upstream, session: aiohttp.ClientSession) -> None:
    recorded = start("aiohttp")
    async with session.get(upstream.url) as response:
        assert await response.text() == "ok"
    (await session.post(yarl.URL(upstream.url), data=b"x")).release()
    async with aiohttp.request("PUT", upstream.url) as response:
        assert await response.text() == "ok"
    assert len({*upstream.traceparents}) == 3
    methods = [(tags["method"], tags["peer"]) for tags in await asyncio.to_thread(lambda: recorded.client)]
    assert methods == [(method, upstream.address) for method in ("GET", "POST", "PUT")]


async def test_a_base_url_is_where_it_leads(start: Start, upstream: Upstream) -> None:
    recorded = start("aiohttp")
    async with aiohttp.ClientSession(f"{upstream.url}/a/") as session:
        (await session.get("b?q=http://x")).release()
        (await session.get(f"{upstream.url.replace('127.0.0.1', 'localhost')}/c")).release()
    assert [path for _, path, _ in upstream.requests] == ["/a/b?q=http://x", "/c"]
    assert [tags["peer"] for tags in await asyncio.to_thread(lambda: recorded.client)] == [
        upstream.address,
        upstream.address.replace("127.0.0.1", "localhost"),
    ]


async def test_headers_stay_the_applications_own(start: Start, upstream: Upstream) -> None:
    start("aiohttp")
    given: list[Any] = [
        {"X-A": "1"},
        multidict.CIMultiDict({"X-A": "1"}),
        multidict.CIMultiDictProxy(multidict.CIMultiDict({"X-A": "1"})),
        [("X-A", "1")],
        (pair for pair in [("X-A", "1")]),
    ]
    seen: list[Any] = []

    async def hook(_: Any, __: Any, params: aiohttp.TraceRequestStartParams) -> None:
        seen.append(params.headers)

    async def middleware(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        seen.append(dict(request.headers))
        response: aiohttp.ClientResponse = await handler(request)
        seen.append(dict(request.headers))
        return response

    traces = aiohttp.TraceConfig()
    traces.on_request_start.append(hook)
    async with aiohttp.ClientSession(trace_configs=[traces], middlewares=[middleware]) as session:
        for headers in given:
            async with session.get(upstream.url, headers=headers) as response:
                seen += [response.request_info.headers, headers]
    assert [headers.get("x-a") for _, _, headers in upstream.requests] == ["1"] * 5
    assert len({*upstream.traceparents} - {""}) == 5
    assert len(seen) == 25
    assert not any("traceparent" in headers for headers in seen)


async def test_a_traceparent_of_the_session_is_preserved(start: Start, upstream: Upstream) -> None:
    start("aiohttp")
    own = f"00-{'ab' * 16}-{'cd' * 8}-01"
    async with aiohttp.ClientSession(headers={"TraceParent": own}) as session:
        response = await session.get(upstream.url)
        response.release()
    assert response.request_info.headers["traceparent"] == own
    assert upstream.traceparents == [own]


async def test_an_answer_that_was_made_an_error_has_both(
    start: Start, upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    recorded = start("aiohttp")
    with pytest.raises(aiohttp.ClientResponseError):
        await session.get(f"{upstream.url}/status/404", raise_for_status=True)
    (tags,) = await asyncio.to_thread(lambda: recorded.client)
    assert (tags["status"], tags["error_type"]) == ("404", "aiohttp.client_exceptions.ClientResponseError")


async def test_an_error_of_the_applications_own_passes_as_it_is(
    start: Start, upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    recorded = start("aiohttp")
    error = ZeroDivisionError("mine")
    error.status = "none"  # type: ignore[attr-defined]

    async def judge(_: aiohttp.ClientResponse) -> None:
        raise error

    with pytest.raises(ZeroDivisionError) as caught:
        await session.get(upstream.url, raise_for_status=judge)
    assert caught.value is error
    assert (await asyncio.to_thread(lambda: recorded.client))[0]["error_type"] == "ZeroDivisionError"


async def test_calls_side_by_side_are_children_of_the_same_span(
    start: Start, upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    recorded = start("aiohttp")
    with vantage_agent.span("outer") as outer:
        span_id = outer.span_id
        for response in await asyncio.gather(*(session.get(upstream.url) for _ in range(5))):
            response.release()
    spans = await asyncio.to_thread(lambda: recorded.spans)
    clients = [span for span in spans if span["kind"] == "client"]
    assert [span["parent_span_id"] for span in clients] == [span_id] * 5
    assert {text[36:52] for text in upstream.traceparents} == {span["span_id"] for span in clients}


async def test_a_cancelled_call_is_cancelled(start: Start, upstream: Upstream, session: aiohttp.ClientSession) -> None:
    recorded = start("aiohttp")
    task = asyncio.ensure_future(session.get(f"{upstream.url}/hang"))
    while not upstream.requests:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (tags,) = await asyncio.to_thread(lambda: recorded.client)
    assert (tags["cancelled"], "error_type" in tags, "error" in tags) == ("true", False, False)


async def test_a_streamed_answer_stays_lazy(start: Start, upstream: Upstream, session: aiohttp.ClientSession) -> None:
    recorded = start("aiohttp")
    async with session.get(f"{upstream.url}/stream") as response:
        assert await response.content.read(1) == b"a"  # the second is not sent before
        assert len(await asyncio.to_thread(lambda: recorded.client)) == 1
        upstream.hold.set()
        assert await response.content.read(1) == b"b"


async def test_a_connect_request_carries_no_trace(
    start: Start, upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    recorded = start("aiohttp")
    with pytest.raises(aiohttp.ClientError):  # the proxy speaks no TLS
        await session.get("https://far.example/", proxy=upstream.url)
    (await session.get("http://far.example:81/", proxy=upstream.url)).release()
    assert [method for method, _, _ in upstream.requests] == ["CONNECT", "GET"]
    assert [bool(text) for text in upstream.traceparents] == [False, True]
    assert [tags["peer"] for tags in await asyncio.to_thread(lambda: recorded.client)] == [
        "far.example",
        "far.example:81",
    ]


async def test_websockets_are_not_instrumented(start: Start, upstream: Upstream) -> None:
    recorded = start("aiohttp")
    received: list[str | None] = []

    async def echo(request: web.Request) -> web.WebSocketResponse:
        received.append(request.headers.get("traceparent"))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(await socket.receive_str())
        await socket.close()
        return socket

    async def middleware(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        async with aiohttp.ClientSession() as inner:
            await talk(inner)
        response: aiohttp.ClientResponse = await handler(request)
        return response

    async def talk(session: aiohttp.ClientSession) -> None:
        socket = await session.ws_connect(server.make_url("/"))
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"
        await socket.close()

    app = web.Application()
    app.router.add_get("/", echo)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        await talk(session)
        (await session.get(upstream.url, middlewares=[middleware])).release()
    assert received == [None, None]
    assert len(await asyncio.to_thread(lambda: recorded.client)) == 1


async def test_nonsense_fails_as_it_does_without_an_agent(start: Start) -> None:
    async def attempt(action: Callable[[aiohttp.ClientSession], Any]) -> tuple[type, str]:
        async with aiohttp.ClientSession("http://127.0.0.1:1/") as session:
            with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is what is compared
                await action(session)
        return type(caught.value), str(caught.value)

    actions: list[Callable[[aiohttp.ClientSession], Any]] = [
        lambda session: session.get("http://[nonsense"),
        lambda session: session.get(None),  # type: ignore[arg-type]
        lambda session: session.request(None, "/"),  # type: ignore[arg-type]
        lambda session: session.get("/", headers=7),  # type: ignore[arg-type]
        lambda session: session._request("GET"),  # type: ignore[call-arg]
        lambda session: aiohttp.ClientSession.get(session, "nonsense://x"),
    ]
    without = [await attempt(action) for action in actions]
    recorded = start("aiohttp")
    assert [await attempt(action) for action in actions] == without
    assert "internal_error" not in await asyncio.to_thread(lambda: recorded.text)
