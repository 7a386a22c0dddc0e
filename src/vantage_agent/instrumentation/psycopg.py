"""psycopg 3: each statement of a cursor, sync and async. A server-side cursor counts up to its declaration.

In a pipeline a statement counts until it is sent. ``copy`` and ``stream`` are not instrumented: their duration depends
on how the application reads.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from vantage_agent._db_client import Database, begin_query, measured, measured_async
from vantage_agent._patch import Patches
from vantage_agent._span import Span
from vantage_agent._sql import STATEMENT_LENGTH_MAX

# Reading a connection's address takes longer than all the rest, and a closed connection has none.
_databases: WeakKeyDictionary[Any, Database] = WeakKeyDictionary()


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``psycopg``."""
    for owner, name in ((module.Cursor, "execute"), (module.Cursor, "executemany"), (module.ServerCursor, "execute")):
        patches.wrap(owner, name, measured(_begin))
    for owner, name in (
        (module.AsyncCursor, "execute"),
        (module.AsyncCursor, "executemany"),
        (module.AsyncServerCursor, "execute"),
    ):
        patches.wrap(owner, name, measured_async(_begin))


def _begin(cursor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Span | None:
    try:
        query = args[0] if args else kwargs.get("query")
        if not isinstance(query, (str, bytes)):
            query = _composed(query)
    except Exception:
        query = ""
    return begin_query("psycopg", query, _database, cursor)


def _composed(query: Any) -> str:
    """Return the text of a ``psycopg.sql`` object, with ``%s`` for everything but SQL and names."""
    parts = query._obj if type(query).__name__ == "Composed" else [query]  # noqa: SLF001  # otherwise it is quoted
    text = ""
    for part in parts:
        kind = type(part).__name__
        if kind == "SQL":
            text += part._obj  # noqa: SLF001
        elif kind == "Identifier":
            text += ".".join(f'"{name}"' for name in part._obj)  # noqa: SLF001
        else:
            text += "%s"
        if len(text) > STATEMENT_LENGTH_MAX:
            break
    return text


def _database(cursor: Any) -> Database:
    connection = cursor.connection
    address = _databases.get(connection)
    if address is None:
        try:
            info = connection.info
            address = "postgresql", info.host, info.port, info.dbname
        except Exception:  # it is closed
            return "postgresql", None, None, None
        _databases[connection] = address
    return address
