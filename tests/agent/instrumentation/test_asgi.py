"""Starlette, FastAPI, Litestar and any other ASGI application, under a real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import fastapi
import httpx
import litestar
import pytest
import requests
import starlette.background
import starlette.middleware
from litestar.background_tasks import BackgroundTask as LitestarBackgroundTask
from litestar.params import FromPath
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, RedirectResponse, StreamingResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from websockets.sync.client import connect

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded
from tests.agent.instrumentation.servers import serving_asgi
from vantage_agent._context import current
from vantage_agent._tracer import tracer

Start = Callable[..., Recorded]
TRACE, CALLER = "ab" * 16, "cd" * 8


def running_trace() -> str:
    span = current.get()
    return "" if span is None else span.trace_id


async def ok(request: Any) -> PlainTextResponse:
    return PlainTextResponse(running_trace())


async def fails(request: Any) -> PlainTextResponse:
    raise ZeroDivisionError("mine")


async def unavailable(request: Any) -> PlainTextResponse:
    raise HTTPException(503)


class CopiesTheScope:
    """As some middleware does."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(dict(scope), receive, send)


class DoesNothing(BaseHTTPMiddleware):
    async def dispatch(self, request: Any, call_next: Any) -> Any:
        return await call_next(request)


def starlette_app(**more: Any) -> Starlette:
    inner = Starlette(routes=[Route("/users/{id:int}", ok), Route("/fails", fails)])
    static = StaticFiles(packages=[("starlette", ".")])
    return Starlette(
        routes=[
            Route("/users/{id:int}", ok, methods=["GET", "POST"]),
            Route("/fails", fails),
            Route("/unavailable", unavailable),
            Route("/redirects", lambda request: RedirectResponse("/users/1")),
            Mount("/api", app=inner),
            Mount("/tenants/{tenant}", routes=[Mount("/v1", routes=[Route("/items/{name}", ok)])]),
            Mount("/static", app=static),
            Host("other.test", app=Router([Route("/hosted/{id}", ok)])),
        ],
        **more,
    )


def fastapi_app(**more: Any) -> fastapi.FastAPI:
    app = fastapi.FastAPI(**more)
    users = fastapi.APIRouter(prefix="/users")
    deeper = fastapi.APIRouter()

    @app.api_route("/users/{user_id}", methods=["GET", "POST"])
    async def user(user_id: int) -> str:
        return running_trace()

    @app.get("/sync/{user_id}")
    def sync(user_id: int) -> str:
        return running_trace()

    @app.get("/fails")
    def fail() -> None:
        raise ZeroDivisionError("mine")

    @app.get("/unavailable")
    async def unavailable() -> None:
        raise fastapi.HTTPException(503)

    @app.get("/redirects")
    async def redirects() -> RedirectResponse:
        return RedirectResponse("/users/1")

    @users.get("/{user_id}/orders")
    async def orders(user_id: int) -> int:
        return user_id

    @deeper.get("/{order}/lines")
    async def lines(order: int) -> int:
        return order

    deeper.add_route("/plain/{user_id}", ok)
    deeper.mount("/below", Starlette(routes=[Route("/{x}", ok)]))
    users.include_router(deeper, prefix="/orders")
    app.include_router(users, prefix="/v2")
    sub = fastapi.FastAPI()
    sub.include_router(users, prefix="/v3")

    @sub.get("/users/{user_id}")
    async def sub_user(user_id: int) -> int:
        return user_id

    app.mount("/api", sub)
    app.mount("/static", StaticFiles(packages=[("starlette", ".")]))
    return app


def litestar_app() -> litestar.Litestar:
    @litestar.route("/users/{user_id:int}", http_method=["GET", "POST"], status_code=200)
    async def user(user_id: FromPath[int]) -> str:
        return running_trace()

    @litestar.get("/sync/{user_id:int}", sync_to_thread=True)
    def sync(user_id: FromPath[int]) -> str:
        return running_trace()

    @litestar.get("/fails")
    async def fail() -> None:
        raise ZeroDivisionError("mine")

    @litestar.get("/unavailable")
    async def unavailable() -> None:
        raise litestar.exceptions.ServiceUnavailableException

    @litestar.get("/redirects", status_code=302)
    async def redirects() -> litestar.response.Redirect:
        return litestar.response.Redirect("/users/1", status_code=307)

    @litestar.get("/{name:str}/lines")
    async def lines(name: FromPath[str]) -> str:
        return name

    below = litestar.Router("/shop/{shop:str}", route_handlers=[lines])
    return litestar.Litestar([user, sync, fail, unavailable, redirects, below], logging_config=None)


STARLETTE = [
    ("GET", "/users/7", "/users/{id:int}", "200"),
    ("GET", "/api/users/7?q=secret", "/api/users/{id:int}", "200"),
    ("GET", "/api/secret", "unmatched", "404"),
    ("GET", "/tenants/secret/v1/items/secret", "/tenants/{tenant}/v1/items/{name}", "200"),
    ("GET", "/static/secret.css", "/static/{path}", "404"),
    ("GET", "/static/routing.py", "/static/{path}", "200"),
    ("GET", "/users/7/", "unmatched", "307"),
    ("DELETE", "/users/7", "/users/{id:int}", "405"),
]
FASTAPI = [
    ("GET", "/users/7", "/users/{user_id}", "200"),
    ("GET", "/sync/7", "/sync/{user_id}", "200"),
    ("GET", "/users/secret", "/users/{user_id}", "422"),
    ("GET", "/v2/users/7/orders", "/v2/users/{user_id}/orders", "200"),
    ("GET", "/v2/users/orders/7/lines", "/v2/users/orders/{order}/lines", "200"),
    ("GET", "/v2/users/orders/plain/7", "/v2/users/orders/plain/{user_id}", "200"),
    ("GET", "/v2/users/orders/below/7", "/v2/users/orders/below/{x}", "200"),
    ("GET", "/api/users/7", "/api/users/{user_id}", "200"),
    ("GET", "/api/v3/users/7/orders", "/api/v3/users/{user_id}/orders", "200"),
    ("GET", "/api/v3/users/orders/7/lines", "/api/v3/users/orders/{order}/lines", "200"),
    ("GET", "/api/secret", "unmatched", "404"),
    ("GET", "/static/secret.css", "/static/{path}", "404"),
    ("DELETE", "/users/7", "/users/{user_id}", "405"),
    ("DELETE", "/v2/users/7/orders", "/v2/users/{user_id}/orders", "405"),
]
LITESTAR = [
    ("GET", "/users/7", "/users/{user_id}", "200"),
    ("GET", "/sync/7", "/sync/{user_id}", "200"),
    ("GET", "/shop/secret/secret/lines", "/shop/{shop}/{name}/lines", "200"),
    ("DELETE", "/users/7", "unmatched", "405"),
]
ALL = [
    ("POST", "/users/7?q=secret", None, None),
    ("GET", "/secret/7", "unmatched", "404"),
    ("GET", "/redirects", "/redirects", "307"),
]
APPS: dict[str, Callable[[], Any]] = {"starlette": starlette_app, "fastapi": fastapi_app, "litestar": litestar_app}
FRAMEWORKS = pytest.mark.parametrize("framework", APPS)


@pytest.mark.parametrize(
    ("framework", "method", "path", "endpoint", "status"),
    [
        *(("starlette", *item) for item in STARLETTE),
        *(("fastapi", *item) for item in FASTAPI),
        *(("litestar", *item) for item in LITESTAR),
        *((framework, *item) for framework in APPS for item in ALL),
    ],
)
def test_a_request_is_named_by_its_template(
    start: Start, framework: str, method: str, path: str, endpoint: str | None, status: str | None
) -> None:
    if endpoint is None:
        endpoint, status = ("/users/{id:int}" if framework == "starlette" else "/users/{user_id}"), "200"
    recorded = start(framework)
    with serving_asgi(APPS[framework]()) as url:
        requests.request(
            method, url + path, headers={"X-Key": "secret"}, data=b"secret", allow_redirects=False, timeout=5
        )
    assert recorded.server == [{"method": method, "endpoint": endpoint, "status": status}]
    (span,) = recorded.spans
    assert span["name"] == (method if endpoint == "unmatched" else f"{method} {endpoint}")
    assert (span["kind"], span["status"]) == ("server", "unset")
    assert "secret" not in recorded.text


def test_a_host_route_is_named_by_its_route(start: Start) -> None:
    recorded = start("starlette")
    with serving_asgi(starlette_app()) as url:
        assert requests.get(f"{url}/hosted/7", headers={"Host": "other.test"}, timeout=5).status_code == 200
    assert recorded.server[0]["endpoint"] == "/hosted/{id}"


@pytest.mark.parametrize("middleware", [CopiesTheScope, DoesNothing])
def test_middleware_does_not_hide_the_route_or_the_error(start: Start, middleware: Any) -> None:
    recorded = start("starlette", "fastapi")
    for make, template in ((starlette_app, "/api/users/{id:int}"), (fastapi_app, "/api/users/{user_id}")):
        with serving_asgi(make(middleware=[starlette.middleware.Middleware(middleware)])) as url:
            requests.get(f"{url}/api/users/7", timeout=5)
            requests.get(f"{url}/fails", timeout=5)
        assert recorded.server[-2]["endpoint"] == template
        assert (recorded.server[-1]["endpoint"], recorded.server[-1]["error_type"]) == ("/fails", "ZeroDivisionError")


@FRAMEWORKS
def test_an_error_is_recorded_with_its_type(start: Start, framework: str) -> None:
    recorded = start(framework)
    with serving_asgi(APPS[framework]()) as url:
        assert requests.get(f"{url}/fails", timeout=5).status_code == 500
        assert requests.get(f"{url}/unavailable", timeout=5).status_code == 503
    first, second = recorded.server
    assert first == {"method": "GET", "endpoint": "/fails", "status": "500", "error_type": "ZeroDivisionError"}
    assert second["error_type"] == ("503" if framework != "litestar" else second["error_type"])
    assert second["error_type"]
    assert [span["status"] for span in recorded.spans] == ["error", "error"]


@FRAMEWORKS
def test_head_is_recorded(start: Start, framework: str) -> None:
    recorded = start(framework)
    with serving_asgi(APPS[framework]()) as url:
        requests.head(f"{url}/users/7", timeout=5)
    assert recorded.server[0]["method"] == "HEAD"


@FRAMEWORKS
def test_a_request_continues_the_trace_of_its_caller(start: Start, framework: str) -> None:
    recorded = start(framework, trace_sample_rate=0)
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    with serving_asgi(APPS[framework]()) as url:
        for path in ("/users/7", "/sync/7"):
            if framework != "starlette" or path == "/users/7":
                assert TRACE in requests.get(url + path, headers=headers, timeout=5).text
    assert {(span["trace_id"], span["parent_span_id"]) for span in recorded.spans} == {(TRACE, CALLER)}


@FRAMEWORKS
@pytest.mark.parametrize("header", ["nonsense", f"00-{'0' * 32}-{CALLER}-01", f"00-{TRACE}-{CALLER}-01-more"])
def test_a_header_that_is_not_valid_begins_a_new_trace(start: Start, framework: str, header: str) -> None:
    recorded = start(framework)
    with serving_asgi(APPS[framework]()) as url:
        requests.get(f"{url}/users/7", headers={"traceparent": header}, timeout=5)
    (span,) = recorded.spans
    assert span["trace_id"] != TRACE
    assert "parent_span_id" not in span


def test_two_headers_are_as_good_as_none_and_states_are_joined(start: Start) -> None:
    recorded = start()
    states: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        states.append(current.get().tracestate)  # type: ignore[union-attr]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    parent, state = (b"traceparent", f"00-{TRACE}-{CALLER}-01".encode()), (b"tracestate", b"a=1")
    for headers in ([parent, parent], [parent, state, (b"tracestate", b"b=2")]):
        call(vantage_agent.instrument_asgi(app), headers=headers)
    assert states == ["", "a=1,b=2"]
    assert [span["trace_id"] == TRACE for span in recorded.spans] == [False, True]


def call(app: Any, *, headers: Any = (), kind: str = "http") -> list[Any]:
    """Call an application once, without a server."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "method": "GET", "path": "/", "headers": list(headers), "query_string": b""}
    asyncio.run(app(scope, receive, send))
    return sent


@FRAMEWORKS
def test_a_streamed_answer_stays_lazy_and_is_measured_to_its_end(start: Start, framework: str) -> None:
    recorded = start(framework)
    go = threading.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        assert await asyncio.to_thread(go.wait, 5)
        yield b"b"

    if framework == "litestar":

        @litestar.get("/streams")
        async def streams() -> litestar.response.Stream:
            return litestar.response.Stream(pieces())

        app: Any = litestar.Litestar([streams])
    elif framework == "fastapi":
        app = fastapi.FastAPI()
        app.get("/streams")(lambda: StreamingResponse(pieces()))
    else:
        app = Starlette(routes=[Route("/streams", lambda request: StreamingResponse(pieces()))])
    with serving_asgi(app) as url, requests.get(f"{url}/streams", stream=True, timeout=5) as response:
        parts = response.iter_content(1)
        assert next(parts) == b"a"
        assert recorded.server == []
        go.set()
        assert list(parts) == [b"b"]
    assert [tags["endpoint"] for tags in recorded.server] == ["/streams"]


@FRAMEWORKS
def test_background_tasks_run_and_do_not_count(start: Start, framework: str) -> None:
    recorded = start(framework)
    go, done = threading.Event(), threading.Event()

    async def later() -> None:
        assert await asyncio.to_thread(go.wait, 5)
        with vantage_agent.span("later"):
            done.set()

    if framework == "litestar":

        @litestar.get("/")
        async def root() -> litestar.Response[str]:
            return litestar.Response("ok", background=LitestarBackgroundTask(later))

        app: Any = litestar.Litestar([root])
    elif framework == "fastapi":
        app = fastapi.FastAPI()

        @app.get("/")
        async def home(tasks: fastapi.BackgroundTasks) -> str:
            tasks.add_task(later)
            return "ok"

    else:
        task = starlette.background.BackgroundTask(later)
        app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("ok", background=task))])
    with serving_asgi(app) as url:
        assert requests.get(url, timeout=5).status_code == 200
        assert len(recorded.server) == 1
        go.set()
        assert done.wait(5)
    server, background = recorded.spans
    assert (background["name"], "parent_span_id" in background) == ("later", False)
    assert background["trace_id"] != server["trace_id"]  # the request has ended


def test_sockets_pass_through(start: Start) -> None:
    recorded = start("starlette", "fastapi")

    async def echo(websocket: Any) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    app = fastapi.FastAPI(routes=[WebSocketRoute("/ws", echo)])
    with serving_asgi(app) as url, connect(url.replace("http", "ws") + "/ws") as socket:
        socket.send("hello")
        assert socket.recv(5) == "hello"
    assert recorded.server == []


def test_an_error_is_the_applications_own(start: Start) -> None:
    recorded = start()
    error = ZeroDivisionError("mine")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    with pytest.raises(ZeroDivisionError) as caught:
        call(vantage_agent.instrument_asgi(app))
    assert caught.value is error
    assert caught.traceback[-1].name == "app"
    assert recorded.server == [{"method": "GET", "error": "true", "error_type": "ZeroDivisionError"}]


def test_a_request_inside_several_wrappers_is_recorded_once(start: Start) -> None:
    recorded = start("starlette", "fastapi")
    app = vantage_agent.instrument_asgi(vantage_agent.instrument_asgi(fastapi_app()))
    with serving_asgi(app) as url:
        requests.get(f"{url}/users/7", timeout=5)
    assert [tags["endpoint"] for tags in recorded.server] == ["/users/{user_id}"]


def test_a_scope_is_unchanged_afterwards(start: Start) -> None:
    recorded = start()
    scope = {"type": "http", "method": "GET", "headers": []}
    before = dict(scope)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        pass

    measured: Any = vantage_agent.instrument_asgi(app)
    for _ in range(2):
        asyncio.run(measured(scope, None, send))
        assert scope == before
    assert len(recorded.server) == 2


def test_headers_that_can_be_read_once_reach_the_application(start: Start) -> None:
    recorded = start()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])

    given = [(b"traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01".encode()), (b"x", b"1")]
    measured: Any = vantage_agent.instrument_asgi(app)
    asyncio.run(measured({"type": "http", "method": "GET", "headers": iter(given)}, None, None))
    assert seen == given
    assert recorded.spans[0]["trace_id"] == "ab" * 16


def test_what_comes_through_without_a_scope_of_http_is_passed_on(start: Start) -> None:
    recorded = start()
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    call(vantage_agent.instrument_asgi(app), kind="lifespan")
    assert (seen, recorded.spans) == (["lifespan"], [])


@FRAMEWORKS
def test_faults_of_the_agent_do_not_reach_the_application(
    start: Start, framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a fault of the agent's")

    start(framework)
    with serving_asgi(APPS[framework]()) as url:
        for method in ("begin", "end", "deactivate"):
            with monkeypatch.context() as patch:
                patch.setattr(tracer, method, broken)
                assert requests.get(f"{url}/users/7", timeout=5).status_code == 200
                assert requests.get(f"{url}/fails", timeout=5).status_code == 500


@FRAMEWORKS
def test_the_end_of_the_agent_in_the_middle_of_a_request_harms_nothing(start: Start, framework: str) -> None:
    start(framework)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.to_thread(vantage_agent.shutdown)
        yield b"b"

    if framework == "litestar":

        @litestar.get("/")
        async def streams() -> litestar.response.Stream:
            return litestar.response.Stream(pieces())

        app: Any = litestar.Litestar([streams])
    else:
        app = Starlette(routes=[Route("/", lambda request: StreamingResponse(pieces()))])
    with serving_asgi(app) as url:
        assert requests.get(url, timeout=5).content == b"ab"
        assert requests.get(url, timeout=5).content == b"ab"


async def test_an_application_called_in_process_is_a_child_of_the_call(start: Start) -> None:
    recorded = start("httpx", "fastapi")
    transport = httpx.ASGITransport(fastapi_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        await client.get("/users/7")
    spans = {span["kind"]: span for span in await asyncio.to_thread(lambda: recorded.spans)}
    assert spans["server"]["parent_span_id"] == spans["client"]["span_id"]
