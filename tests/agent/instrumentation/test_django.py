"""Django under WSGI and ASGI: the spans of requests, and that responses do not change."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import aiohttp
import django
import httpx
import pytest
import requests
import urllib3
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.test import Client, override_settings
from django.urls import include, path, re_path
from django.utils.decorators import sync_only_middleware
from starlette.applications import Starlette
from starlette.routing import Mount
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded
from tests.agent.instrumentation.servers import Upstream, serving_asgi, serving_wsgi
from vantage_agent._context import current
from vantage_agent._tracer import tracer

Start = Callable[..., Recorded]
Serve = Callable[[], AbstractContextManager[str]]
TRACE, CALLER = "ab" * 16, "cd" * 8
HERE = f"{__name__}."

settings.configure(
    ROOT_URLCONF=__name__, SECRET_KEY="secret", ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None, DATABASES={}, MIDDLEWARE=[]
)
django.setup()


def user(request: HttpRequest, **_: Any) -> HttpResponse:
    with vantage_agent.span("work"):
        return HttpResponse(current.get().trace_id)  # type: ignore[union-attr]


async def async_user(request: HttpRequest, **_: Any) -> HttpResponse:
    return user(request)


def fails(request: HttpRequest) -> HttpResponse:
    with vantage_agent.span("inside"):
        raise ZeroDivisionError("mine")


async def async_fails(request: HttpRequest) -> HttpResponse:
    return fails(request)


def asks(request: HttpRequest) -> HttpResponse:
    with urllib3.PoolManager() as manager:
        return HttpResponse(manager.request("GET", steps.url).data)


async def async_asks(request: HttpRequest) -> HttpResponse:
    async with aiohttp.ClientSession() as session, session.get(steps.url) as response:
        return HttpResponse(await response.read())


def unavailable(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=503)


def forbidden(request: HttpRequest) -> HttpResponse:
    raise PermissionDenied


def missing(request: HttpRequest, **_: Any) -> HttpResponse:
    raise Http404


def redirects(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect("/users/1")


def file(request: HttpRequest) -> FileResponse:
    return FileResponse(Path(__file__).open("rb"), content_type="text/plain")


class Steps:
    """Events and callbacks of streamed responses, and the server that views call."""

    def __init__(self) -> None:
        self.url = ""
        self.go = threading.Event()
        self.between: Callable[[], Any] = lambda: None


steps = Steps()


def streams(request: HttpRequest) -> StreamingHttpResponse:
    def pieces() -> Iterator[bytes]:
        yield b"a"
        assert steps.go.wait(5)
        steps.between()
        with vantage_agent.span("second piece"):
            yield b"b"

    async def async_pieces() -> AsyncIterator[bytes]:
        yield b"a"
        assert await asyncio.to_thread(steps.go.wait, 5)
        await asyncio.to_thread(steps.between)
        with vantage_agent.span("second piece"):
            yield b"b"

    return StreamingHttpResponse(pieces() if hasattr(request, "environ") else async_pieces())


below = [
    path("items/<slug:name>/", user),
    re_path(r"^years/(?P<year>[0-9]{4})/$", user),
]
urlpatterns = [
    path("", user),
    path("users/<int:user_id>", user),
    path("async/<int:user_id>", async_user),
    path("fails", fails),
    path("async-fails", async_fails),
    path("asks", asks),
    path("async-asks", async_asks),
    path("unavailable", unavailable),
    path("forbidden", forbidden),
    path("missing/<int:number>", missing),
    path("redirects", redirects),
    path("streams", streams),
    path("file", file),
    path("shop/<slug:shop>/", include(below)),
    re_path(r"^old/(?P<page>\w+)$", user),
]


@sync_only_middleware
def plain_middleware(get_response: Any) -> Any:
    def middleware(request: HttpRequest) -> HttpResponse:
        with vantage_agent.span("around"):
            response: HttpResponse = get_response(request)
            return response

    return middleware


@sync_only_middleware
def failing_middleware(get_response: Any) -> Any:
    def middleware(request: HttpRequest) -> HttpResponse:
        get_response(request)
        raise LookupError

    return middleware


@sync_only_middleware
def refusing_middleware(get_response: Any) -> Any:
    def middleware(request: HttpRequest) -> HttpResponse:
        raise LookupError

    return middleware


@sync_only_middleware
def answering_middleware(get_response: Any) -> Any:
    return lambda request: HttpResponse(status=401)


class HandlesErrors:
    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response: HttpResponse = self.get_response(request)
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse:
        return HttpResponse(status=409)


def wsgi() -> AbstractContextManager[str]:
    return serving_wsgi(WSGIHandler())


def asgi() -> AbstractContextManager[str]:
    return serving_asgi(ASGIHandler())


@pytest.fixture(params=[wsgi, asgi])
def serve(request: pytest.FixtureRequest) -> Serve:
    result: Serve = request.param
    return result


@pytest.fixture(autouse=True)
def fresh_steps() -> None:
    steps.__init__()


@pytest.mark.parametrize(
    ("method", "requested", "endpoint", "status"),
    [
        ("GET", "/", "/", "200"),
        ("POST", "/users/7?q=secret", "/users/<int:user_id>", "200"),
        ("HEAD", "/users/7", "/users/<int:user_id>", "200"),
        ("GET", "/async/7", "/async/<int:user_id>", "200"),
        ("GET", "/secret/7", "unmatched", "404"),
        ("GET", "/missing/7", "/missing/<int:number>", "404"),
        ("GET", "/forbidden", "/forbidden", "403"),
        ("GET", "/redirects", "/redirects", "302"),
        ("GET", "/shop/secret/items/secret/", "/shop/<slug:shop>/items/<slug:name>/", "200"),
        ("GET", "/shop/secret/years/2024/", "/shop/<slug:shop>/years/(?P<year>[0-9]{4})/$", "200"),
        ("GET", "/old/secret", r"/old/(?P<page>\w+)$", "200"),
    ],
)
def test_a_request_is_named_by_its_route(
    start: Start, serve: Serve, method: str, requested: str, endpoint: str, status: str
) -> None:
    recorded = start("django")
    with serve() as url:
        requests.request(
            method, url + requested, headers={"X-Key": "secret"}, data=b"secret", allow_redirects=False, timeout=5
        )
    assert recorded.server == [{"method": method, "endpoint": endpoint, "status": status}]
    span = next(span for span in recorded.spans if span["kind"] == "server")
    assert span["name"] == (method if endpoint == "unmatched" else f"{method} {endpoint}")
    assert span["status"] == "unset"
    assert "secret" not in recorded.text


@pytest.mark.parametrize(
    ("requested", "status", "error_type"),
    [
        ("/fails", "500", "ZeroDivisionError"),
        ("/async-fails", "500", "ZeroDivisionError"),
        ("/unavailable", "503", "503"),
    ],
)
def test_an_error_is_recorded_with_its_type(
    start: Start, serve: Serve, requested: str, status: str, error_type: str
) -> None:
    recorded = start("django")
    with serve() as url:
        assert requests.get(url + requested, timeout=5).status_code == int(status)
    assert recorded.server == [{"method": "GET", "endpoint": requested, "status": status, "error_type": error_type}]
    assert recorded.spans[0]["status"] == "error"


@pytest.mark.parametrize(
    ("middleware", "requested", "expected"),
    [
        ("plain_middleware", "/fails", ("/fails", "500", "ZeroDivisionError")),
        ("failing_middleware", "/users/7", ("/users/<int:user_id>", "500", "LookupError")),
        ("answering_middleware", "/users/7", ("unmatched", "401", None)),
        ("HandlesErrors", "/fails", ("/fails", "409", None)),
    ],
)
def test_the_response_of_middleware_is_recorded(
    start: Start, serve: Serve, middleware: str, requested: str, expected: tuple[str | None, ...]
) -> None:
    recorded = start("django")
    with override_settings(MIDDLEWARE=[HERE + middleware]), serve() as url:
        requests.get(url + requested, timeout=5)
    (tags,) = recorded.server
    assert (tags["endpoint"], tags["status"], tags.get("error_type")) == expected


@pytest.mark.parametrize(
    ("middleware", "expected"),
    [([], ("/fails", "ZeroDivisionError")), (["refusing_middleware"], ("unmatched", "LookupError"))],
)
def test_an_error_that_the_application_lets_through_is_its_own(
    start: Start, middleware: list[str], expected: tuple[str, str]
) -> None:
    recorded = start("django")
    names = [HERE + name for name in middleware]
    with (
        override_settings(DEBUG_PROPAGATE_EXCEPTIONS=True, MIDDLEWARE=names),
        pytest.raises((ZeroDivisionError, LookupError)) as caught,
    ):
        WSGIHandler()(environ("/fails"), lambda *_: None)
    assert caught.traceback[-1].name == ("middleware" if middleware else "fails")
    assert recorded.server == [{"method": "GET", "endpoint": expected[0], "error": "true", "error_type": expected[1]}]
    assert current.get() is None


def environ(requested: str, **more: Any) -> dict[str, Any]:
    result: dict[str, Any] = Client()._base_environ(PATH_INFO=requested, **more)
    return result


@pytest.mark.parametrize("middleware", [[], ["plain_middleware"]])
def test_a_request_continues_the_trace_of_its_caller(start: Start, serve: Serve, middleware: list[str]) -> None:
    recorded = start("django", trace_sample_rate=0)
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    with override_settings(MIDDLEWARE=[HERE + name for name in middleware]), serve() as url:
        for path in ("/users/7", "/async/7"):
            assert requests.get(url + path, headers=headers, timeout=5).text == TRACE
    spans = recorded.spans
    servers = [span for span in spans if span["kind"] == "server"]
    assert [span["parent_span_id"] for span in servers] == [CALLER] * 2
    by_id = {span["span_id"]: span["name"] for span in spans}
    parents = [by_id[span["parent_span_id"]] for span in spans if span["name"] == "work"]
    assert parents == (["around"] * 2 if middleware else [span["name"] for span in servers])


@pytest.mark.parametrize("middleware", [[], ["plain_middleware"]])
def test_calls_of_a_view_are_a_part_of_its_request(
    start: Start, serve: Serve, upstream: Upstream, middleware: list[str]
) -> None:
    recorded = start("django", "urllib3", "aiohttp")
    steps.url = upstream.url
    session = httpx.Client(trust_env=False)  # which is not instrumented
    with session, override_settings(MIDDLEWARE=[HERE + name for name in middleware]), serve() as url:
        for path in ("/asks", "/async-asks"):
            assert session.get(url + path).text == "ok"
    spans = {span["span_id"]: span for span in recorded.spans}
    chains = [chain(spans, text[36:52]) for text in upstream.traceparents]
    expected = ["GET 127.0.0.1", *(["around"] if middleware else [])]
    assert chains == [[*expected, "GET /asks"], [*expected, "GET /async-asks"]]


def chain(spans: dict[str, dict[str, Any]], span_id: str | None) -> list[str]:
    """Names from a span up to its root."""
    names = []
    while span_id is not None:
        names.append(spans[span_id]["name"])
        span_id = spans[span_id].get("parent_span_id")
    return names


def test_a_streamed_answer_stays_lazy_and_is_measured_to_its_end(start: Start, serve: Serve) -> None:
    recorded = start("django")
    with serve() as url, requests.get(f"{url}/streams", stream=True, timeout=5) as response:
        parts = response.iter_content(1)
        assert next(parts) == b"a"
        assert recorded.server == []
        steps.go.set()
        assert list(parts) == [b"b"]
    assert [tags["endpoint"] for tags in recorded.server] == ["/streams"]
    server, piece = recorded.spans
    assert piece["parent_span_id"] == server["span_id"]


@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")  # Django does not close the request's body
def test_an_answer_that_breaks_off_is_an_error(start: Start, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = start("django")
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "disabled", True)  # its record would keep that body
    steps.go.set()

    def breaks() -> None:
        raise ZeroDivisionError

    steps.between = breaks
    with serve() as url, suppress(requests.RequestException):
        requests.get(f"{url}/streams", timeout=5)
    gc.collect()
    (tags,) = recorded.server
    assert (tags["status"], tags["error"], tags["error_type"]) == ("200", "true", "ZeroDivisionError")


def test_a_complete_response_is_returned_unwrapped(start: Start) -> None:
    recorded = start("django")
    answer = WSGIHandler()(environ("/users/7"), lambda *_: None)
    assert type(answer) is HttpResponse
    assert len(recorded.server) == 1
    answer.close()
    answer = WSGIHandler()(environ("/file", **{"wsgi.file_wrapper": FileWrapper}), lambda *_: None)
    assert type(answer) is FileWrapper
    answer.close()
    assert [tags["endpoint"] for tags in recorded.server] == ["/users/<int:user_id>", "/file"]


def test_mounted_applications_are_named_by_their_own_routes(start: Start) -> None:
    recorded = start("django", "starlette")
    with serving_wsgi(DispatcherMiddleware(WSGIHandler(), {"/admin": WSGIHandler()})) as url:
        requests.get(f"{url}/admin/users/7", timeout=5)
    with serving_asgi(Starlette(routes=[Mount("/tenants/{tenant}", app=ASGIHandler())])) as url:
        requests.get(f"{url}/tenants/secret/users/7", timeout=5)
    assert [tags["endpoint"] for tags in recorded.server] == [
        "/admin/users/<int:user_id>",
        "/tenants/{tenant}/users/<int:user_id>",
    ]


def test_a_request_inside_two_wrappers_is_recorded_once(start: Start) -> None:
    recorded = start("django")
    with serving_wsgi(vantage_agent.instrument_wsgi(WSGIHandler())) as url:
        requests.get(f"{url}/users/7", timeout=5)
    with serving_asgi(vantage_agent.instrument_asgi(ASGIHandler())) as url:
        requests.get(f"{url}/users/7", timeout=5)
    assert [tags["endpoint"] for tags in recorded.server] == ["/users/<int:user_id>"] * 2


def test_the_test_client_is_not_instrumented(start: Start) -> None:
    recorded = start("django")
    client = Client(raise_request_exception=False)
    assert client.get("/redirects").status_code == 302
    assert client.get("/fails").status_code == 500
    assert recorded.server == []


def test_faults_of_the_agent_do_not_reach_the_application(
    start: Start, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a fault of the agent's")

    start("django")
    places: list[tuple[Any, str]] = [(tracer, name) for name in ("begin", "end", "deactivate")]
    with serve() as url:
        for index in [*places, (sys.modules["vantage_agent.instrumentation.django"], "_span_of")]:
            with monkeypatch.context() as patch:
                patch.setattr(*index, broken)
                assert requests.get(f"{url}/missing/7", timeout=5).status_code == 404
                assert "Server Error (500)" in requests.get(f"{url}/fails", timeout=5).text  # Django's own page


def test_the_end_of_the_agent_in_the_middle_of_a_request_harms_nothing(start: Start, serve: Serve) -> None:
    start("django")
    steps.go.set()
    steps.between = vantage_agent.shutdown
    with serve() as url:
        for _ in range(2):
            assert requests.get(f"{url}/streams", timeout=5).content == b"ab"
