"""The metadata contract on every implementation, and what only a database on disk can promise."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.contracts.metadata_contract import (
    AnyStore,
    MetadataContract,
    MovedClock,
    OpenStore,
    a_deployment,
    a_key,
)
from vantage.core.errors import ConfigError, ConflictError, StoreUnavailable
from vantage.storage.metadata import sqlite_database
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.storage.metadata.ports import MetadataStore
from vantage.storage.metadata.store import SqlMetadataStore


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncIterator[AnyStore]:
    async with open_store() as opened:
        yield opened


class TestMemory(MetadataContract):
    @pytest.fixture
    def open_store(self, clock: MovedClock) -> OpenStore:
        only = MemoryMetadataStore(clock)
        return lambda: only


class TestSqlite(MetadataContract):
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "metadata with % and ü.db"

    @pytest.fixture
    def open_store(self, path: Path, clock: MovedClock) -> OpenStore:
        return lambda: SqlMetadataStore(f"sqlite:///{path}", clock, busy_timeout_ms=200)

    async def test_two_stores_on_one_file_see_each_others_changes(self, open_store: OpenStore) -> None:
        async with open_store() as server, open_store() as command_line:
            await command_line.create_key(a_key(), actor="cli")
            assert list(await server.keys()) == [a_key()]
            changed = await server.last_change_id()
            await server.record_deployment(a_deployment(), actor="system")
            assert not await command_line.record_deployment(a_deployment(), actor="system")
            assert await command_line.last_change_id() > changed

    async def test_two_stores_writing_at_once_lose_nothing(self, path: Path, clock: MovedClock) -> None:
        url = f"sqlite:///{path}"
        async with SqlMetadataStore(url, clock) as first, SqlMetadataStore(url, clock) as other:
            writes = (
                store.create_key(a_key(f"{name}-{n}"), actor="cli")
                for n in range(50)
                for name, store in (("one", first), ("other", other))
            )
            await asyncio.gather(*writes)
            assert len(await first.keys()) == 100
            assert len(await other.audit(limit=200)) == 100

    async def test_another_process_can_create_a_key_while_the_store_is_open(self, store: AnyStore, path: Path) -> None:
        script = """
import asyncio, sys
from vantage.core.clock import SystemClock
from vantage.core.api_key import ApiKey, Scope
from vantage.storage.metadata.store import SqlMetadataStore

async def main():
    async with SqlMetadataStore(sys.argv[1], SystemClock()) as store:
        await store.create_key(ApiKey("id", "elsewhere", frozenset({Scope.READ}), "00", 1), actor="cli")
    print("alembic" in sys.modules)

asyncio.run(main())
"""
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", script, f"sqlite:///{path}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert [key.name for key in await store.keys()] == ["elsewhere"]
        assert done.stdout == "False\n", "alembic is imported although nothing was to be migrated"

    async def test_a_change_that_cannot_get_the_write_lock_is_unavailable_and_succeeds_later(
        self, store: AnyStore, path: Path
    ) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="locked"):
                await store.create_key(a_key(), actor="cli")
            assert list(await store.keys()) == [], "readers go on meanwhile"
            other.execute("ROLLBACK")
        await store.create_key(a_key(), actor="cli")
        assert list(await store.keys()) == [a_key()]

    @pytest.mark.parametrize("table", ["api_key", "audit"])
    async def test_a_change_whose_row_or_entry_cannot_be_written_leaves_neither(
        self, store: AnyStore, path: Path, table: str
    ) -> None:
        with closing(sqlite3.connect(path)) as other:
            other.execute(f"ALTER TABLE {table} RENAME TO away")
            other.commit()
            with pytest.raises(StoreUnavailable):
                await store.create_key(a_key(), actor="cli")
            other.execute(f"ALTER TABLE away RENAME TO {table}")
            other.commit()
        assert list(await store.keys()) == []
        assert list(await store.audit()) == []
        await store.create_key(a_key(), actor="cli")
        assert len(await store.audit()) == 1

    async def test_cancelled_changes_are_whole_or_absent_and_the_store_works_on(self, store: AnyStore) -> None:
        for n in range(60):
            change = asyncio.create_task(store.create_key(a_key(str(n)), actor="cli"))
            await asyncio.sleep(n * 0.0001)
            change.cancel()
            await asyncio.gather(change, return_exceptions=True)
        await store.create_key(a_key("last"), actor="cli")
        names = {key.name for key in await store.keys()}
        assert "last" in names
        assert {entry.detail["name"] for entry in await store.audit(limit=100)} == names

    async def test_a_constraint_of_the_database_is_a_conflict(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            assert isinstance(store, SqlMetadataStore)
            await store.record_deployment(a_deployment(), actor="system")
            columns = "service, environment, version, at_ms, source, description"
            again = f"INSERT INTO deployment ({columns}) SELECT {columns} FROM deployment"
            with pytest.raises(ConflictError):
                async with store._write() as connection:
                    await connection.exec_driver_sql(again)
            assert len(await store.deployments()) == 1

    async def test_waiting_for_a_connection_or_for_other_changes_ends(
        self, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite_database, "WAIT_S", 0.05)
        async with open_store() as store:
            assert isinstance(store, SqlMetadataStore)
            async with store._read(), store._read():
                with pytest.raises(StoreUnavailable, match="no connection"):
                    await store.ping()
            async with store._write():
                with pytest.raises(StoreUnavailable, match="other changes"):
                    await store.create_key(a_key(), actor="cli")
                await store.ping()
            await store.create_key(a_key(), actor="cli")

    async def test_closing_waits_for_the_change_under_way(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            changes = [asyncio.create_task(store.create_key(a_key(str(n)), actor="cli")) for n in range(5)]
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(*changes, return_exceptions=True)
        stored = sum(outcome is None for outcome in outcomes)
        assert all(outcome is None or isinstance(outcome, StoreUnavailable) for outcome in outcomes)
        async with open_store() as store:
            assert len(await store.keys()) == stored

    async def test_a_file_that_is_no_database_is_unavailable(self, path: Path, open_store: OpenStore) -> None:
        path.write_bytes(b"no database at all, " * 100)
        with pytest.raises(StoreUnavailable):
            async with open_store():
                pass

    async def test_a_folder_that_does_not_exist_is_unavailable(self, tmp_path: Path, clock: MovedClock) -> None:
        with pytest.raises(StoreUnavailable):
            async with SqlMetadataStore(f"sqlite:///{tmp_path}/none/metadata.db", clock):
                pass

    @pytest.mark.parametrize(
        "url", ["", "nonsense", "mysql://host/db", "sqlite://", "sqlite:///:memory:", "sqlite:///a.db?timeout=1"]
    )
    def test_a_url_that_names_no_file_is_a_wrong_setting(self, url: str, clock: MovedClock) -> None:
        with pytest.raises(ConfigError):
            SqlMetadataStore(url, clock)

    @pytest.mark.parametrize(
        ("pragma", "value"),
        [("journal_mode", "wal"), ("synchronous", 2), ("busy_timeout", 5000), ("foreign_keys", 1)],
    )
    async def test_every_connection_is_set_up(
        self, path: Path, clock: MovedClock, pragma: str, value: int | str
    ) -> None:
        async with SqlMetadataStore(f"sqlite:///{path}", clock) as store, store._read() as first, store._read() as two:
            for connection in (first, two):
                assert (await connection.exec_driver_sql(f"PRAGMA {pragma}")).scalar_one() == value


def test_both_implementations_fit_the_port(tmp_path: Path, clock: MovedClock) -> None:
    # mypy reads these lines; at run time they only build the two.
    stores: list[MetadataStore] = [
        MemoryMetadataStore(clock),
        SqlMetadataStore(f"sqlite:///{tmp_path}/metadata.db", clock),
    ]
    assert len(stores) == 2
    assert list(tmp_path.iterdir()) == [], "a constructor did I/O"
