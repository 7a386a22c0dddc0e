"""Migrate a metadata database to the newest revision.

A migration is a file ``versions/NNNN_what.py`` whose revision id is NNNN, and they form one line: so the known
revisions are read from file names. Alembic is imported only to run migrations, since it would stay in the memory of
every server.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from vantage.core.errors import ConfigError, FormatTooNew, StoreUnavailable
from vantage.resources import migrations_dir
from vantage.storage.metadata import sqlite
from vantage.storage.metadata.errors import driver_errors
from vantage.storage.metadata.postgres import PostgresUrl, is_postgres, parse_url, run_in_transaction
from vantage.storage.write_access import why_read_only

if TYPE_CHECKING:
    from sqlalchemy import Connection

_VERSION_TABLE = "alembic_version"


def known() -> list[str]:
    """Return the names of all migrations of this version, such as ``0001_first``, oldest first."""
    return sorted(path.stem for path in (_folder() / "versions").glob("[0-9][0-9][0-9][0-9]_*.py"))


def pending(url: str) -> list[str]:
    """Return the names of the migrations that the database lacks, oldest first. Changes and creates nothing.

    Raises FormatTooNew, ConfigError when the database is not Vantage's or refuses the login, StoreUnavailable.
    """
    if is_postgres(url):
        return _pending_on_server(parse_url(url))
    path = sqlite.path_of(url)
    with driver_errors():
        if not path.exists():
            return known()
        engine = sqlite.reading_engine(path)
        try:
            with engine.connect() as connection:
                return _missing(connection, str(path))
        finally:
            engine.dispose()


def upgrade(url: str) -> list[str]:
    """Migrate the database to the newest revision, and create it if needed. Return the names of the migrations.

    On return they are committed, all together; after any error none is. May be repeated, and run by several processes
    at once: they wait for each other. Raises what ``pending`` raises.
    """
    if not pending(url):
        return []
    if is_postgres(url):
        return _upgrade_server(parse_url(url))
    path = sqlite.path_of(url)
    if reason := why_read_only((path.parent, path)):
        raise StoreUnavailable(f"{reason}, and {path} must be created or migrated")
    with driver_errors():
        sqlite.create_file(path)
        engine = sqlite.writing_engine(path)
        try:
            with engine.begin() as connection:
                # Check again under the write lock: another process may have been faster.
                return _run_missing(connection, str(path))
        finally:
            engine.dispose()


def _pending_on_server(url: PostgresUrl) -> list[str]:
    return asyncio.run(run_in_transaction(url, lambda connection: _missing(connection, url.where), locked=False))


def _upgrade_server(url: PostgresUrl) -> list[str]:
    return asyncio.run(run_in_transaction(url, lambda connection: _run_missing(connection, url.where), locked=True))


def _run_missing(connection: Connection, name: str) -> list[str]:
    missing = _missing(connection, name)
    if missing:
        _run(connection)
    return missing


def _missing(connection: Connection, name: str) -> list[str]:
    """Return the migrations that the database called ``name`` lacks."""
    names = known()
    tables = inspect(connection).get_table_names()
    if _VERSION_TABLE not in tables:
        if tables:
            raise ConfigError(f"{name} is a database of something else: the metadata URL must name one of its own")
        return names
    at = sorted(connection.execute(text(f"SELECT version_num FROM {_VERSION_TABLE}")).scalars())  # noqa: S608 - constant
    if not at:
        return names
    revisions = [name[:4] for name in names]
    if len(at) != 1 or at[0] not in revisions:
        raise FormatTooNew(
            f"{name} is at revision {', '.join(at)}, which this version of Vantage does not know: run the version that "
            "wrote it, or a newer one; nothing was touched"
        )
    return names[revisions.index(at[0]) + 1 :]


def _run(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    # ConfigParser would interpolate a single %.
    config.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _folder() -> Path:
    return migrations_dir() / "metadata"
