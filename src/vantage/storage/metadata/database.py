"""What the metadata store needs of a database: connections that read, and transactions that write one at a time."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

WAIT_S: Final = 10.0  # for a connection, and for the changes of this process before this one


class Database(Protocol):
    """One database, of one kind. Errors of its driver become Vantage's own."""

    async def open(self) -> None:
        """Bring the schema up to date, and check that the database answers. Raises StartupError, StoreUnavailable."""
        ...

    async def close(self) -> None:
        """Close after the current change. Later uses raise StoreUnavailable."""
        ...

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Return a connection that reads what is committed. Raises StoreUnavailable."""
        ...

    def write(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Begin a transaction that commits at the end or rolls back on an error.

        Transactions of all processes run one after the other: what one reads stays true until it commits, and the audit
        log's ids grow in the order of commits. Raises StoreUnavailable, ConflictError.
        """
        ...


async def check_answers(connection: AsyncConnection) -> None:
    """Read from the database: SELECT 1 would not even open a file."""
    await connection.execute(text("SELECT version_num FROM alembic_version"))
