"""Instrumentations come and go without a trace, and take what the application imports and nothing else."""

from __future__ import annotations

import concurrent.futures
import functools
import importlib
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded
from tests.agent.instrumentation.servers import Upstream
from tests.agent.receiver import Receiver
from vantage_agent.instrumentation import MODULES

Start = Callable[..., Recorded]
HOME = str(Path(vantage_agent.__file__).parents[1])
WRAPPED = [
    ("requests.sessions", "Session", "send"),
    ("httpx", "Client", "send"),
    ("httpx", "AsyncClient", "send"),
    ("httpx", "HTTPTransport", "handle_request"),
    ("httpx", "AsyncHTTPTransport", "handle_async_request"),
    ("urllib3.connectionpool", "HTTPConnectionPool", "urlopen"),
    ("urllib3.poolmanager", "PoolManager", "urlopen"),
    ("aiohttp.client", "ClientSession", "_request"),
    ("aiohttp.client_reqrep", "ClientRequest", "send"),
    ("flask.app", "Flask", "wsgi_app"),
    ("flask.app", "Flask", "handle_exception"),
    ("fastapi.applications", "FastAPI", "__call__"),
    ("fastapi.routing", "APIRoute", "handle"),
    ("starlette.applications", "Starlette", "__call__"),
    ("starlette.routing", "Route", "handle"),
    ("starlette.routing", "Mount", "handle"),
    ("litestar.app", "Litestar", "__call__"),
    ("litestar.middleware._internal.exceptions.middleware", "ExceptionHandlerMiddleware", "handle_request_exception"),
    ("django.core.handlers.base", "BaseHandler", "resolve_request"),
    ("django.core.handlers.exception", "", "handle_uncaught_exception"),
    ("django.core.handlers.wsgi", "WSGIHandler", "__call__"),
    ("django.core.handlers.asgi", "ASGIHandler", "__call__"),
    ("sqlalchemy.engine.base", "Connection", "_execute_context"),
    ("sqlite3", "", "connect"),
    ("sqlite3.dbapi2", "", "connect"),
    ("django.db.backends.sqlite3.base", "SQLiteCursorWrapper", "execute"),
    ("django.db.backends.sqlite3.base", "SQLiteCursorWrapper", "executemany"),
    ("redis.client", "Redis", "execute_command"),
    ("redis.client", "Pipeline", "immediate_execute_command"),
    ("redis.client", "Pipeline", "execute"),
    ("redis.asyncio.client", "Redis", "execute_command"),
    ("redis.asyncio.client", "Pipeline", "immediate_execute_command"),
    ("redis.asyncio.client", "Pipeline", "execute"),
    ("psycopg", "Cursor", "execute"),
    ("psycopg", "Cursor", "executemany"),
    ("psycopg", "ServerCursor", "execute"),
    ("psycopg", "AsyncCursor", "execute"),
    ("psycopg", "AsyncCursor", "executemany"),
    ("psycopg", "AsyncServerCursor", "execute"),
    ("kombu.transport.redis", "Channel", "_get_pool"),
    ("celery.app.base", "Celery", "send_task"),
    ("celery.app.trace", "", "build_tracer"),
    ("celery.worker.consumer.consumer", "", "build_tracer"),
    ("celery.concurrency.prefork", "", "process_destructor"),
    ("logging", "Logger", "callHandlers"),
    ("concurrent.futures.thread", "ThreadPoolExecutor", "submit"),
]


def owner_of(module: str, owner: str) -> Any:
    """The class, or the module itself."""
    result = importlib.import_module(module)
    return getattr(result, owner) if owner else result


def installed_functions() -> dict[tuple[str, str, str], Any]:
    return {(module, owner, name): vars(owner_of(module, owner)).get(name) for module, owner, name in WRAPPED}


def test_everything_is_wrapped_once_and_put_back(start: Start) -> None:
    before = installed_functions()
    start("all")
    first = installed_functions()
    assert [key for key in before if first[key] is before[key]] == []
    vantage_agent.init_agent("again", auto_instrument="all")
    assert installed_functions() == first
    assert [getattr(wrapper, "__wrapped__", None) for wrapper in first.values()] == list(before.values())
    vantage_agent.shutdown()
    after = installed_functions()
    assert [key for key in before if after[key] is not before[key]] == []


def test_nothing_else_of_the_libraries_changes(start: Start) -> None:
    def attributes() -> dict[tuple[str, str], Any]:
        owners = [owner_of(module, owner) for module, owner, _ in WRAPPED]
        return {(str(owner), name): value for owner in owners for name, value in vars(owner).items()}

    before = attributes()
    start("all")
    vantage_agent.shutdown()
    after = attributes()
    assert after.keys() == before.keys()
    assert [key for key in before if before[key] is not after[key]] == []


@pytest.mark.parametrize("wraps", [functools.wraps, lambda _: lambda wrapper: wrapper], ids=["marked", "unmarked"])
def test_who_wraps_on_top_stays_and_works(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, receiver: Receiver, wraps: Any
) -> None:
    import requests

    monkeypatch.setattr(requests.Session, "send", requests.Session.send)  # put back after the test
    start("requests")
    ours, seen = requests.Session.send, []

    @wraps(ours)
    def expected(self: Any, request: Any, **kwargs: Any) -> Any:
        seen.append(request.url)
        return ours(self, request, **kwargs)

    requests.Session.send = expected  # type: ignore[method-assign]
    requests.get(upstream.url, timeout=5)
    vantage_agent.shutdown()
    assert requests.Session.send is expected
    requests.get(upstream.url, timeout=5)
    assert (len(seen), upstream.traceparents[1]) == (2, "")
    recorded = start("requests")
    requests.get(upstream.url, timeout=5)
    assert len(seen) == 3
    assert len(recorded.client) == 2  # one of the first agent, one of the second


def python(code: str, receiver: Receiver) -> str:
    environ = {**os.environ, "PYTHONPATH": HOME, "VANTAGE_AGENT_COLLECTOR_URL": receiver.url}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environ, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_all_imports_nothing_that_the_application_does_not(receiver: Receiver) -> None:
    code = """
        import sys, vantage_agent as v
        v.init_agent("s", auto_instrument="all")
        print(*{name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - {"__main__"})
    """
    loaded = set(python(code, receiver).split())
    assert "vantage_agent" in loaded
    assert not loaded & ({*MODULES} - {"logging", "sqlite3"})
    assert not loaded & {"werkzeug", "urllib3", "django", "sqlalchemy", "aiohttp"}


@pytest.mark.parametrize("first", ["import {0}", "v.init_agent('s', auto_instrument='{1}')"])
@pytest.mark.parametrize(
    ("module", "name", "wrapped"),
    [
        ("requests", "requests", "requests.Session.send"),
        ("httpx", "httpx", "httpx.AsyncClient.send"),
        ("urllib3", "urllib3", "urllib3.HTTPConnectionPool.urlopen"),
        ("aiohttp", "aiohttp", "aiohttp.ClientSession._request"),
        ("flask", "flask", "flask.Flask.wsgi_app"),
        ("fastapi", "fastapi", "fastapi.FastAPI.__call__"),
        ("starlette.applications", "starlette", "starlette.applications.Starlette.__call__"),
        ("litestar", "litestar", "litestar.Litestar.__call__"),
        ("django.core.handlers.wsgi", "django", "django.core.handlers.wsgi.WSGIHandler.__call__"),
        ("sqlalchemy", "sqlalchemy", "sqlalchemy.engine.Connection._execute_context"),
        ("sqlite3", "sqlite3", "sqlite3.connect"),
        ("sqlite3.dbapi2", "sqlite3", "sqlite3.dbapi2.connect"),
        ("redis", "redis", "redis.asyncio.Redis.execute_command"),
        ("psycopg", "psycopg", "psycopg.Cursor.execute"),
        ("celery.worker.consumer.consumer", "celery", "celery.worker.consumer.consumer.build_tracer"),
        ("concurrent.futures.thread", "requests", "concurrent.futures.ThreadPoolExecutor.submit"),
    ],
)
def test_a_library_is_instrumented_whichever_comes_first(
    receiver: Receiver, first: str, module: str, name: str, wrapped: str
) -> None:
    code = f"""
        import vantage_agent as v
        {first.format(module, name)}
        v.init_agent("s", auto_instrument="{name}")
        import {module}
        during = hasattr({wrapped}, "__wrapped__")
        v.shutdown()
        print(during, hasattr({wrapped}, "__vantage_agent__"))
    """
    assert python(code, receiver) == "True False\n"


def test_an_import_that_fails_fails_as_it_does_without_an_agent(tmp_path: Path, receiver: Receiver) -> None:
    (tmp_path / "flask").mkdir()
    (tmp_path / "flask" / "__init__.py").write_text("")
    (tmp_path / "flask" / "app.py").write_text("1 / 0\n")
    code = f"""
        import sys, vantage_agent as v
        sys.path.insert(0, {str(tmp_path)!r})
        v.init_agent("s", auto_instrument="all")
        for _ in range(2):
            try:
                import flask.app
            except ZeroDivisionError as error:
                print(error.__traceback__.tb_frame.f_code.co_name, "flask.app" in sys.modules)
    """
    assert python(code, receiver) == "<module> False\n" * 2


class TestLogging:
    def test_records_are_counted_by_level(self, start: Start) -> None:
        recorded = start("logging")
        log = logging.getLogger("tests.counted")
        log.setLevel("INFO")
        log.debug("not enabled")
        for _ in range(3):
            log.info("secret %s", "secret")
        log.error("secret")
        logging.getLogger("vantage_agent").error("its own")
        counted = {tags["level"]: value for name, tags, value in recorded.samples if name == "log.records"}
        assert counted == {"INFO": 3, "ERROR": 1}
        assert "secret" not in recorded.text

    def test_filtered_records_are_not_counted(self, start: Start) -> None:
        recorded = start("logging")
        log = logging.getLogger("tests.filtered")
        log.addFilter(lambda record: record.levelno > logging.WARNING)
        log.warning("no")
        log.error("yes")
        assert recorded.tags("log.records") == [{"level": "ERROR"}]

    def test_records_inside_a_span_know_their_trace(self, start: Start, caplog: pytest.LogCaptureFixture) -> None:
        recorded = start("logging")
        log = logging.getLogger("tests.traced")
        with vantage_agent.span("work") as span:
            trace_id, span_id = span.trace_id, span.span_id
            log.error("inside")
            log.error("its own", extra={"trace_id": "mine"})
        log.error("outside")
        inside, own, outside = caplog.records
        assert (inside.trace_id, inside.span_id) == (trace_id, span_id)  # type: ignore[attr-defined]
        assert own.trace_id == "mine"  # type: ignore[attr-defined]
        assert not hasattr(outside, "trace_id")
        assert trace_id in recorded.text

    def test_errors_of_handlers_are_the_applications_own(self, start: Start) -> None:
        start("logging")

        class Failing(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise ZeroDivisionError

        log = logging.getLogger("tests.failing")
        handler = Failing()
        log.addHandler(handler)
        try:
            with pytest.raises(ZeroDivisionError):
                log.error("x")
        finally:
            log.removeHandler(handler)


class TestThreads:
    def test_work_of_an_executor_belongs_to_the_span_that_submitted_it(self, start: Start) -> None:
        recorded = start("requests")
        context_var = __import__("contextvars").ContextVar("mine", default="unset")

        def work(number: int, *, fn: str) -> tuple[int, str, str]:
            with vantage_agent.span("inner"):
                return number, fn, context_var.get()

        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            with vantage_agent.span("outer") as outer:
                span_id = outer.span_id
                context_var.set("set")
                assert executor.submit(work, 1, fn="f").result() == (1, "f", "unset")  # its own variables stay behind
                assert list(executor.map(lambda number: work(number, fn="m"), [2])) == [(2, "m", "unset")]
            executor.submit(work, 3, fn="").result()  # the thread has no span any more
        inner = [span for span in recorded.spans if span["name"] == "inner"]
        assert [span.get("parent_span_id") for span in inner] == [span_id, span_id, None]

    async def test_threads_of_asyncio_belong_to_the_span_that_started_them(self, start: Start) -> None:
        import asyncio

        recorded = start("requests")

        def work() -> None:
            with vantage_agent.span("inner"):
                pass

        async def task() -> None:
            work()

        with vantage_agent.span("outer") as outer:
            span_id = outer.span_id
            await asyncio.to_thread(work)
            await asyncio.get_running_loop().run_in_executor(None, work)
            await asyncio.create_task(task())
        spans = await asyncio.to_thread(lambda: recorded.spans)
        assert [span["parent_span_id"] for span in spans if span["name"] == "inner"] == [span_id] * 3

    def test_an_error_in_a_thread_is_the_same_error(self, start: Start) -> None:
        start("requests")
        error = ZeroDivisionError("mine")

        def work() -> None:
            raise error

        with concurrent.futures.ThreadPoolExecutor(1) as executor, vantage_agent.span("outer"):
            assert executor.submit(work).exception() is error
