"""Flask and WSGI: the spans of requests, and that responses do not change."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import flask
import pytest
import requests
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded
from tests.agent.instrumentation.servers import serving_wsgi
from vantage_agent._context import current
from vantage_agent._tracer import tracer

Start = Callable[..., Recorded]
TRACE, CALLER = "ab" * 16, "cd" * 8


@pytest.fixture
def app() -> flask.Flask:
    app = flask.Flask("shop", static_folder=None)
    app.testing = False
    shop = flask.Blueprint("shop", __name__, url_prefix="/shop")
    inner = flask.Blueprint("inner", __name__, url_prefix="/inner")

    @app.route("/users/<int:user_id>", methods=["GET", "POST"])
    def user(user_id: int) -> str:
        return f"user {user_id}"

    @app.get("/status/<int:status>")
    def status(status: int) -> tuple[str, int]:
        return "", status

    @app.get("/fails")
    def fails() -> str:
        raise ZeroDivisionError("mine")

    @app.get("/aborts")
    def aborts() -> str:
        flask.abort(503)

    @app.get("/handled")
    def handled() -> str:
        raise KeyError("x")

    @app.errorhandler(KeyError)
    def handler(error: KeyError) -> tuple[str, int]:
        return "", 409

    @app.get("/redirects")
    def redirects() -> Any:
        return flask.redirect("/users/1")

    @app.get("/calls")
    def calls() -> str:
        with vantage_agent.span("work"):
            return current.get().trace_id  # type: ignore[union-attr]

    @inner.get("/items/<name>")
    def item(name: str) -> str:
        return name

    shop.register_blueprint(inner)
    app.register_blueprint(shop)
    return app


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "status"),
    [
        ("GET", "/users/7", "/users/<int:user_id>", "200"),
        ("POST", "/users/7?q=secret", "/users/<int:user_id>", "200"),
        ("HEAD", "/users/7", "/users/<int:user_id>", "200"),
        ("DELETE", "/users/7", "unmatched", "405"),
        ("GET", "/secret/7", "unmatched", "404"),
        ("GET", "/shop/inner/items/secret", "/shop/inner/items/<name>", "200"),
        ("GET", "/redirects", "/redirects", "302"),
        ("GET", "/handled", "/handled", "409"),
        ("GET", "/status/404", "/status/<int:status>", "404"),
    ],
)
def test_a_request_is_named_by_its_rule(
    start: Start, app: flask.Flask, method: str, path: str, endpoint: str, status: str
) -> None:
    recorded = start("flask")
    app.test_client().open(path, method=method, buffered=True, headers={"X-Key": "secret"}, data=b"secret")
    assert recorded.server == [{"method": method, "endpoint": endpoint, "status": status}]
    (span,) = recorded.spans
    assert span["name"] == (method if endpoint == "unmatched" else f"{method} {endpoint}")
    assert (span["kind"], span["status"]) == ("server", "unset")
    assert "secret" not in recorded.text


@pytest.mark.parametrize(
    ("path", "status", "error_type"),
    [("/fails", "500", "ZeroDivisionError"), ("/aborts", "503", "503"), ("/status/502", "502", "502")],
)
def test_an_error_is_recorded_with_its_type(
    start: Start, app: flask.Flask, path: str, status: str, error_type: str
) -> None:
    recorded = start("flask")
    app.test_client().get(path, buffered=True)
    (tags,) = recorded.server
    assert (tags["status"], tags["error_type"]) == (status, error_type)
    assert recorded.spans[0]["status"] == "error"


def test_an_error_that_the_application_lets_through_is_its_own(start: Start, app: flask.Flask) -> None:
    recorded = start("flask")
    app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        app.test_client().get("/fails", buffered=True)
    assert caught.traceback[-1].name == "fails"
    assert recorded.server == [
        {"method": "GET", "endpoint": "/fails", "error": "true", "error_type": "ZeroDivisionError"}
    ]


def test_a_request_continues_the_trace_of_its_caller(start: Start, app: flask.Flask) -> None:
    recorded = start("flask", trace_sample_rate=0)
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "a=1"}
    for _ in range(2):  # the slowest of unsampled requests would be recorded
        assert app.test_client().get("/calls", headers=headers, buffered=True).text == TRACE
    server, work, *second = recorded.spans
    assert len(second) == 2
    assert (server["trace_id"], server["parent_span_id"]) == (TRACE, CALLER)
    assert (work["trace_id"], work["parent_span_id"]) == (TRACE, server["span_id"])


def test_a_trace_that_its_caller_did_not_sample_is_measured_but_not_recorded(start: Start, app: flask.Flask) -> None:
    recorded = start("flask", trace_sample_rate=1.0)
    # The slowest of each kind is recorded anyway: this is the second.
    for _ in range(2):
        app.test_client().get("/users/1", headers={"traceparent": f"00-{TRACE}-{CALLER}-00"}, buffered=True)
    assert len(recorded.server) == 2
    assert len(recorded.spans) == 1


@pytest.mark.parametrize(
    "header",
    ["", "nonsense", f"00-{'0' * 32}-{CALLER}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{CALLER}-01",
     f"00-{TRACE.upper()}-{CALLER}-01", f"00-{TRACE}-{CALLER}-01-more",
     f"00-{TRACE}-{CALLER}-01,00-{TRACE}-{CALLER}-01"],
)  # fmt: skip
def test_a_header_that_is_not_valid_begins_a_new_trace(start: Start, app: flask.Flask, header: str) -> None:
    recorded = start("flask")
    app.test_client().get("/users/1", headers={"traceparent": header}, buffered=True)
    (span,) = recorded.spans
    assert span["trace_id"] != TRACE
    assert "parent_span_id" not in span


def test_applications_below_a_dispatcher_are_named_by_their_own_rules(start: Start, app: flask.Flask) -> None:
    recorded = start("flask")
    with serving_wsgi(DispatcherMiddleware(app, {"/admin": app})) as url:
        requests.get(f"{url}/admin/users/7", timeout=5)
    assert [tags["endpoint"] for tags in recorded.server] == ["/admin/users/<int:user_id>"]


def test_a_streamed_answer_stays_lazy_and_is_measured_to_its_end(start: Start, app: flask.Flask) -> None:
    recorded = start("flask")
    go = threading.Event()

    @app.get("/streams")
    def streams() -> Any:
        def pieces() -> Iterator[bytes]:
            yield b"a"
            assert go.wait(5)
            with vantage_agent.span("second piece"):
                yield b"b"

        return flask.Response(pieces(), headers={"Content-Length": "2"})

    with serving_wsgi(app) as url, requests.get(f"{url}/streams", stream=True, timeout=5) as response:
        parts = response.iter_content(1)
        assert next(parts) == b"a"
        assert recorded.server == []
        go.set()
        assert list(parts) == [b"b"]
    assert len(recorded.server) == 1
    server, piece = recorded.spans
    assert (server["name"], piece["parent_span_id"]) == ("GET /streams", server["span_id"])


def test_an_answer_that_breaks_off_is_an_error(start: Start, app: flask.Flask) -> None:
    recorded = start("flask")

    @app.get("/breaks")
    def breaks() -> Any:
        def pieces() -> Iterator[bytes]:
            yield b"a"
            raise ZeroDivisionError

        return flask.Response(pieces())

    with pytest.raises(ZeroDivisionError):
        app.test_client().get("/breaks", buffered=True)
    assert recorded.server == [
        {"method": "GET", "endpoint": "/breaks", "status": "200", "error_type": "ZeroDivisionError", "error": "true"}
    ]


def test_a_file_wrapper_is_returned_unwrapped(start: Start, app: flask.Flask, tmp_path: Path) -> None:
    recorded = start("flask")
    (tmp_path / "file").write_bytes(b"content")
    app.add_url_rule("/file", view_func=lambda: flask.send_file(tmp_path / "file", mimetype="text/plain"))
    environ = {
        **_environ("/file"),
        "wsgi.file_wrapper": FileWrapper,
    }
    answer = app(environ, lambda *_: lambda _: None)
    assert type(answer) is FileWrapper
    answer.close()
    assert recorded.server[0]["endpoint"] == "/file"


def _environ(path: str, **more: Any) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET", "PATH_INFO": path, "SERVER_NAME": "x", "SERVER_PORT": "80", "HTTP_HOST": "x",
        "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(), **more,
    }  # fmt: skip


def test_faults_of_the_agent_do_not_reach_the_application(
    start: Start, app: flask.Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a fault of the agent's")

    start("flask")
    for method in ("begin", "end", "deactivate"):
        with monkeypatch.context() as patch:
            patch.setattr(tracer, method, broken)
            client = app.test_client()
            # A span that cannot be deactivated stays the current one of its context.
            assert copy_context().run(client.get, "/users/1").text == "user 1"
            assert copy_context().run(client.get, "/fails").status_code == 500


def test_the_end_of_the_agent_in_the_middle_of_a_request_harms_nothing(start: Start, app: flask.Flask) -> None:
    start("flask")

    @app.get("/ends")
    def ends() -> Any:
        def pieces() -> Iterator[bytes]:
            yield b"a"
            vantage_agent.shutdown()
            yield b"b"

        return flask.Response(pieces())

    assert app.test_client().get("/ends", buffered=True).data == b"ab"
    assert current.get() is None


class TestGenericWsgi:
    def test_a_request_is_recorded_without_an_endpoint(self, start: Start) -> None:
        recorded = start()

        def app(environ: Any, start_response: Any) -> list[bytes]:
            start_response("201 Created", [("Content-Length", "2")])
            return [b"ok"]

        with serving_wsgi(vantage_agent.instrument_wsgi(app)) as url:
            assert requests.put(f"{url}/secret?a=secret", timeout=5).status_code == 201
        assert recorded.server == [{"method": "PUT", "status": "201"}]
        assert recorded.spans[0]["name"] == "PUT"
        assert "secret" not in recorded.text

    def test_a_response_that_is_complete_is_returned_unwrapped(self, start: Start) -> None:
        start()

        class Sized:
            def __iter__(self) -> Iterator[bytes]:
                return iter([b"ok"])

            def __len__(self) -> int:
                return 1

        for answer in ([b"ok"], (b"ok",), Sized()):
            app = vantage_agent.instrument_wsgi(lambda environ, start_response, answer=answer: answer)
            assert app(_environ("/"), lambda *_: None) is answer

    def test_a_lazy_generator_stays_lazy_and_is_recorded_with_its_status(self, start: Start) -> None:
        recorded = start()
        steps: list[str] = []

        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            steps.append("begun")
            start_response("202 Accepted", [])
            yield b"a"
            steps.append("second")
            yield b"b"

        answer = iter(vantage_agent.instrument_wsgi(app)(_environ("/"), lambda *_: None))
        assert steps == []
        assert next(answer) == b"a"
        assert steps == ["begun"]
        assert list(answer) == [b"b"]
        assert recorded.server == [{"method": "GET", "status": "202"}]

    def test_an_answer_that_nobody_wants_is_closed(self, start: Start) -> None:
        recorded = start()
        closed: list[bool] = []

        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [])
            try:
                yield b"a"
                yield b"b"
            finally:
                closed.append(True)

        answer = vantage_agent.instrument_wsgi(app)(_environ("/"), lambda *_: None)
        next(iter(answer))
        answer.close()
        assert closed == [True]
        assert recorded.server == [{"method": "GET", "status": "200", "client_disconnected": "true"}]

    def test_an_error_is_the_applications_own(self, start: Start) -> None:
        recorded = start()
        error = ZeroDivisionError("mine")

        def app(environ: Any, start_response: Any) -> list[bytes]:
            raise error

        with pytest.raises(ZeroDivisionError) as caught:
            vantage_agent.instrument_wsgi(app)(_environ("/"), lambda *_: None)
        assert caught.value is error
        assert recorded.server == [{"method": "GET", "error": "true", "error_type": "ZeroDivisionError"}]
        assert current.get() is None

    def test_a_request_inside_two_wrappers_is_recorded_once(self, start: Start, app: flask.Flask) -> None:
        recorded = start("flask")
        app.wsgi_app = vantage_agent.instrument_wsgi(app.wsgi_app)  # type: ignore[method-assign]
        app.test_client().get("/users/7", buffered=True)
        assert len(recorded.server) == 1
        assert recorded.server[0]["endpoint"] == "/users/<int:user_id>"
