"""asyncpg: each statement of a connection, of a pool or of a prepared statement, up to its last row.

Cursors, ``copy`` and what asyncpg sends by itself (transactions, and the reset of a connection that returns to its
pool) are not instrumented.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from vantage_agent._db_client import Database, begin_query, measured_async
from vantage_agent._patch import Patches
from vantage_agent._span import Span

_METHODS = ("fetch", "fetchval", "fetchrow", "fetchmany", "executemany")
_OWN = frozenset(("asyncpg.transaction", "asyncpg.connection"))


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``asyncpg.connection`` or ``asyncpg.prepared_stmt``."""
    if module.__name__ == "asyncpg.connection":
        for name in ("execute", *_METHODS):
            patches.wrap(module.Connection, name, measured_async(_begin))
    else:
        for name in _METHODS:
            patches.wrap(module.PreparedStatement, name, measured_async(_begin_prepared))


def _begin(connection: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Span | None:
    caller = sys._getframe(2)  # noqa: SLF001  # above the wrapper
    if caller.f_globals.get("__name__") in _OWN:
        return None
    return begin_query(
        "asyncpg", args[0] if args else kwargs.get("query") or kwargs.get("command"), _database, connection
    )


def _begin_prepared(statement: Any, _args: Any, _kwargs: Any) -> Span | None:
    return begin_query("asyncpg", getattr(statement, "_query", ""), _database_of, statement)


def _database_of(statement: Any) -> Database:
    return _database(statement._connection)  # noqa: SLF001


def _database(connection: Any) -> Database:
    try:
        address, name = connection._addr, connection._params.database  # noqa: SLF001
    except AttributeError:  # another asyncpg
        return "postgresql", None, None, None
    if isinstance(address, tuple):
        return "postgresql", address[0], address[1], name
    return "postgresql", None, None, name
