"""SQLAlchemy: each statement of a connection, with any driver. A streamed result counts up to its first row.

Events would be the public way, but ``Engine`` still behaves as if there were listeners after the last one was removed.
All statements pass through one function, in 2.0 and 2.1; those of asyncio run it in a greenlet with the context of
their task.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._db_client import Database, begin_query, measured
from vantage_agent._patch import Patches
from vantage_agent._span import Span


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``sqlalchemy.engine.base``."""
    patches.wrap(module.Connection, "_execute_context", measured(_begin))


def _begin(connection: Any, args: tuple[Any, ...], _kwargs: Any) -> Span | None:
    try:
        statement = args[2]  # after dialect and constructor
        statement = getattr(statement, "string", statement)  # of a compiled statement
    except Exception:  # another SQLAlchemy
        statement = ""
    return begin_query("sqlalchemy", statement, _database, connection)


def _database(connection: Any) -> Database:
    engine = connection.engine
    url = engine.url
    return engine.dialect.name, url.host, url.port, url.database
