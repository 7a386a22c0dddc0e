"""psycopg2: each statement of a cursor of the connections that are opened while the agent runs.

Classes of an extension module cannot be wrapped. So ``connect`` returns a subclass under the same name, whose cursors
are subclasses of what the application chose, such as ``RealDictCursor``. Connections of a class of the application's
own (``connection_factory``) and those that do not wait (``async_``) are not measured.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._db_client import Database, begin_query, measured
from vantage_agent._patch import Patches, named_as
from vantage_agent._span import Span
from vantage_agent._tracer import tracer
from vantage_agent.instrumentation.psycopg import text_of

_FACTORY_POSITION = 1  # among the arguments of ``connect``
_UNKNOWN: Database = ("postgresql", None, None, None)
CLASSES_MAX = 100  # of cursors; those of further ones are not measured


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``psycopg2``."""
    connection_class = _connection_class(module.extensions)

    def make(connect: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            is_own = len(args) > _FACTORY_POSITION and args[_FACTORY_POSITION] is not None
            if not tracer.on or is_own or kwargs.get("connection_factory") or "async" in kwargs or "async_" in kwargs:
                return connect(*args, **kwargs)
            if len(args) > _FACTORY_POSITION:
                args = (args[0], connection_class, *args[_FACTORY_POSITION + 1 :])
            else:
                kwargs["connection_factory"] = connection_class
            return connect(*args, **kwargs)

        return wrapper

    patches.wrap(module, "connect", make)


def _connection_class(extensions: Any) -> type:
    base: Any = extensions.connection
    classes: dict[type, type] = {}

    class Connection(base):  # type: ignore[misc]  # a base that is only known at runtime
        vantage_agent_database: Database | None = None

        def cursor(self, name: Any = None, cursor_factory: Any = None, *args: Any, **kwargs: Any) -> Any:
            factory = cursor_factory or self.cursor_factory or extensions.cursor
            if isinstance(factory, type) and issubclass(factory, extensions.cursor):
                measured_class = classes.get(factory)
                if measured_class is None and len(classes) < CLASSES_MAX:
                    measured_class = classes[factory] = _cursor_class(factory)
                factory = measured_class or factory
            return super().cursor(name, factory, *args, **kwargs)

    return named_as(base, Connection)


def _cursor_class(base: Any) -> type:
    class Cursor(base):  # type: ignore[misc]
        execute = _measured(base.execute)
        executemany = _measured(base.executemany)

    return named_as(base, Cursor)


def _measured(original: Any) -> Any:
    method = measured(_begin)(original)
    method.__name__, method.__doc__ = original.__name__, original.__doc__
    return method


def _begin(cursor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Span | None:
    return begin_query("psycopg2", text_of(args[0] if args else kwargs.get("query")), _database, cursor)


def _database(cursor: Any) -> Database:
    connection = cursor.connection
    known: Database | None = connection.vantage_agent_database
    if known is None:
        try:
            info = connection.info
            known = connection.vantage_agent_database = ("postgresql", info.host, info.port, info.dbname)
        except Exception:  # it is closed
            return _UNKNOWN
    return known
