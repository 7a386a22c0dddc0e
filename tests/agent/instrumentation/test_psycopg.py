"""psycopg: the cursors and statements that it alone has."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded

Start = Callable[..., Recorded]
ASK = "SELECT generate_series(1, 1000000000)"


@pytest.fixture
def url(postgres: int) -> str:
    return f"postgresql://vantage@127.0.0.1:{postgres}/postgres"


@pytest.fixture
def connection(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, autocommit=True) as opened:
        opened.execute("CREATE TEMPORARY TABLE things (a INTEGER PRIMARY KEY, b TEXT)")
        yield opened


def names(recorded: Recorded) -> list[str]:
    return [span["name"] for span in recorded.spans]


@pytest.mark.parametrize("kind", [psycopg.Cursor, psycopg.ClientCursor, psycopg.RawCursor])
def test_each_kind_of_cursor_is_recorded(start: Start, connection: psycopg.Connection, kind: Any) -> None:
    recorded = start("psycopg")
    cursor = kind(connection)
    assert cursor.execute("SELECT a FROM things") is cursor
    assert cursor.execute(query="SELECT b FROM things").fetchall() == []
    assert names(recorded) == ["SELECT things"] * 2


def test_a_cursor_of_the_servers_side_stays_lazy(start: Start, connection: psycopg.Connection) -> None:
    recorded = start("psycopg")
    with connection.transaction(), connection.cursor("secret") as cursor:
        # To completion it would take minutes.
        assert next(iter(cursor.execute(ASK))) == (1,)
    assert names(recorded) == ["SELECT"]
    assert "secret" not in recorded.text


async def test_an_async_cursor_of_the_servers_side_stays_lazy(start: Start, url: str) -> None:
    recorded = start("psycopg")
    async with await psycopg.AsyncConnection.connect(url) as connection, connection.cursor("secret") as cursor:
        await cursor.execute(ASK)
        assert await cursor.fetchone() == (1,)
    assert await asyncio.to_thread(names, recorded) == ["SELECT"]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        (b"SELECT a FROM things", "SELECT things"),
        (sql.SQL("SELECT a FROM things"), "SELECT things"),
        (sql.SQL("SELECT {} FROM {}").format(sql.Identifier("a"), sql.Identifier("things")), "SELECT things"),
        (sql.SQL("SELECT {} FROM {}").format(1, sql.Identifier("pg_temp", "things")), "SELECT pg_temp.things"),
        (sql.SQL("SELECT 'secret', {} AS secret FROM things").format("secret"), "SELECT"),
        (sql.SQL("SELECT {} FROM things").format(sql.Literal("FROM secret ")), "SELECT things"),
        (sql.SQL("CREATE TEMPORARY TABLE {} (a INTEGER)").format(sql.Identifier("secret of mine")), "CREATE"),
        (sql.Composed([sql.SQL("SELECT"), sql.SQL(" 1")]), "SELECT"),
        (b"SELECT '\xff secret' WHERE false", None),
        ("", "postgresql"),
    ],
)
def test_composed_statements_are_recorded_like_texts(
    start: Start, connection: psycopg.Connection, query: Any, name: str | None
) -> None:
    recorded = start("psycopg")
    if name is None:
        with pytest.raises(psycopg.DataError):
            connection.execute(query)
    else:
        connection.execute(query)
    assert names(recorded) == [name or "SELECT"]
    assert "secret" not in recorded.text


def test_nonsense_fails_as_it_does_without_an_agent(start: Start, connection: psycopg.Connection) -> None:
    def attempt(action: Callable[[], Any]) -> tuple[type, str]:
        with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is what is compared
            action()
        return type(caught.value), str(caught.value)

    cursor = connection.cursor()
    actions: list[Callable[..., Any]] = [
        cursor.execute,
        lambda: cursor.execute(None),  # type: ignore[call-overload]
        lambda: cursor.execute(type("Composed", (), {})()),
        lambda: cursor.execute("SELECT 1", nonsense=1),  # type: ignore[call-overload]
        lambda: cursor.execute("SELECT %s"),
        lambda: cursor.execute("SELECT %(a)s", {}),
        lambda: cursor.executemany("SELECT 1", None),  # type: ignore[arg-type]
    ]
    without = [attempt(action) for action in actions[1:]]
    start("psycopg")
    assert [attempt(action) for action in actions[1:]] == without
    assert attempt(actions[0])[0] is TypeError


def test_a_statement_on_a_closed_connection_is_an_error(
    start: Start, connection: psycopg.Connection, postgres: int, url: str
) -> None:
    recorded = start("psycopg")
    never_asked = psycopg.connect(url)
    cursors = [connection.cursor(), never_asked.cursor()]
    cursors[0].execute("SELECT 1")
    recorded.clear()
    connection.close()
    never_asked.close()
    for cursor in cursors:
        with pytest.raises(psycopg.OperationalError):
            cursor.execute("SELECT 1")
    assert [tags.get("peer") for tags in recorded.database] == [f"127.0.0.1:{postgres}", None]
    assert {tags["error_type"] for tags in recorded.database} == {"psycopg.OperationalError"}


def test_copy_and_stream_are_not_instrumented(start: Start, connection: psycopg.Connection) -> None:
    recorded = start("psycopg")
    with connection.cursor() as cursor:
        with cursor.copy("COPY things FROM STDIN") as copy:
            copy.write_row((1, "secret"))
        rows = cursor.stream("SELECT a FROM things")
        assert list(rows) == [(1,)]
    assert recorded.database == []


def test_statements_in_a_pipeline_are_recorded(start: Start, connection: psycopg.Connection) -> None:
    recorded = start("psycopg")
    with connection.pipeline():
        cursors = [connection.execute("SELECT 1"), connection.execute("SELECT 2")]
    assert [cursor.fetchall() for cursor in cursors] == [[(1,)], [(2,)]]
    assert names(recorded) == ["SELECT"] * 2


def test_an_agent_that_ends_while_a_statement_runs_harms_nothing(
    start: Start, connection: psycopg.Connection, url: str
) -> None:
    start("psycopg")
    result: list[Any] = []
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(7)")
        ask = "SELECT 1 FROM (SELECT pg_advisory_lock(7)) AS held"
        thread = threading.Thread(target=lambda: result.append(connection.execute(ask).fetchall()))
        thread.start()
        while not other.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchall():
            time.sleep(0.01)
        vantage_agent.shutdown()
    thread.join()
    assert result == [[(1,)]]


async def test_statements_of_tasks_side_by_side_are_parts_of_the_same_span(start: Start, url: str) -> None:
    recorded = start("psycopg")

    async def ask() -> None:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            await connection.execute("SELECT 1")

    with vantage_agent.span("outer") as outer:
        span_id = outer.span_id
        await asyncio.gather(*(ask() for _ in range(4)))
    spans = [span for span in await asyncio.to_thread(lambda: recorded.spans) if span["name"] == "SELECT"]
    assert [span["parent_span_id"] for span in spans] == [span_id] * 4


async def test_a_cancelled_statement_is_cancelled(start: Start, url: str) -> None:
    recorded = start("psycopg")
    async with await psycopg.AsyncConnection.connect(url) as connection:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.execute("SELECT pg_sleep(20)"), 0.2)
    (tags,) = await asyncio.to_thread(lambda: recorded.database)
    assert "cancelled" in tags or tags["error_type"].endswith("QueryCanceled")
