"""One request is one span and one trace, whatever server, layers, streams and handlers it passes."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, cast

import a2wsgi
import asgiref.wsgi
import fastapi
import flask
import litestar
import litestar.response
import pytest
import requests
from litestar.params import FromPath
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded
from tests.agent.instrumentation.servers import serving_asgi, serving_wsgi
from tests.support.wait import wait_until
from vantage_agent._context import current, running

Start = Callable[..., Recorded]
PIECES = 400
PIECE = b"x" * 65536


# Kept connections


def starlette_app() -> Starlette:
    async def upload(request: Any) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    async def page(_request: Any) -> PlainTextResponse:
        with vantage_agent.span("inside"):
            return PlainTextResponse("x")

    return Starlette(routes=[Route("/upload", upload, methods=["POST"]), Route("/page", page)])


def test_requests_of_a_kept_connection_are_traces_of_their_own(start: Start) -> None:
    recorded = start("starlette")
    with serving_asgi(starlette_app()) as url:
        host, port = url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port))
        for method, path, body in 3 * [("POST", "/upload", b"x" * 1_000_000)] + 3 * [("GET", "/page", None)]:
            connection.request(method, path, body=body)
            connection.getresponse().read()
        connection.close()
        get = b"GET /page HTTP/1.1\r\nHost: localhost\r\n"
        with socket.create_connection((host, int(port))) as pipelined:
            pipelined.sendall(get + b"\r\n" + get + b"\r\n" + get + b"Connection: close\r\n\r\n")
            while pipelined.recv(65536):
                pass
        wait_until(lambda: len(recorded.server) == 9)
    servers = [span for span in recorded.spans if span["kind"] == "server"]
    assert len({span["trace_id"] for span in servers}) == 9
    assert not [span for span in servers if "parent_span_id" in span]
    by_id = {span["span_id"]: span for span in servers}
    insides = [span for span in recorded.spans if span["name"] == "inside"]
    assert len({by_id[span["parent_span_id"]]["trace_id"] for span in insides}) == 6


def test_a_task_of_the_lifespan_is_no_part_of_a_request(start: Start) -> None:
    recorded = start("starlette")
    app = starlette_app()

    async def call() -> None:
        with vantage_agent.span("startup"):
            scope = {"type": "http", "method": "GET", "path": "/page", "headers": [], "query_string": b""}

            async def nothing(*_: Any) -> Any:
                return {"type": "http.request", "body": b""}

            await asyncio.create_task(app(scope, nothing, nothing))

    asyncio.run(call())
    (server,) = [span for span in recorded.spans if span["kind"] == "server"]
    assert "parent_span_id" not in server


# Streams


def spans_of_rows() -> Iterator[bytes]:
    with vantage_agent.span("rows"):
        for _ in range(4):
            with vantage_agent.span("row"):
                pass
            yield b"row\n"


async def spans_of_rows_async() -> Any:
    with vantage_agent.span("rows"):
        for _ in range(4):
            with vantage_agent.span("row"):
                pass
            yield b"row\n"


def flask_stream() -> Any:
    app = flask.Flask("app")
    app.add_url_rule("/", view_func=lambda: flask.Response(spans_of_rows()))
    return app


def starlette_stream(pieces: Callable[[], Any]) -> Any:
    return Starlette(routes=[Route("/", lambda request: StreamingResponse(pieces()))])


def fastapi_stream() -> Any:
    app = fastapi.FastAPI()
    app.add_api_route("/", lambda: StreamingResponse(spans_of_rows()))
    return app


def litestar_stream() -> Any:
    @litestar.get("/", sync_to_thread=False)
    def rows() -> litestar.response.Stream:
        return litestar.response.Stream(spans_of_rows())

    return litestar.Litestar([rows])


STREAMS: dict[str, tuple[Any, Callable[[], Any]]] = {
    "flask": (serving_wsgi, flask_stream),
    "starlette": (serving_asgi, lambda: starlette_stream(spans_of_rows)),
    "starlette-async": (serving_asgi, lambda: starlette_stream(spans_of_rows_async)),
    "fastapi": (serving_asgi, fastapi_stream),
    "litestar": (serving_asgi, litestar_stream),
    "flask in starlette": (
        serving_asgi,
        lambda: Starlette(routes=[Mount("/", cast("Any", a2wsgi.WSGIMiddleware(flask_stream())))]),
    ),
}


@pytest.mark.parametrize("framework", STREAMS)
def test_a_span_that_stays_open_in_a_stream_is_the_parent_of_its_later_pieces(start: Start, framework: str) -> None:
    recorded = start("flask", "starlette", "fastapi", "litestar")
    serving, make = STREAMS[framework]
    with serving(make()) as url:
        assert requests.get(url, timeout=5).content == b"row\n" * 4
        wait_until(lambda: len(recorded.server) == 1)
    (server,) = [span for span in recorded.spans if span["kind"] == "server"]
    (rows,) = [span for span in recorded.spans if span["name"] == "rows"]
    assert rows["parent_span_id"] == server["span_id"]
    parents = [span["parent_span_id"] for span in recorded.spans if span["name"] == "row"]
    assert parents == [rows["span_id"]] * 4


def endless() -> Iterator[bytes]:
    with vantage_agent.span("stream"):
        for _ in range(PIECES):
            yield PIECE


async def endless_async() -> Any:
    with vantage_agent.span("stream"):
        for _ in range(PIECES):
            yield PIECE
            await asyncio.sleep(0)


def left_flask() -> Any:
    app = flask.Flask("app")
    app.add_url_rule("/", "stream", lambda: flask.Response(endless()))
    app.add_url_rule("/page", "page", lambda: "x")
    return app


def left_starlette() -> Any:
    return Starlette(
        routes=[
            Route("/", lambda request: StreamingResponse(endless_async())),
            Route("/page", lambda request: PlainTextResponse("x")),
        ]
    )


def left_litestar() -> Any:
    @litestar.get("/")
    async def stream() -> litestar.response.Stream:
        return litestar.response.Stream(endless_async())

    @litestar.get("/page")
    async def page() -> str:
        return "x"

    return litestar.Litestar([stream, page])


@pytest.mark.parametrize(
    ("serving", "make"),
    [(serving_wsgi, left_flask), (serving_asgi, left_starlette), (serving_asgi, left_litestar)],
    ids=["flask", "starlette", "litestar"],
)
def test_a_reader_who_leaves_is_recorded_and_is_no_failure(
    start: Start, serving: Any, make: Callable[[], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    recorded = start("flask", "starlette", "litestar")
    with serving(make()) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as reader:
            reader.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            reader.recv(65536)
        wait_until(lambda: len(recorded.server) == 1)
        for _ in range(3):
            assert requests.get(f"{url}/page", timeout=5).status_code == 200
        wait_until(lambda: len(recorded.server) == 4)
    left, *pages = recorded.server
    assert (left["client_disconnected"], "error" in left, "error_type" in left) == ("true", False, False)
    assert not [tags for tags in pages if "client_disconnected" in tags]
    servers = [span for span in recorded.spans if span["kind"] == "server"]
    assert {span["status"] for span in recorded.spans} == {"unset"}
    assert servers[0]["attributes"]["client_disconnected"] == "true"
    assert not [span for span in servers if "parent_span_id" in span]
    capfd.readouterr()  # wsgiref writes the traceback of a broken pipe


def test_a_client_that_leaves_during_its_upload_is_no_failure(start: Start) -> None:
    recorded = start("starlette")
    with serving_asgi(starlette_app()) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as sender:
            sender.sendall(b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nbegin")
            wait_until(lambda: running() is None)
        wait_until(lambda: len(recorded.server) == 1)
    (tags,) = recorded.server
    assert (tags.get("client_disconnected"), "error_type" in tags) == ("true", False)


# One request through several layers


def flask_app() -> Any:
    app = flask.Flask("old")

    @app.get("/users/<int:number>")
    def user(number: int) -> str:
        with vantage_agent.span("inside"):
            return str(number)

    return app


def starlette_users() -> Starlette:
    return Starlette(routes=[Route("/users/{number}", lambda request: PlainTextResponse("x"))])


def litestar_users() -> Any:
    @litestar.get("/users/{number:int}", sync_to_thread=False)
    def user(number: FromPath[int]) -> str:
        return str(number)

    return litestar.Litestar([user])


def fastapi_users() -> Any:
    app = fastapi.FastAPI()
    app.add_api_route("/users/{number}", lambda number: number)
    return app


def mounted_in_fastapi(inner: Any) -> Any:
    app = fastapi.FastAPI()
    app.mount("/old", inner)
    return app


def mounted_in_starlette(inner: Any) -> Any:
    return Starlette(routes=[Mount("/old", inner)])


def mounted_in_litestar(inner: Any) -> Any:
    @litestar.asgi("/old", is_mount=True, copy_scope=True)
    async def old(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "path": scope["path"].rstrip("/")}, receive, send)  # Litestar adds a slash

    return litestar.Litestar([old])


def with_middleware(inner: Any) -> Any:
    async def around(request: Any, call_next: Any) -> Any:
        with vantage_agent.span("middleware"):
            return await call_next(request)

    return Starlette(routes=[Mount("/old", inner)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=around)])


LAYERS: dict[str, tuple[Any, Callable[[], Any], str]] = {
    "flask in fastapi": (
        serving_asgi,
        lambda: mounted_in_fastapi(a2wsgi.WSGIMiddleware(flask_app())),
        "/old/users/<int:number>",
    ),
    "flask in starlette by asgiref": (
        serving_asgi,
        lambda: mounted_in_starlette(asgiref.wsgi.WsgiToAsgi(flask_app())),
        "/old/users/<int:number>",
    ),
    "flask in starlette with a span around": (
        serving_asgi,
        lambda: with_middleware(a2wsgi.WSGIMiddleware(flask_app())),
        "/old/users/<int:number>",
    ),
    "flask in litestar": (
        serving_asgi,
        lambda: mounted_in_litestar(a2wsgi.WSGIMiddleware(flask_app())),
        "/old/users/<int:number>",
    ),
    "fastapi in fastapi": (serving_asgi, lambda: mounted_in_fastapi(fastapi_users()), "/old/users/{number}"),
    "litestar in starlette": (serving_asgi, lambda: mounted_in_starlette(litestar_users()), "/old/users/{number}"),
    "starlette in litestar": (serving_asgi, lambda: mounted_in_litestar(starlette_users()), "/old/users/{number}"),
    "litestar in litestar": (serving_asgi, lambda: mounted_in_litestar(litestar_users()), "/old/users/{number}"),
    "flask by werkzeug": (
        serving_wsgi,
        lambda: DispatcherMiddleware(flask.Flask("main"), {"/old": flask_app()}),
        "/old/users/<int:number>",
    ),
    "flask in flask": (
        serving_wsgi,
        lambda: vantage_agent.instrument_wsgi(DispatcherMiddleware(flask.Flask("main"), {"/old": flask_app()})),
        "/old/users/<int:number>",
    ),
    "starlette in wsgi": (
        serving_wsgi,
        lambda: vantage_agent.instrument_wsgi(a2wsgi.ASGIMiddleware(mounted_in_starlette(starlette_users()))),
        "/old/users/{number}",
    ),
}


@pytest.mark.parametrize("layers", LAYERS)
def test_one_request_is_one_span_by_the_full_route(start: Start, layers: str) -> None:
    recorded = start("flask", "fastapi", "starlette", "litestar")
    serving, make, route = LAYERS[layers]
    with serving(make()) as url:
        for number in range(3):
            assert requests.get(f"{url}/old/users/{number}?a=b", timeout=5).status_code == 200
        wait_until(lambda: len(recorded.server) >= 3)
    assert [tags["endpoint"] for tags in recorded.server] == [route] * 3
    servers = [span for span in recorded.spans if span["kind"] == "server"]
    assert len(servers) == 3
    insides = [span for span in recorded.spans if span["name"] == "inside"]
    assert {span["trace_id"] for span in insides} <= {span["trace_id"] for span in servers}


def test_another_request_to_the_same_process_is_one_of_its_own(start: Start) -> None:
    recorded = start("flask")
    app = flask_app()

    @app.get("/outer")
    def outer() -> Any:
        answer = app.test_client().get("/users/7")
        return str(answer.status_code)

    with serving_wsgi(app) as url:
        assert requests.get(f"{url}/outer", timeout=5).text == "200"
        wait_until(lambda: len(recorded.server) == 2)
    assert sorted(tags["endpoint"] for tags in recorded.server) == ["/outer", "/users/<int:number>"]
    assert not [span for span in recorded.spans if span["kind"] == "server" and "parent_span_id" in span]


# The exception behind an error


class Broken(Exception):
    pass


def fail() -> Any:
    secret = "a local variable"  # noqa: F841
    try:
        dict[str, str]()["missing"]
    except KeyError as error:
        raise Broken("it broke") from error


def flask_errors() -> Any:
    app = flask.Flask("app")

    @app.errorhandler(Exception)
    def anything(error: Exception) -> Any:
        return flask.jsonify(error="internal"), 500

    app.add_url_rule("/", view_func=fail)
    return app


def flask_of_status() -> Any:
    app = flask.Flask("app")

    @app.errorhandler(500)
    def internal(error: Exception) -> Any:
        return "sorry", 500

    app.add_url_rule("/", view_func=fail)
    return app


def starlette_errors() -> Any:
    async def answers(_request: Any, _error: Exception) -> JSONResponse:
        return JSONResponse({"error": "internal"}, 503)

    async def page(_request: Any) -> None:
        fail()

    return Starlette(routes=[Route("/", page)], exception_handlers={Broken: answers})


def starlette_catching() -> Any:
    async def around(request: Any, call_next: Any) -> Any:
        with suppress(Broken):
            return await call_next(request)
        return JSONResponse({"error": "internal"}, 500)

    async def page(_request: Any) -> None:
        fail()

    return Starlette(routes=[Route("/", page)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=around)])


def fastapi_errors() -> Any:
    app = fastapi.FastAPI()

    @app.exception_handler(Broken)
    def answers(_request: Any, _error: Exception) -> Any:
        return JSONResponse({"error": "internal"}, 500)

    app.add_api_route("/", fail)
    return app


def fastapi_status() -> Any:
    app = fastapi.FastAPI()

    @app.get("/")
    def page() -> None:
        try:
            fail()
        except Broken as error:
            raise fastapi.HTTPException(502) from error

    return app


def litestar_errors() -> Any:
    def answers(_request: Any, _error: Exception) -> Any:
        return litestar.Response("internal", status_code=500)

    @litestar.get("/", sync_to_thread=False)
    def page() -> None:
        fail()

    return litestar.Litestar([page], exception_handlers={Broken: answers})


def asgi_catching() -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        try:
            fail()
        except Broken:
            await send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

    return vantage_agent.instrument_asgi(app)


def wsgi_catching() -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        try:
            fail()
        except Broken:
            start_response("500 Internal Server Error", [("Content-Length", "0")])
        return []

    return vantage_agent.instrument_wsgi(app)


ERRORS: dict[str, tuple[Any, Callable[[], Any]]] = {
    "flask": (serving_wsgi, flask_errors),
    "flask, handler of the status": (serving_wsgi, flask_of_status),
    "starlette": (serving_asgi, starlette_errors),
    "starlette, middleware": (serving_asgi, starlette_catching),
    "fastapi": (serving_asgi, fastapi_errors),
    "fastapi, raised from": (serving_asgi, fastapi_status),
    "litestar": (serving_asgi, litestar_errors),
    "asgi": (serving_asgi, asgi_catching),
    "wsgi": (serving_wsgi, wsgi_catching),
}


@pytest.mark.filterwarnings("ignore:Use of a synchronous callable")
@pytest.mark.parametrize("framework", ERRORS)
def test_the_exception_behind_an_error_is_recorded_whatever_answered(start: Start, framework: str) -> None:
    recorded = start("flask", "starlette", "fastapi", "litestar")
    serving, make = ERRORS[framework]
    with serving(make()) as url:
        assert requests.get(url, timeout=5).status_code >= 500
        wait_until(lambda: len(recorded.server) == 1)
    kind = f"{__name__}.Broken"
    assert recorded.server[0]["error_type"] == kind
    (span,) = recorded.spans
    attributes = span["attributes"]
    assert (span["status"], attributes["error.type"], attributes["exception.type"]) == ("error", kind, kind)
    assert attributes["exception.message"] == "it broke"
    trace = attributes["exception.stacktrace"]
    assert trace.endswith(f"{kind}: it broke\n")
    assert "KeyError: 'missing'" in trace
    assert "in fail\n" in trace
    assert "a local variable" not in trace.replace('secret = "a local variable"', "")
    assert "stacktrace" not in repr(recorded.samples)


def test_an_exception_that_became_no_error_is_not_recorded(start: Start) -> None:
    recorded = start("flask")
    app = flask.Flask("app")
    app.register_error_handler(Broken, lambda error: ("no such thing", 404))
    app.add_url_rule("/", view_func=fail)
    with serving_wsgi(app) as url:
        assert requests.get(url, timeout=5).status_code == 404
        wait_until(lambda: len(recorded.server) == 1)
    assert "error_type" not in recorded.server[0]
    assert "exception" not in repr(recorded.spans)


def test_exceptions_are_not_recorded_when_a_setting_forbids_it(start: Start) -> None:
    recorded = start("flask", record_exceptions=False)
    with serving_wsgi(flask_errors()) as url:
        requests.get(url, timeout=5)
        wait_until(lambda: len(recorded.server) == 1)
    assert recorded.server[0]["error_type"].endswith("Broken")
    assert "exception." not in repr(recorded.spans)


def test_a_message_can_be_redacted(start: Start) -> None:
    recorded = start(
        "flask", redact=lambda pairs: {key: text for key, text in pairs.items() if key != "exception.message"}
    )
    with serving_wsgi(flask_errors()) as url:
        requests.get(url, timeout=5)
        wait_until(lambda: len(recorded.server) == 1)
    assert "exception.type" in recorded.spans[0]["attributes"]
    assert "exception.message" not in recorded.spans[0]["attributes"]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def recursive(depth: int) -> None:
    if depth == 0:
        raise ValueError("x" * 100_000 + "\0")
    recursive(depth - 1)


def test_what_is_recorded_of_an_exception_is_bounded(start: Start) -> None:
    recorded = start()
    for depth in (-1, 500):
        with pytest.raises(Exception) as raised:  # noqa: PT011
            if depth < 0:
                raise Unprintable
            recursive(depth)
        with vantage_agent.span("s"):
            vantage_agent.record_exception(raised.value)
    chained: BaseException | None = None
    for number in range(50):
        error = ValueError(str(number))
        error.__cause__ = chained
        chained = error
    assert chained is not None
    with vantage_agent.span("s"):
        vantage_agent.record_exception(chained)
        vantage_agent.record_exception("no exception")  # type: ignore[arg-type]
    vantage_agent.record_exception(chained)  # without a span
    unprintable, deep, last = (span["attributes"] for span in recorded.spans)
    assert {span["status"] for span in recorded.spans} == {"unset"}
    assert unprintable["exception.message"] == ""
    assert len(deep["exception.message"]) <= 1001
    assert all(len(each["exception.stacktrace"]) <= 2048 for each in (unprintable, deep, last))
    assert last["exception.stacktrace"].endswith("ValueError: 49\n")
    received = recorded.receiver.sent[0].received
    assert len(received.batch.spans) == 3  # the server takes them


def test_an_exception_of_a_client_is_not_written_down_with_what_it_repeats(start: Start) -> None:
    recorded = start("requests")
    with pytest.raises(requests.RequestException), vantage_agent.span("outer"):
        requests.get("http://127.0.0.1:9/secret-path", timeout=5)
    (client,) = [span for span in recorded.spans if span["kind"] == "client"]
    assert "exception.message" not in client["attributes"]
    assert current.get() is None


def test_a_request_in_one_thread_does_not_change_what_runs_in_another(start: Start) -> None:
    recorded = start()
    app = vantage_agent.instrument_wsgi(lambda environ, start_response: (start_response("200 OK", []), [b"x"])[1])
    results: list[Any] = []

    def call() -> None:
        with vantage_agent.span("outer") as outer:
            app({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)
            now = running()
            results.append(now is not None and now.span_id == outer.span_id)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4
    assert len(recorded.server) == 4
