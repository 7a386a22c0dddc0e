"""Database libraries: the spans of statements, nothing else is sent, the application sees no difference."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import re
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import asyncpg
import psycopg
import psycopg2
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded
from vantage_agent._buffer import PLAIN_NBYTES
from vantage_agent._semconv import database
from vantage_agent._span import Span
from vantage_agent._tracer import tracer

Start = Callable[..., Recorded]
TABLE = "CREATE TEMPORARY TABLE things (a INTEGER PRIMARY KEY, b VARCHAR(100))"


class Connected(Protocol):
    """A connection of any library. Parameters are given by name, ``:name`` in the statement."""

    def ask(self, statement: str, parameters: Any = None) -> Any:
        """The rows; None where there are none. A list of parameters is a statement for many."""


@dataclass(frozen=True)
class Library:
    name: str  # for ``auto_instrument``
    system: str
    connect: Callable[[int], contextlib.AbstractContextManager[Connected]]  # the port, of a server
    duplicate: str  # the error of a second row with the same key
    namespace: str | None

    def peer(self, port: int) -> dict[str, str]:
        return {"peer": f"127.0.0.1:{port}"} if self.system == "postgresql" else {}


class WithSqlalchemy:
    def __init__(self, connection: sqlalchemy.Connection) -> None:
        self.connection = connection

    def ask(self, statement: str, parameters: Any = None) -> Any:
        result = self.connection.execute(sqlalchemy.text(statement), parameters)
        return [tuple(row) for row in result] if result.returns_rows else None


class WithAsyncSqlalchemy:
    def __init__(self, runner: asyncio.Runner, connection: Any) -> None:
        self.runner, self.connection = runner, connection

    def ask(self, statement: str, parameters: Any = None) -> Any:
        async def run() -> Any:
            result = await self.connection.execute(sqlalchemy.text(statement), parameters)
            return [tuple(row) for row in result] if result.returns_rows else None

        return self.runner.run(run(), context=contextvars.copy_context())


class WithSqlite3:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def ask(self, statement: str, parameters: Any = None) -> Any:
        many = isinstance(parameters, list)
        cursor = (self.connection.executemany if many else self.connection.execute)(statement, parameters or {})
        return cursor.fetchall() if cursor.description else None


class WithSqlite3Cursor(WithSqlite3):
    def ask(self, statement: str, parameters: Any = None) -> Any:
        cursor = self.connection.cursor()
        (cursor.executemany if isinstance(parameters, list) else cursor.execute)(statement, parameters or {})
        return cursor.fetchall() if cursor.description else None


class WithPsycopg:
    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    def ask(self, statement: str, parameters: Any = None) -> Any:
        statement = re.sub(r":(\w+)", r"%(\1)s", statement)
        if isinstance(parameters, list):
            with self.connection.cursor() as many:
                many.executemany(statement, parameters)
            return None
        cursor = self.connection.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else None


class WithAsyncPsycopg:
    def __init__(self, runner: asyncio.Runner, connection: psycopg.AsyncConnection) -> None:
        self.runner, self.connection = runner, connection

    def ask(self, statement: str, parameters: Any = None) -> Any:
        statement = re.sub(r":(\w+)", r"%(\1)s", statement)

        async def run() -> Any:
            cursor = self.connection.cursor()
            if isinstance(parameters, list):
                await cursor.executemany(statement, parameters)
                return None
            await cursor.execute(statement, parameters)
            return await cursor.fetchall() if cursor.description else None

        return self.runner.run(run(), context=contextvars.copy_context())


@contextlib.contextmanager
def psycopg_on(port: int) -> Iterator[Connected]:
    with contextlib.closing(psycopg.connect(f"postgresql://vantage@127.0.0.1:{port}/postgres")) as connection:
        yield WithPsycopg(connection)


@contextlib.contextmanager
def async_psycopg_on(port: int) -> Iterator[Connected]:
    with asyncio.Runner() as runner:
        connect = psycopg.AsyncConnection.connect(f"postgresql://vantage@127.0.0.1:{port}/postgres")
        connection = runner.run(connect)
        try:
            yield WithAsyncPsycopg(runner, connection)
        finally:
            runner.run(connection.close())


class WithPsycopg2:
    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def ask(self, statement: str, parameters: Any = None) -> Any:
        statement = re.sub(r":(\w+)", r"%(\1)s", statement)
        with self.connection.cursor() as cursor:
            if isinstance(parameters, list):
                cursor.executemany(statement, parameters)
                return None
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else None


class WithAsyncpg:
    def __init__(self, runner: asyncio.Runner, connection: Any) -> None:
        self.runner, self.connection = runner, connection

    def ask(self, statement: str, parameters: Any = None) -> Any:
        names = re.findall(r":(\w+)", statement)
        statement = re.sub(r":(\w+)", lambda match: f"${names.index(match[1]) + 1}", statement)

        async def run() -> Any:
            if isinstance(parameters, list):
                return await self.connection.executemany(
                    statement, [[row[name] for name in names] for row in parameters]
                )
            given = [parameters[name] for name in names]
            if "SELECT" in statement:
                return [tuple(row) for row in await self.connection.fetch(statement, *given)]
            await self.connection.execute(statement, *given)
            return None

        return self.runner.run(run(), context=contextvars.copy_context())


@contextlib.contextmanager
def psycopg2_on(port: int) -> Iterator[Connected]:
    with contextlib.closing(psycopg2.connect(f"postgresql://vantage@127.0.0.1:{port}/postgres")) as connection:
        yield WithPsycopg2(connection)


@contextlib.contextmanager
def asyncpg_on(port: int) -> Iterator[Connected]:
    with asyncio.Runner() as runner:
        connection = runner.run(_connect_asyncpg(port))
        try:
            yield WithAsyncpg(runner, connection)
        finally:
            runner.run(connection.close())


async def _connect_asyncpg(port: int) -> Any:
    return await asyncpg.connect(f"postgresql://vantage@127.0.0.1:{port}/postgres")


def sqlite3_by(kind: type[WithSqlite3]) -> Callable[[int], contextlib.AbstractContextManager[Connected]]:
    @contextlib.contextmanager
    def connect(port: int) -> Iterator[Connected]:
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            yield kind(connection)

    return connect


def sqlalchemy_on(url: str) -> Callable[[int], contextlib.AbstractContextManager[Connected]]:
    @contextlib.contextmanager
    def connect(port: int) -> Iterator[Connected]:
        engine = sqlalchemy.create_engine(url.format(port=port))
        try:
            with engine.connect() as connection:
                yield WithSqlalchemy(connection)
        finally:
            engine.dispose()

    return connect


def async_sqlalchemy_on(url: str) -> Callable[[int], contextlib.AbstractContextManager[Connected]]:
    @contextlib.contextmanager
    def connect(port: int) -> Iterator[Connected]:
        with asyncio.Runner() as runner:
            engine = create_async_engine(url.format(port=port))
            connection = runner.run(engine.connect().start())
            try:
                yield WithAsyncSqlalchemy(runner, connection)
            finally:
                runner.run(connection.close())
                runner.run(engine.dispose())

    return connect


POSTGRES = "127.0.0.1:{port}/postgres"
INTEGRITY = "sqlalchemy.exc.IntegrityError"
LIBRARIES = {
    "sqlalchemy-sqlite": Library("sqlalchemy", "sqlite", sqlalchemy_on("sqlite://"), INTEGRITY, None),
    "sqlalchemy-aiosqlite": Library(
        "sqlalchemy", "sqlite", async_sqlalchemy_on("sqlite+aiosqlite:///:memory:"), INTEGRITY, ":memory:"
    ),
    "sqlalchemy-psycopg": Library(
        "sqlalchemy", "postgresql", sqlalchemy_on(f"postgresql+psycopg://vantage@{POSTGRES}"), INTEGRITY, "postgres"
    ),
    "sqlalchemy-psycopg-async": Library(
        "sqlalchemy",
        "postgresql",
        async_sqlalchemy_on(f"postgresql+psycopg://vantage@{POSTGRES}"),
        INTEGRITY,
        "postgres",
    ),
    "sqlalchemy-psycopg2": Library(
        "sqlalchemy", "postgresql", sqlalchemy_on(f"postgresql+psycopg2://vantage@{POSTGRES}"), INTEGRITY, "postgres"
    ),
    "sqlalchemy-asyncpg": Library(
        "sqlalchemy",
        "postgresql",
        async_sqlalchemy_on(f"postgresql+asyncpg://vantage@{POSTGRES}"),
        INTEGRITY,
        "postgres",
    ),
    "sqlite3": Library("sqlite3", "sqlite", sqlite3_by(WithSqlite3), "sqlite3.IntegrityError", ":memory:"),
    "sqlite3-cursor": Library("sqlite3", "sqlite", sqlite3_by(WithSqlite3Cursor), "sqlite3.IntegrityError", ":memory:"),
    "psycopg": Library("psycopg", "postgresql", psycopg_on, "psycopg.errors.UniqueViolation", "postgres"),
    "psycopg-async": Library("psycopg", "postgresql", async_psycopg_on, "psycopg.errors.UniqueViolation", "postgres"),
    "psycopg2": Library("psycopg2", "postgresql", psycopg2_on, "psycopg2.errors.UniqueViolation", "postgres"),
    "asyncpg": Library("asyncpg", "postgresql", asyncpg_on, "asyncpg.exceptions.UniqueViolationError", "postgres"),
}


@pytest.fixture(params=LIBRARIES.values(), ids=list(LIBRARIES))
def library(request: pytest.FixtureRequest) -> Library:
    result: Library = request.param
    return result


@pytest.fixture
def port(library: Library, request: pytest.FixtureRequest) -> int:
    result: int = request.getfixturevalue("postgres") if library.system == "postgresql" else 0
    return result


class TestEachLibrary:
    @pytest.fixture
    def connected(self, start: Start, library: Library, port: int) -> Iterator[tuple[Recorded, Connected]]:
        """An agent, and a connection with an empty table of its own, of which nothing was recorded yet."""
        recorded = start(library.name)
        with library.connect(port) as connection:
            connection.ask(TABLE)
            recorded.clear()
            yield recorded, connection

    def test_a_statement_is_a_span_and_a_duration(
        self, connected: tuple[Recorded, Connected], library: Library, port: int
    ) -> None:
        recorded, client = connected
        assert client.ask("SELECT a, b FROM things WHERE a = :a", {"a": 7}) == []
        peer = library.peer(port)
        assert recorded.database == [{"db.system.name": library.system, "operation": "SELECT", **peer}]
        (span,) = recorded.spans
        assert (span["name"], span["kind"], span["status"]) == ("SELECT things", "client", "unset")
        where = {"server.address": "127.0.0.1", "server.port": str(port)} if peer else {}
        namespace = {"db.namespace": library.namespace} if library.namespace else {}
        assert span["attributes"] == {
            "db.system.name": library.system,
            "db.operation.name": "SELECT",
            **where,
            **namespace,
        }
        ((_, _, value_ms),) = [sample for sample in recorded.samples if sample[0] == "db.client.operation.duration"]
        assert value_ms == span["duration_ns"] / 1e6
        assert 0 < value_ms < 5000

    def test_each_statement_is_named_by_its_operation(self, connected: tuple[Recorded, Connected]) -> None:
        recorded, client = connected
        client.ask("INSERT INTO things VALUES (1, 'x')")
        client.ask("UPDATE things SET b = 'y'")
        assert client.ask("SELECT b FROM things") == [("y",)]
        client.ask("DELETE FROM things")
        client.ask("DROP TABLE things")
        verbs = ["INSERT", "UPDATE", "SELECT", "DELETE", "DROP"]
        assert [span["name"] for span in recorded.spans] == [f"{verb} things" for verb in verbs]
        assert sorted(tags["operation"] for tags in recorded.database) == sorted(verbs)

    def test_a_statement_for_many_is_one_call(self, connected: tuple[Recorded, Connected]) -> None:
        recorded, client = connected
        client.ask("INSERT INTO things VALUES (:a, :b)", [{"a": number, "b": "x"} for number in range(5)])
        assert [span["name"] for span in recorded.spans] == ["INSERT things"]
        assert client.ask("SELECT count(*) FROM things") == [(5,)]

    def test_an_error_is_recorded_with_its_type_and_raised_unchanged(
        self, connected: tuple[Recorded, Connected], library: Library
    ) -> None:
        recorded, client = connected
        client.ask("INSERT INTO things VALUES (1, 'x')")
        recorded.clear()
        with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is looked at
            client.ask("INSERT INTO things VALUES (1, 'secret')")
        assert f"{type(caught.value).__module__}.{type(caught.value).__qualname__}" == library.duplicate
        (tags,) = recorded.database
        assert (tags["error_type"], tags["error"]) == (library.duplicate, "true")
        (span,) = recorded.spans
        assert (span["status"], span["attributes"]["error.type"]) == ("error", library.duplicate)
        assert "secret" not in recorded.text

    def test_statements_are_parts_of_the_span_around_them(self, connected: tuple[Recorded, Connected]) -> None:
        recorded, client = connected
        with vantage_agent.span("outer") as outer:
            trace_id, span_id = outer.trace_id, outer.span_id
            client.ask("SELECT 1")
            with vantage_agent.span("beside"):
                pass
        spans = {span["name"]: span for span in recorded.spans}
        assert [(span["trace_id"], span["parent_span_id"]) for name, span in spans.items() if name != "outer"] == [
            (trace_id, span_id)
        ] * 2

    def test_nothing_of_a_statement_but_what_it_does_is_sent(self, connected: tuple[Recorded, Connected]) -> None:
        recorded, client = connected
        client.ask("/* secret1 */ INSERT INTO things VALUES (1, 'FROM secret2') -- secret3")
        client.ask("INSERT INTO things VALUES (:a, :b)", {"a": 2, "b": "secret4"})
        client.ask("SELECT a AS \"FROM secret5\" FROM things WHERE b = 'secret6'")
        client.ask(f"SELECT b AS secret7 FROM things WHERE b IN ({', '.join(['98765432109876 || b'] * 300)})")
        client.ask("SELECT b, 'FROM secret8' FROM things")
        for wrong in ("secret9 FROM secret", "SELECT secret10 FROM things", "SELECT 'secret11"):
            with pytest.raises(Exception):  # noqa: B017, PT011  # each library has its own
                client.ask(wrong)
        assert {tags["operation"] for tags in recorded.database} == {"INSERT", "SELECT", "_OTHER"}
        assert "things" in recorded.text
        assert "secret" not in recorded.text
        assert "9876543210" not in recorded.text

    def test_faults_of_the_agent_do_not_reach_the_application(
        self, connected: tuple[Recorded, Connected], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("a fault of the agent's")

        _, client = connected
        for method in ("begin", "end", "deactivate"):
            with monkeypatch.context() as patch:
                patch.setattr(tracer, method, broken)
                assert contextvars.copy_context().run(client.ask, "SELECT 1") == [(1,)]

    def test_after_the_end_of_the_agent_statements_are_plain(self, connected: tuple[Recorded, Connected]) -> None:
        recorded, client = connected
        vantage_agent.shutdown()
        sent = len(recorded.receiver.sent)
        assert client.ask("SELECT 1") == [(1,)]
        vantage_agent.init_agent("my-api", recorded.receiver.url)
        vantage_agent.flush(5)
        assert not [item for item in recorded.receiver.sent[sent:] if item.packed.get("spans")]

    def test_an_agent_that_ends_in_the_middle_of_a_statement_harms_nothing(
        self, connected: tuple[Recorded, Connected], library: Library
    ) -> None:
        _, client = connected
        original = tracer.begin
        begun = threading.Event()

        def begin(*args: Any, **kwargs: Any) -> Any:
            span = original(*args, **kwargs)
            vantage_agent.shutdown()  # from now on its libraries are as they were
            begun.set()
            return span

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tracer, "begin", begin)
            assert client.ask("SELECT 1") == [(1,)]
        assert begun.is_set()
        assert client.ask("SELECT 1") == [(1,)]


def test_a_long_statement_counts_in_the_buffer(start: Start) -> None:
    recorded = start("sqlalchemy")
    stored: list[int] = []
    with pytest.MonkeyPatch.context() as patch, sqlalchemy_on("sqlite://")(0) as connection:
        patch.setattr(tracer, "_append", lambda nbytes, what, span: stored.append(nbytes))
        connection.ask("SELECT 1")
        connection.ask(f"SELECT 1 AS {'x' * 5000}")
    assert stored == [PLAIN_NBYTES + 1000]
    assert len(recorded.spans) == 1  # the short one, which takes no more than any span


def test_the_same_statement_to_two_databases_is_recorded_for_each(start: Start, tmp_path: Any) -> None:
    recorded = start("sqlalchemy")
    for name in ("one.db", "two.db"):
        with sqlalchemy_on(f"sqlite:///{tmp_path}/{name}")(0) as connection:
            connection.ask("SELECT 1 AS mine")
    assert [span["attributes"]["db.namespace"] for span in recorded.spans if span["name"] == "SELECT"] == [
        "one.db",
        "two.db",
    ]


@pytest.mark.parametrize(
    "name", ["sqlalchemy-sqlite", "sqlalchemy-aiosqlite", "sqlalchemy-psycopg", "sqlalchemy-psycopg-async", "psycopg"]
)
def test_a_call_inside_a_call_is_recorded_once(start: Start, name: str, request: pytest.FixtureRequest) -> None:
    library = LIBRARIES[name]
    recorded = start("all")
    with library.connect(request.getfixturevalue("postgres") if library.system == "postgresql" else 0) as connection:
        recorded.clear()
        connection.ask("SELECT 1")
        assert [span["name"] for span in recorded.spans] == ["SELECT"]
        assert len(recorded.database) == 1
        recorded.clear()
        with pytest.raises((sqlalchemy.exc.DBAPIError, psycopg.Error)):
            connection.ask("nonsense")
        (tags,) = recorded.database
        assert tags["error_type"].startswith(f"{library.name}.")


@pytest.mark.parametrize(
    ("where", "peer"),
    [
        (("postgresql", "db.internal", None, "shop"), "db.internal:5432"),
        (("postgresql", "db.internal", 6000, "shop"), "db.internal:6000"),
        (("strange", "db.internal", None, "shop"), "db.internal"),
        (("postgresql", "/run/secret", None, "shop"), None),
        (("duckdb", None, None, "C:\\secret\\shop"), None),
        (("postgresql", None, None, None), None),
    ],
)
def test_the_peer_is_host_and_port(where: Any, peer: str | None) -> None:
    span = Span(database, "client")
    span.database = where
    recorded = database(span)
    assert recorded.tags.get("peer") == peer
    assert "secret" not in repr(recorded.attributes)
    assert recorded.attributes.get("db.namespace") in ("shop", None)
    assert recorded.name == where[0]


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]


@contextlib.asynccontextmanager
async def async_engine(postgres: int) -> AsyncIterator[AsyncEngine]:
    """An engine whose connections are closed in their own event loop, also when the test fails: left to the garbage
    collector, they close files that have the numbers of another test's."""
    engine = create_async_engine(f"postgresql+psycopg://vantage@127.0.0.1:{postgres}/postgres")
    try:
        yield engine
    finally:
        await engine.dispose()


class TestSqlalchemy:
    def test_the_errors_of_others_pass_through(self, start: Start) -> None:
        recorded = start("sqlalchemy")
        error = ZeroDivisionError("mine")

        def handler(*_: Any) -> None:
            raise error

        engine = sqlalchemy.create_engine("sqlite://")
        sqlalchemy.event.listen(engine, "before_cursor_execute", handler)
        with engine.connect() as connection, pytest.raises(ZeroDivisionError) as caught:
            connection.execute(sqlalchemy.text("SELECT 1"))
        engine.dispose()
        assert caught.value is error
        assert recorded.database[-1]["error_type"] == "ZeroDivisionError"

    def test_objects_of_the_orm_are_named_by_their_table(self, start: Start) -> None:
        recorded = start("sqlalchemy")
        engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.pool.StaticPool)
        Base.metadata.create_all(engine)
        recorded.clear()
        with Session(engine) as session:
            session.add_all([Order(customer="secret1"), Order(customer="secret2")])
            session.commit()
            session.scalars(sqlalchemy.select(Order).where(Order.customer == "secret1")).one().customer = "secret3"
            session.commit()
        engine.dispose()
        # Of the second commit: committed objects are read again.
        assert [span["name"] for span in recorded.spans] == ["INSERT orders", "SELECT orders", "UPDATE orders"]
        assert "secret" not in recorded.text

    def test_the_name_of_a_file_is_sent_without_its_folders(self, start: Start, tmp_path: Any) -> None:
        recorded = start("sqlalchemy")
        (tmp_path / "secret").mkdir()
        with sqlalchemy_on(f"sqlite:///file:{tmp_path}/secret/shop.db?mode=rwc&uri=true")(0) as connection:
            connection.ask("SELECT 1")
        assert {span["attributes"]["db.namespace"] for span in recorded.spans} == {"shop.db"}
        assert "secret" not in recorded.text

    def test_a_password_is_not_sent(self, start: Start, postgres: int) -> None:
        recorded = start("sqlalchemy")
        with sqlalchemy_on(f"postgresql+psycopg://vantage:secret@127.0.0.1:{postgres}/postgres")(0) as connection:
            connection.ask("SELECT 1")
        assert recorded.database
        assert "secret" not in recorded.text

    def test_a_streamed_result_stays_lazy(self, start: Start, postgres: int) -> None:
        recorded = start("sqlalchemy")
        engine = sqlalchemy.create_engine(f"postgresql+psycopg://vantage@127.0.0.1:{postgres}/postgres")
        with engine.connect() as connection:
            recorded.clear()
            # To completion it would take years.
            rows = connection.execution_options(yield_per=2).execute(
                sqlalchemy.text("SELECT generate_series(1, 1000000000)")
            )
            assert [row[0] for row in rows.fetchmany(3)] == [1, 2, 3]
            rows.close()
        engine.dispose()
        assert [span["name"] for span in recorded.spans] == ["SELECT"]

    async def test_statements_of_tasks_side_by_side_are_parts_of_the_same_span(
        self, start: Start, postgres: int
    ) -> None:
        recorded = start("sqlalchemy")
        async with async_engine(postgres) as engine:

            async def ask() -> None:
                async with engine.connect() as connection:
                    await connection.execute(sqlalchemy.text("SELECT 1 AS mine"))

            async with engine.connect():  # runs the queries for a new server
                await asyncio.to_thread(recorded.clear)
            with vantage_agent.span("outer") as outer:
                span_id = outer.span_id
                await asyncio.gather(*(ask() for _ in range(4)))
        spans = [span for span in await asyncio.to_thread(lambda: recorded.spans) if span["name"] == "SELECT"]
        assert [span["parent_span_id"] for span in spans] == [span_id] * 4

    async def test_a_cancelled_statement_is_cancelled(self, start: Start, postgres: int) -> None:
        recorded = start("sqlalchemy")
        async with async_engine(postgres) as engine, engine.connect() as connection:
            await asyncio.to_thread(recorded.clear)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.execute(sqlalchemy.text("SELECT pg_sleep(20)")), 0.2)
        tags = (await asyncio.to_thread(lambda: recorded.database))[0]
        assert (tags["cancelled"], "error_type" in tags, "error" in tags) == ("true", False, False)
