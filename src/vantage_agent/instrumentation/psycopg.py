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
    return begin_query("psycopg", text_of(args[0] if args else kwargs.get("query")), _database, cursor)


def text_of(query: Any) -> str | bytes:
    """Return a statement as text: of an object of the module ``sql``, of this psycopg or the one before it, with ``%s``
    for everything but SQL and names."""
    if isinstance(query, (str, bytes)):
        return query
    text = ""
    try:
        # An object inside ``Composed`` is quoted otherwise.
        for part in _content(query) if type(query).__name__ == "Composed" else [query]:
            kind = type(part).__name__
            if kind == "SQL":
                text += _content(part)
            elif kind == "Identifier":
                text += ".".join(f'"{name}"' for name in _content(part))
            else:
                text += "%s"
            if len(text) > STATEMENT_LENGTH_MAX:
                break
    except Exception:  # another kind of object
        return ""
    return text


def _content(part: Any) -> Any:
    return part._obj if hasattr(part, "_obj") else part._wrapped  # noqa: SLF001


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
