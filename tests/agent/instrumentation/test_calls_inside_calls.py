"""A call inside a call: the same one only if it sends the same request to the same peer."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
import requests
import sqlalchemy
import sqlalchemy.event
import urllib3

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded
from tests.agent.instrumentation.servers import Upstream, upstream_server

Start = Callable[..., Recorded]
Ways = dict[str, Callable[[str, str], Any]]  # the server that is called, and the other


@pytest.fixture
def other() -> Iterator[Upstream]:
    with upstream_server() as server:
        yield server


def httpx_authentication(api: str, other: str) -> None:
    class Login(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Any:
            request.headers["Authorization"] = httpx.post(f"{other}/token", trust_env=False).text
            yield request

    httpx.get(api, auth=Login(), trust_env=False)


def httpx_same_host(api: str, _other: str) -> None:
    class Login(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Any:
            httpx.get(f"{api}/token", trust_env=False)
            yield request

    httpx.get(api, auth=Login(), trust_env=False)


def httpx_hook(api: str, other: str) -> None:
    with httpx.Client(
        trust_env=False, event_hooks={"response": [lambda _: httpx.get(other, trust_env=False)]}
    ) as client:
        client.get(api)


def httpx2_authentication(api: str, other: str) -> None:
    class Login(httpx2.Auth):
        def auth_flow(self, request: httpx2.Request) -> Any:
            request.headers["Authorization"] = httpx2.post(f"{other}/token", trust_env=False).text
            yield request

    httpx2.get(api, auth=Login(), trust_env=False)


def httpx_in_another_library(api: str, other: str) -> None:
    with httpx.Client(trust_env=False, event_hooks={"request": [lambda _: requests.get(other, timeout=5)]}) as client:
        client.get(api)


def httpx_async(api: str, other: str) -> None:
    async def audit(_: Any) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(other)

    async def ask() -> None:
        async with httpx.AsyncClient(trust_env=False, event_hooks={"response": [audit]}) as client:
            await client.get(api)

    asyncio.run(ask())


def requests_hook(api: str, other: str) -> None:
    requests.get(api, hooks={"response": lambda *_, **__: requests.get(other, timeout=5) and None}, timeout=5)


class Asking(requests.adapters.HTTPAdapter):
    """Asks another server where to go."""

    def __init__(self, other: str) -> None:
        super().__init__()
        self.other = other

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        requests.get(self.other, timeout=5)
        return super().send(request, *args, **kwargs)


def requests_adapter(api: str, other: str) -> None:
    with requests.Session() as session:
        session.mount(api, Asking(other))
        session.get(api, timeout=5)


def requests_by_urllib3(api: str, other: str) -> None:
    def hook(*_: Any, **__: Any) -> None:
        with urllib3.PoolManager() as manager:
            manager.request("GET", other)

    requests.get(api, hooks={"response": hook}, timeout=5)


def aiohttp_middleware(api: str, other: str) -> None:
    async def middleware(request: Any, handler: Any) -> Any:
        async with aiohttp.ClientSession() as session, session.get(other):
            return await handler(request)

    async def ask() -> None:
        async with aiohttp.ClientSession(middlewares=(middleware,)) as session, session.get(api):
            pass

    asyncio.run(ask())


SEPARATE: Ways = {
    "httpx, authentication": httpx_authentication,
    "httpx, hook": httpx_hook,
    "httpx, async hook": httpx_async,
    "httpx, hook by requests": httpx_in_another_library,
    "httpx2, authentication": httpx2_authentication,
    "requests, hook": requests_hook,
    "requests, adapter": requests_adapter,
    "requests, hook by urllib3": requests_by_urllib3,
    "aiohttp, middleware": aiohttp_middleware,
}


@pytest.mark.parametrize("way", SEPARATE)
def test_a_call_to_another_server_is_one_of_its_own(
    start: Start, upstream: Upstream, other: Upstream, way: str
) -> None:
    recorded = start("all")
    with vantage_agent.span("outer") as outer:
        trace_id = outer.trace_id
        SEPARATE[way](upstream.url, other.url)
    assert sorted(tags["peer"] for tags in recorded.client) == sorted((upstream.address, other.address))
    headers = [*upstream.traceparents, *other.traceparents]
    assert [text.split("-")[1] for text in headers] == [trace_id] * 2
    assert {text.split("-")[2] for text in headers} == {
        span["span_id"] for span in recorded.spans if span["kind"] == "client"
    }


def test_a_call_of_the_same_library_to_the_same_server_is_one_of_its_own(start: Start, upstream: Upstream) -> None:
    recorded = start("httpx")
    httpx_same_host(upstream.url, "")
    assert len(recorded.client) == 2


def requests_redirect(api: str, other: str) -> None:
    with requests.Session() as session:
        session.get(f"{api}/redirect", timeout=5)


def requests_with_header(api: str, _other: str) -> None:
    requests.get(f"{api}/redirect", headers={"Traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}, timeout=5)


def urllib3_with_header(api: str, _other: str) -> None:
    with urllib3.PoolManager() as manager:
        manager.request("GET", f"{api}/redirect", headers={"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})


def requests_rewriting(api: str, _other: str) -> None:
    class Rewriting(requests.adapters.HTTPAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            request.url = request.url.replace("http://service", api)
            return super().send(request, *args, **kwargs)

    with requests.Session() as session:
        session.mount("http://service", Rewriting())
        session.get("http://service/", timeout=5)


SAME: Ways = {
    "requests, redirect": requests_redirect,
    "requests, header of its own": requests_with_header,
    "urllib3, header of its own": urllib3_with_header,
    "requests, adapter that rewrites": requests_rewriting,
}


@pytest.mark.parametrize("way", SAME)
def test_what_sends_the_same_request_is_the_same_call(start: Start, upstream: Upstream, way: str) -> None:
    recorded = start("all")
    SAME[way](upstream.url, "")
    assert len(recorded.client) == 1


def test_a_redirect_to_another_server_is_the_same_call(start: Start, upstream: Upstream, other: Upstream) -> None:
    recorded = start("all")

    class Elsewhere(requests.Session):
        def get_redirect_target(self, resp: Any) -> Any:
            target = super().get_redirect_target(resp)
            return f"{other.url}{target}" if target else None

    with Elsewhere() as session:
        assert session.get(f"{upstream.url}/redirect", timeout=5).status_code == 200
    assert [tags["peer"] for tags in recorded.client] == [upstream.address]
    assert len(other.requests) == 1


# Databases


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/main.db")
    yield engine
    engine.dispose()


def test_a_listener_that_asks_another_database_is_recorded(
    start: Start, engine: sqlalchemy.Engine, tmp_path: Path
) -> None:
    recorded = start("sqlalchemy", "sqlite3")

    @sqlalchemy.event.listens_for(engine, "before_cursor_execute")
    def audit(*_: Any) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "audit.db")) as connection:
            connection.execute("SELECT 1")

    with engine.connect() as connection:
        recorded.clear()
        connection.execute(sqlalchemy.text("SELECT 1"))
    namespaces = [span["attributes"]["db.namespace"] for span in recorded.spans]
    assert sorted(namespaces) == ["audit.db", "main.db"]


def test_a_listener_that_asks_the_same_database_something_else_is_recorded(
    start: Start, engine: sqlalchemy.Engine
) -> None:
    recorded = start("sqlalchemy", "sqlite3")

    @sqlalchemy.event.listens_for(engine, "before_cursor_execute")
    def audit(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "sqlite_master" not in statement:
            connection.execute(sqlalchemy.text("SELECT name FROM sqlite_master"))

    with engine.connect() as connection:
        recorded.clear()
        connection.execute(sqlalchemy.text("SELECT 1"))
    assert sorted(span["name"] for span in recorded.spans) == ["SELECT", "SELECT sqlite_master"]


def test_many_rows_that_a_library_sends_in_portions_are_one_statement(start: Start, engine: sqlalchemy.Engine) -> None:
    recorded = start("sqlalchemy", "sqlite3")
    table = sqlalchemy.Table(
        "things", sqlalchemy.MetaData(), sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True)
    )
    with engine.begin() as connection:
        table.metadata.create_all(connection)
        recorded.clear()
        rows = [{"id": number} for number in range(3000)]
        returned = connection.execute(table.insert().returning(table.c.id), rows).all()
        assert len(returned) == 3000
    assert [span["name"] for span in recorded.spans] == ["INSERT things"]
