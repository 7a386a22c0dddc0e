"""sqlite3: each statement of the connections that are opened while the agent runs, up to its first row.

Classes of an extension module cannot be wrapped. So ``connect`` returns a subclass without ``__dict__`` under the same
name. Connections and cursors of the application's own classes are not measured, except Django's. Nor is aiosqlite,
which runs statements in a thread of its own: they would have no parent, and SQLAlchemy's would be measured twice.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

from vantage_agent._db_client import Database, begin_query, measured
from vantage_agent._patch import Patches, named_as
from vantage_agent._span import Span
from vantage_agent._tracer import tracer

_FACTORY_POSITION = 5  # among the arguments of ``connect``


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``sqlite3``, which also exports its functions as ``sqlite3.dbapi2``, or Django's module."""
    if module.__name__ == "django.db.backends.sqlite3.base":
        patches.wrap(module.SQLiteCursorWrapper, "execute", _measured)
        patches.wrap(module.SQLiteCursorWrapper, "executemany", _measured)
        return
    connection_class = _connection_class(module)

    def make(connect: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1)  # noqa: SLF001  # there is no other way to find the caller
            if not tracer.on or len(args) > _FACTORY_POSITION or "factory" in kwargs or _is_aiosqlite(caller):
                return connect(*args, **kwargs)
            connection = connect(*args, factory=connection_class, **kwargs)
            try:
                connection.vantage_agent_database = _database(args[0] if args else kwargs["database"])
            except Exception:
                pass
            return connection

        return wrapper

    patches.wrap(module, "connect", make)
    patches.wrap(module.dbapi2, "connect", make)


def _connection_class(module: ModuleType) -> type:
    base: Any = module.Connection
    cursor_class = _cursor_class(module)
    original = base.cursor

    class Connection(base):  # type: ignore[misc]  # a base that is only known at runtime
        __slots__ = ("vantage_agent_database",)

        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            return original(self, *args, **kwargs) if args or kwargs else original(self, cursor_class)

        # As documented. The original methods bypass the cursor's.
        def execute(self, *args: Any, **kwargs: Any) -> Any:
            return original(self, cursor_class).execute(*args, **kwargs)

        def executemany(self, *args: Any, **kwargs: Any) -> Any:
            return original(self, cursor_class).executemany(*args, **kwargs)

        def executescript(self, *args: Any, **kwargs: Any) -> Any:
            return original(self, cursor_class).executescript(*args, **kwargs)

    return named_as(base, Connection)


def _cursor_class(module: ModuleType) -> type:
    base: Any = module.Cursor

    class Cursor(base):  # type: ignore[misc]
        __slots__ = ()

        execute = _measured(base.execute)
        executemany = _measured(base.executemany)
        executescript = _measured(base.executescript)

    return named_as(base, Cursor)


def _measured(original: Any) -> Any:
    method = measured(_begin)(original)
    method.__name__, method.__doc__ = original.__name__, original.__doc__
    return method


def _begin(cursor: Any, args: tuple[Any, ...], _kwargs: Any) -> Span | None:
    return begin_query("sqlite3", args[0] if args else None, _database_of, cursor)


def _database(path: Any) -> Database:
    return "sqlite", None, None, os.fsdecode(path)


def _database_of(cursor: Any) -> Database:
    database: Database = getattr(cursor.connection, "vantage_agent_database", None) or ("sqlite", None, None, None)
    return database


def _is_aiosqlite(caller: Any) -> bool:
    return str(caller.f_globals.get("__name__", "")).partition(".")[0] == "aiosqlite"
