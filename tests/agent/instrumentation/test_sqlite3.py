"""sqlite3 gets classes of the agent's under the same names: everything else about them is as it was."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import pickle
import sqlite3
import sqlite3.dbapi2
import threading
from collections.abc import Callable
from typing import Any

import aiosqlite
from django.db.backends.sqlite3.base import SQLiteCursorWrapper

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded

Start = Callable[..., Recorded]


def outcome(action: Callable[[], Any]) -> Any:
    """What comes back, or what is raised."""
    try:
        return action()
    except Exception as error:  # noqa: BLE001  # which one is what is compared
        return type(error), str(error)


def exercised(folder: pathlib.Path) -> list[Any]:
    """The results of all that a connection can do."""
    result: list[Any] = []
    db = sqlite3.connect(":memory:", detect_types=sqlite3.PARSE_DECLTYPES, isolation_level="IMMEDIATE")
    other = sqlite3.dbapi2.connect(folder / "other.db")
    cursor = db.cursor()
    other.backup(db)
    result += [isinstance(db, sqlite3.Connection), isinstance(cursor, sqlite3.Cursor), cursor.connection is db]
    result += [repr(db).partition(" at ")[0], repr(cursor).partition(" at ")[0], db.isolation_level]
    result += [type(db).__name__, type(db).__module__, type(db).__doc__, type(cursor).__qualname__]
    result.append(db.executescript("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c BLOB); SELECT 1;").description)
    with db:
        inserted = db.execute("INSERT INTO t (b, c) VALUES (?, ?)", ("x", bytes(4)))
        result += [inserted.lastrowid, inserted.rowcount, db.in_transaction]
    with contextlib.suppress(ZeroDivisionError), db:
        db.executemany("INSERT INTO t (b) VALUES (:b)", ({"b": str(n)} for n in range(3)))
        result += [db.in_transaction, db.total_changes]
        raise ZeroDivisionError
    result.append(db.execute("SELECT count(*) FROM t").fetchone())
    db.create_function("twice", 1, lambda value: value * 2, deterministic=True)
    result.append(list(cursor.execute("SELECT twice(a), b FROM t")))
    result.append(cursor.execute("SELECT a, b FROM t") is cursor)
    result.append([column[0] for column in cursor.description])
    result.append(list(db.iterdump()))
    db.row_factory = sqlite3.Row
    result += [dict(db.execute("SELECT a, b FROM t").fetchone()), db.cursor().row_factory is sqlite3.Row]
    db.text_factory = bytes
    result.append(tuple(db.execute("SELECT b FROM t").fetchone()))
    db.text_factory = str
    with db.blobopen("t", "c", 1) as blob:
        blob.write(b"ab")
        result.append(len(blob))
    db.backup(other)
    result.append(other.execute("SELECT a, b, c FROM t").fetchall())
    rows = db.execute("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n")
    result.append([next(rows)[0], next(rows)[0]])  # there is no end to it
    rows.close()
    traced: list[str] = []
    db.set_trace_callback(traced.append)
    db.execute("SELECT 1").fetchall()
    result += [traced, db.interrupt(), db.commit(), db.rollback()]
    wrong: list[Callable[..., Any]] = [
        lambda: db.execute("nonsense"),
        db.execute,
        lambda: db.execute(7),  # type: ignore[arg-type]
        lambda: db.execute("SELECT ?", (object(),)),
        lambda: db.execute("SELECT 1; SELECT 2"),
        lambda: db.executemany("SELECT 1", [()]),
        lambda: db.executescript(None),  # type: ignore[arg-type]
        lambda: cursor.execute(sql="SELECT 1"),  # type: ignore[call-arg]
        lambda: db.cursor(7),  # type: ignore[call-overload]
        lambda: db.cursor(None),
        lambda: pickle.dumps(db) and None,
        lambda: setattr(db, "mine", 1),
        lambda: setattr(cursor, "mine", 1),
        sqlite3.connect,
        lambda: sqlite3.connect(7),  # type: ignore[call-overload]
        lambda: sqlite3.connect(":memory:", nonsense=1),  # type: ignore[call-overload]
        lambda: sqlite3.connect(folder / "no" / "folder.db"),
        lambda: sqlite3.connect(f"file:{folder}/none.db?mode=ro", uri=True),
    ]
    result += [outcome(action) for action in wrong]
    elsewhere: list[Any] = []
    thread = threading.Thread(target=lambda: elsewhere.append(outcome(lambda: db.execute("SELECT 1"))))
    thread.start()
    thread.join()
    result.append(elsewhere[0][0])
    for connection in (db, other):
        connection.close()
    result += [
        outcome(lambda: db.execute("SELECT 1")),
        outcome(db.cursor),
        outcome(lambda: cursor.execute("SELECT 1")),
    ]
    return [without_names(db) for db in result]


def without_names(result: Any) -> Any:
    """Python calls a class of an extension by its module in some messages."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], str):
        return result[0], result[1].replace("sqlite3.C", "C")
    return result


def test_everything_else_is_as_it_was(start: Start, tmp_path: pathlib.Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "within").mkdir()
    without = exercised(tmp_path / "without")
    recorded = start("sqlite3")
    within = exercised(tmp_path / "within")
    assert str(within).replace("within", "without") == str(without)
    assert len(recorded.database) > 20


def test_a_requested_class_is_returned(start: Start) -> None:
    class OwnConnection(sqlite3.Connection):
        pass

    class MyCursor(sqlite3.Cursor):
        pass

    recorded = start("sqlite3")
    for connection in (
        sqlite3.connect(":memory:", factory=OwnConnection),
        sqlite3.connect(":memory:", 5.0, 0, None, True, OwnConnection),
    ):
        assert type(connection) is OwnConnection
        connection.execute("SELECT 1")
        connection.close()
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        assert type(db.cursor(MyCursor)) is type(db.cursor(factory=MyCursor)) is MyCursor
        db.cursor(MyCursor).execute("SELECT 1")
    assert recorded.database == []


def test_connections_from_before_stay_and_those_from_meanwhile_end_with_the_agent(start: Start) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as before:
        recorded = start("sqlite3")
        before.execute("SELECT 1")
        assert type(before) is sqlite3.Connection
        remembered = sqlite3.connect
        with contextlib.closing(sqlite3.connect(":memory:")) as meanwhile:
            vantage_agent.shutdown()
            assert meanwhile.execute("SELECT 1").fetchall() == [(1,)]
    for connect in (sqlite3.connect, remembered):
        with contextlib.closing(connect(":memory:")) as after:
            assert type(after) is sqlite3.Connection
    assert not [sent for sent in recorded.receiver.sent if sent.packed.get("spans")]


def test_only_the_name_of_the_file_is_sent(start: Start, tmp_path: pathlib.Path) -> None:
    recorded = start("sqlite3")
    folder = tmp_path / "secret"
    folder.mkdir()
    requested: list[tuple[Any, bool]] = [
        (folder / "path.db", False),
        (str(folder / "text.db"), False),
        (bytes(folder / "bytes.db"), False),
        (f"file:{folder}/uri.db?mode=rwc&password=secret", True),
        ("", False),
    ]
    for database, uri in requested:
        with contextlib.closing(sqlite3.connect(database, uri=uri)) as db:
            db.execute("SELECT 1")
    with contextlib.closing(sqlite3.connect(database=":memory:")) as db:
        db.execute("SELECT 1")
    names = [span["attributes"].get("db.namespace") for span in recorded.spans]
    assert names == ["path.db", "text.db", "bytes.db", "uri.db", None, ":memory:"]
    assert "secret" not in recorded.text


def test_statements_of_a_script_are_one_call(start: Start) -> None:
    recorded = start("sqlite3")
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.executescript("CREATE TABLE things (a); INSERT INTO things VALUES ('secret');")
    assert [span["name"] for span in recorded.spans] == ["CREATE things"]
    assert "secret" not in recorded.text


def test_the_cursors_of_django_are_recorded(start: Start) -> None:
    recorded = start("sqlite3")
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        cursor = db.cursor(factory=SQLiteCursorWrapper)
        assert type(cursor) is SQLiteCursorWrapper
        cursor.execute("CREATE TABLE things (a)")
        cursor.executemany("INSERT INTO things VALUES (%s)", [("secret",), ("secret",)])
        assert cursor.execute("SELECT count(*) FROM things WHERE a = %s", ("secret",)).fetchall() == [(2,)]
        vantage_agent.flush(5)
        vantage_agent.shutdown()
        assert cursor.execute("SELECT 1").fetchall() == [(1,)]
    spans = [span for sent in recorded.receiver.sent for span in sent.packed.get("spans", ())]
    names = [span["name"] for span in sorted(spans, key=lambda span: span["start_ns"])]
    assert names == ["CREATE things", "INSERT things", "SELECT things"]
    assert {span["attributes"]["db.namespace"] for span in spans} == {":memory:"}
    assert "secret" not in repr([sent.packed for sent in recorded.receiver.sent])


def test_aiosqlite_is_not_instrumented(start: Start) -> None:
    async def ask() -> Any:
        async with aiosqlite.connect(":memory:") as connection:
            assert type(connection._conn) is sqlite3.Connection
            async with connection.execute("SELECT 1") as cursor:
                return await cursor.fetchall()

    recorded = start("sqlite3")
    assert asyncio.run(ask()) == [(1,)]
    assert recorded.database == []
