"""sqlite3: each statement of the connections that are opened meanwhile. It counts up to its first row.

Classes of an extension cannot be wrapped. ``connect`` gives a class of ours instead, without a dictionary, under the
same name. Who asks for a class of his own, of connections or of cursors, gets that and is not measured; but Django's
is known. Nor is aiosqlite, which asks in a thread of its own: its statements would have no parent, and under SQLAlchemy
be told twice.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

from vantage_agent._db_client import Database, begin_query, measured
from vantage_agent._patch import Patches
from vantage_agent._span import Span
from vantage_agent._tracer import tracer

_FACTORY_PLACE = 5  # among the arguments of ``connect``


def patch(patches: Patches, module: ModuleType) -> None:
    """``sqlite3``, which took its functions from ``sqlite3.dbapi2``, where others look for them; or Django's."""
    if module.__name__ == "django.db.backends.sqlite3.base":
        patches.wrap(module.SQLiteCursorWrapper, "execute", _measured)
        patches.wrap(module.SQLiteCursorWrapper, "executemany", _measured)
        return
    connection_class = _connection_class(module)

    def make(connect: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1)  # noqa: SLF001  # there is no other way to know it
            if not tracer.on or len(args) > _FACTORY_PLACE or "factory" in kwargs or _is_aiosqlite(caller):
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
    plain = base.cursor

    class Connection(base):  # type: ignore[misc]  # a class that is not known before
        __slots__ = ("vantage_agent_database",)

        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            return plain(self, *args, **kwargs) if args or kwargs else plain(self, cursor_class)

        # As they are documented. The original ones pass the cursor's methods by.
        def execute(self, *args: Any, **kwargs: Any) -> Any:
            return plain(self, cursor_class).execute(*args, **kwargs)

        def executemany(self, *args: Any, **kwargs: Any) -> Any:
            return plain(self, cursor_class).executemany(*args, **kwargs)

        def executescript(self, *args: Any, **kwargs: Any) -> Any:
            return plain(self, cursor_class).executescript(*args, **kwargs)

    return _named_as(base, Connection)


def _cursor_class(module: ModuleType) -> type:
    base: Any = module.Cursor

    class Cursor(base):  # type: ignore[misc]
        __slots__ = ()

        execute = _measured(base.execute)
        executemany = _measured(base.executemany)
        executescript = _measured(base.executescript)

    return _named_as(base, Cursor)


def _named_as(base: Any, ours: Any) -> type:
    ours.__name__, ours.__qualname__, ours.__module__ = base.__name__, base.__qualname__, base.__module__
    ours.__doc__ = base.__doc__
    found: type = ours
    return found


def _measured(plain: Any) -> Any:
    method = measured(_begin)(plain)
    method.__name__, method.__doc__ = plain.__name__, plain.__doc__
    return method


def _begin(cursor: Any, args: tuple[Any, ...], _kwargs: Any) -> Span | None:
    return begin_query(args[0] if args else None, _database_of, cursor)


def _database(asked: Any) -> Database:
    return "sqlite", None, None, os.fsdecode(asked)


def _database_of(cursor: Any) -> Database:
    found: Database = getattr(cursor.connection, "vantage_agent_database", None) or ("sqlite", None, None, None)
    return found


def _is_aiosqlite(caller: Any) -> bool:
    return str(caller.f_globals.get("__name__", "")).partition(".")[0] == "aiosqlite"
