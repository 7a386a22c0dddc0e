"""SQLAlchemy: each statement of a connection, whatever the driver. A streamed result counts up to its first answer.

Events would be the public way, but ``Engine`` keeps the mark that there are listeners after the last was removed. All
statements pass through one function instead, in 2.0 and 2.1; those of asyncio run it in a greenlet that has the context
of its task.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._database import Database, begin_query, end_query
from vantage_agent._patch import Patches


def patch(patches: Patches, module: ModuleType) -> None:
    """``sqlalchemy.engine.base``."""

    def make(execute: Any) -> Any:
        def wrapper(self: Any, dialect: Any, constructor: Any, statement: Any, *args: Any, **kwargs: Any) -> Any:
            # Text, or what it was compiled to.
            span = begin_query(getattr(statement, "string", statement), _database, self)
            if span is None:
                return execute(self, dialect, constructor, statement, *args, **kwargs)
            try:
                result = execute(self, dialect, constructor, statement, *args, **kwargs)
            except BaseException as error:
                end_query(span, error)
                raise
            end_query(span, None)
            return result

        return wrapper

    patches.wrap(module.Connection, "_execute_context", make)


def _database(connection: Any) -> Database:
    engine = connection.engine
    url = engine.url
    return engine.dialect.name, url.host, url.port, url.database
