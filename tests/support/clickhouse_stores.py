"""Stores on ClickHouse, inside this process and on a server."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from vantage.storage.clickhouse.chdb import ChdbEngine
from vantage.storage.clickhouse.native import NativeEngine
from vantage.storage.clickhouse.schema import migrate, migrations
from vantage.storage.clickhouse.server_url import parse_server_url
from vantage.storage.clickhouse.store import ClickHouseStore


def chdb_store(folder: Path, **options: Any) -> ClickHouseStore:
    """Return a store whose engine is in this process, with all its files in ``folder``."""
    return ClickHouseStore(ChdbEngine(folder / "engine"), folder, **options)


def server_store(url: str, folder: Path | None, **options: Any) -> ClickHouseStore:
    """Return a store on a server. ``folder`` is for unfinished commits."""
    return ClickHouseStore(NativeEngine(parse_server_url(url)), folder, **options)


def store_of(url: str, folder: Path, **options: Any) -> ClickHouseStore:
    """Return the store of a URL; ``chdb:///`` is in this process."""
    return chdb_store(folder, **options) if url == "chdb:///" else server_store(url, folder, **options)


def copy_tables(folder: Path) -> None:
    """Give the ``chdb_store`` of an absent folder its empty tables: a copy of those that the process made first."""
    shutil.copytree(_empty_tables(), folder / "engine", symlinks=True)


@functools.cache
def _empty_tables() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    engine = ChdbEngine(folder / "engine")
    engine.open()
    try:
        migrate(engine, migrations())
    finally:
        engine.close()
    return folder / "engine"
