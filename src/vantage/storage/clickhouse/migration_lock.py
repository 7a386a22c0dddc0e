"""A lock among the processes that migrate the tables of one server.

ClickHouse has no locks, but of several processes that create a table or rename one, one succeeds. The lock is a table;
its comment names the owner. The lock of a process that was killed is taken over after EXPIRES_S.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from typing import Final

from vantage.core.errors import StartupError, StoreUnavailable
from vantage.storage.clickhouse.engine import Engine, Statement

EXPIRES_S: Final = 60
WAIT_S: Final = 180.0
POLL_S: Final = 0.2


@contextlib.contextmanager
def migration_lock(engine: Engine, *, expires_s: float = EXPIRES_S, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the lock. Raises StartupError when another process does not release it."""
    token = secrets.token_hex(8)
    ends_s = time.monotonic() + wait_s
    while (owner := _take(engine, token)) != token:
        if time.monotonic() > ends_s:
            raise StartupError(
                f"another process has been migrating the tables for {wait_s:g} s: if none is, drop migration_lock"
            )
        if owner and _age_s(engine) >= expires_s:
            _take_away(engine, owner)
        time.sleep(POLL_S)
    try:
        yield
    finally:
        engine.run(Statement("DROP TABLE IF EXISTS migration_lock"))


def _take(engine: Engine, token: str) -> str:
    """Try to take the lock, and return its owner; '' when it was released meanwhile."""
    engine.run(Statement(f"CREATE TABLE IF NOT EXISTS migration_lock (at DateTime) ENGINE = Memory COMMENT '{token}'"))
    result = engine.run(
        Statement("SELECT comment FROM system.tables WHERE database = currentDatabase() AND name = 'migration_lock'")
    )
    owners = result.to_list("comment")
    return str(owners[0]) if owners else ""


def _age_s(engine: Engine) -> int:
    """Return how long ago the lock was taken, by the server's clock."""
    result = engine.run(
        Statement(
            "SELECT toInt64(dateDiff('second', metadata_modification_time, now())) AS age FROM system.tables "
            "WHERE database = currentDatabase() AND name = 'migration_lock'"
        )
    )
    return max(result.to_list("age"), default=0)


def _take_away(engine: Engine, owner: str) -> None:
    """Remove the lock of ``owner``, unless another process did: the new name can be given once."""
    stale = f"migration_lock_{owner}"
    with contextlib.suppress(StoreUnavailable):
        engine.run(Statement(f"RENAME TABLE migration_lock TO {stale}"))
        engine.run(Statement(f"DROP TABLE IF EXISTS {stale}"))
