"""The metadata contract on PostgreSQL, and what only a database that processes share can promise."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, inspect, text

from tests.contracts.metadata_contract import (
    AnyStore,
    MetadataContract,
    MovedClock,
    OpenStore,
    a_deployment,
    a_key,
)
from tests.support.certificate import make_certificate
from tests.support.databases import PostgresServer, postgres_server
from tests.support.wait import until
from vantage.core.audit import AuditEntry
from vantage.core.clock import SystemClock
from vantage.core.errors import ConfigError, ConflictError, FormatTooNew, InputError, StoreUnavailable
from vantage.storage.metadata import migrate, postgres, postgres_database, schema
from vantage.storage.metadata.ports import MetadataStore
from vantage.storage.metadata.store import SqlMetadataStore

pytest.importorskip("asyncpg", reason="pip install 'vantage[server,postgres]'")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def database(server: PostgresServer) -> str:
    return server.new_database()


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    return server.url(database)


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncIterator[AnyStore]:
    async with open_store() as opened:
        yield opened


class TestPostgres(MetadataContract):
    @pytest.fixture
    def open_store(self, url: str, clock: MovedClock) -> OpenStore:
        return lambda: SqlMetadataStore(url, clock, busy_timeout_ms=200)

    async def test_two_stores_see_each_others_changes(self, open_store: OpenStore) -> None:
        async with open_store() as first, open_store() as second:
            await second.create_key(a_key(), actor="cli")
            assert list(await first.keys()) == [a_key()]
            changed = await first.last_change_id()
            await first.record_deployment(a_deployment(), actor="system")
            assert not await second.record_deployment(a_deployment(), actor="system")
            assert await second.last_change_id() > changed

    async def test_of_keys_of_one_name_that_two_stores_create_at_once_one_is_stored(
        self, url: str, clock: MovedClock
    ) -> None:
        async with SqlMetadataStore(url, clock) as first, SqlMetadataStore(url, clock) as second:
            created = (
                store.create_key(a_key(key_id=f"id-{n}-{name}"), actor="cli")
                for n in range(20)
                for name, store in (("one", first), ("other", second))
            )
            outcomes = await asyncio.gather(*created, return_exceptions=True)
            assert sum(outcome is None for outcome in outcomes) == 1
            assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 39
            assert len(await first.keys()) == len(await second.audit()) == 1

    async def test_a_reader_that_follows_the_last_change_id_misses_no_change(self, url: str, clock: MovedClock) -> None:
        async with (
            SqlMetadataStore(url, clock) as first,
            SqlMetadataStore(url, clock) as other,
            SqlMetadataStore(url, clock) as reader,
        ):
            # What replicas do: read again only when the number has grown.
            seen: list[tuple[int, int]] = []

            async def follow() -> None:
                while not seen or seen[-1][1] < 60:
                    last_id = await reader.last_change_id()
                    if not seen or last_id != seen[-1][0]:
                        seen.append((last_id, len(await reader.keys())))

            async def create(store: SqlMetadataStore, name: str) -> None:
                for number in range(30):
                    await store.create_key(a_key(f"{name}-{number}"), actor="cli")

            async with asyncio.timeout(60):
                await asyncio.gather(follow(), create(first, "a"), create(other, "b"))
            assert all(keys >= last_id for last_id, keys in seen), seen

    async def test_a_change_waits_for_that_of_another_process_and_then_gives_up(
        self, store: AnyStore, url: str
    ) -> None:
        with psycopg.connect(url) as other:
            other.execute(f"SELECT pg_advisory_xact_lock({postgres.CHANGE_LOCK})".encode())
            with pytest.raises(StoreUnavailable, match="lock timeout"):
                await store.create_key(a_key(), actor="cli")
            assert list(await store.keys()) == [], "readers go on meanwhile"
        await store.create_key(a_key(), actor="cli")
        assert list(await store.keys()) == [a_key()]

    async def test_a_process_that_stands_still_in_a_change_does_not_stop_the_others(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres_database, "IDLE_S", 1)
        clock = SystemClock()
        async with SqlMetadataStore(url, clock) as frozen, SqlMetadataStore(url, clock) as other:
            with pytest.raises(StoreUnavailable):
                async with frozen._write() as connection:
                    await connection.exec_driver_sql("DELETE FROM deployment")
                    outcomes = await asyncio.gather(other.create_key(a_key(), actor="cli"), return_exceptions=True)
                    await connection.exec_driver_sql("DELETE FROM deployment")
            assert outcomes[0] is None
            await until(lambda: works(frozen))

    async def test_cancelled_changes_are_complete_or_absent(self, store: AnyStore) -> None:
        for n in range(40):
            change = asyncio.create_task(store.create_key(a_key(str(n)), actor="cli"))
            await asyncio.sleep(n * 0.0003)
            change.cancel()
            await asyncio.gather(change, return_exceptions=True)
        await store.create_key(a_key("last"), actor="cli")
        names = {key.name for key in await store.keys()}
        assert "last" in names
        assert {entry.detail["name"] for entry in await store.audit(limit=100)} == names

    @pytest.mark.parametrize("change", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit"])
    async def test_the_audit_log_cannot_be_altered(self, store: AnyStore, change: str) -> None:
        assert isinstance(store, SqlMetadataStore)
        await store.record_audit(AuditEntry(1, "system", "test", "subject"))
        with pytest.raises(StoreUnavailable, match="append-only"):
            async with store._write() as connection:
                await connection.exec_driver_sql(change)
        assert [entry.actor for entry in await store.audit()] == ["system"]

    @pytest.mark.parametrize("name", ["\0", "a\0b", "\ud800"])
    async def test_a_text_that_postgresql_cannot_store_is_wrong_input(self, store: AnyStore, name: str) -> None:
        with pytest.raises(InputError):
            await store.record_deployment(a_deployment(source="reported", description=name), actor="ci")
        with pytest.raises(InputError):
            await store.deployments(service=name)
        assert list(await store.deployments()) == []

    async def test_no_more_connections_are_opened_than_the_limit(
        self, store: AnyStore, server: PostgresServer, database: str
    ) -> None:
        await asyncio.gather(*(store.keys() for _ in range(50)))
        rows = server.run(
            f"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'vantage' AND datname = '{database}'"
        )
        assert rows == [(postgres_database.CONNECTIONS,)]


async def works(store: SqlMetadataStore) -> bool:
    """Return whether a store accepts a change."""
    try:
        await store.record_audit(AuditEntry(1, "system", "test", "subject"))
    except StoreUnavailable:
        return False
    return True


# --- migrations


def test_processes_that_migrate_at_once_take_turns(url: str) -> None:
    script = "import sys; from vantage.storage.metadata import migrate; print(len(migrate.upgrade(sys.argv[1])))"
    command = [sys.executable, "-c", script, url]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [process.communicate(timeout=60) for process in running]
    assert sorted(out.strip() for out, _ in answers) == ["0", "0", "0", str(len(migrate.known()))], answers


def test_what_is_pending_is_listed_and_nothing_is_changed(url: str, server: PostgresServer, database: str) -> None:
    assert migrate.pending(url) == migrate.known()
    assert server.run("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", database=database) == []
    assert migrate.upgrade(url) == migrate.known()
    assert migrate.pending(url) == migrate.upgrade(url) == []


def test_the_newest_revision_matches_the_schema(url: str, server: PostgresServer) -> None:
    migrate.upgrade(url)
    other = server.url(server.new_database())
    described = []
    for each in (url, other):
        engine = create_engine(each.replace("postgresql://", "postgresql+psycopg://"))
        if each == other:
            schema.metadata.create_all(engine)
        inspector = inspect(engine)
        names = sorted(set(inspector.get_table_names()) - {"alembic_version"})
        described.append(
            [
                (
                    name,
                    [
                        (column["name"], str(column["type"]), column["nullable"], column["default"])
                        for column in inspector.get_columns(name)
                    ],
                    sorted(map(repr, inspector.get_indexes(name))),
                    inspector.get_pk_constraint(name),
                    inspector.get_unique_constraints(name),
                )
                for name in names
            ]
        )
        engine.dispose()
    assert described[0] == described[1]


def test_a_newer_schema_is_refused_and_not_touched(url: str, server: PostgresServer, database: str) -> None:
    migrate.upgrade(url)
    server.run("UPDATE alembic_version SET version_num = '9999'", database=database)
    for use in (migrate.pending, migrate.upgrade):
        with pytest.raises(FormatTooNew, match="9999"):
            use(url)
    assert server.run("SELECT version_num FROM alembic_version", database=database) == [("9999",)]


def test_a_database_of_another_program_is_refused(url: str, server: PostgresServer, database: str) -> None:
    server.run("CREATE TABLE notes (text TEXT)", database=database)
    with pytest.raises(ConfigError, match="something else"):
        migrate.upgrade(url)


def test_a_failed_migration_is_rolled_back(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = migrate._run

    def run_and_fail(connection: object) -> None:
        run(connection)  # type: ignore[arg-type]
        raise OSError("broken")

    monkeypatch.setattr(migrate, "_run", run_and_fail)
    with pytest.raises(StoreUnavailable, match="broken"):
        migrate.upgrade(url)
    monkeypatch.undo()
    assert migrate.upgrade(url) == migrate.known()


# --- URLs and logins


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("postgresql://me:pw@host/db", "host:5432/db"),
        ("postgres://me@host:5433/db", "host:5433/db"),
        ("postgresql://host,other:5433/db?sslmode=require", "host:5432,other:5433/db"),
        ("postgresql://me:p%40w%2F@[::1]:5433/db", "::1:5433/db"),
        ("postgresql:///db?host=/run/postgresql", "/run/postgresql:5432/db"),
        ("postgresql://me@/db?host=/run/postgresql&port=5433", "/run/postgresql:5433/db"),
    ],
)
def test_a_url_names_hosts_and_a_database(address: str, where: str) -> None:
    assert postgres.parse_url(address).where == where
    assert repr(postgres.parse_url(address)) == f"PostgresUrl({where})"


def test_login_and_password_are_decoded() -> None:
    url = postgres.parse_url("postgresql://a%3Ab:p%40w%2F%3A@host/db")
    assert (url.user, url.password) == ("a:b", "p@w/:")


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://",
        "postgresql://me:geheim@host",
        "postgresql://me:geheim@host/",
        "postgresql://me:geheim@/db",
        "postgresql://me:geheim@/db?host=localhost",
        "postgresql://me:geheim@/db?host=/run&port=high",
        "mysql://me:geheim/x@host/db",
        "postgresql://me:geheim/x@host/db",
        "postgresql://me:geheim@host:port/db",
        "postgresql://me:geheim@host:0/db",
        "postgresql://me:geheim@host:70000/db",
        "postgresql://me:geheim@host/db?sslmod=require",
        "postgresql://me:geheim@host/db?password=geheim",
        "postgresql://me:geheim@host/db?sslmode=always",
        "postgresql://" + ",".join(f"h{n}" for n in range(17)) + "/db",
    ],
)
def test_a_wrong_url_is_refused_without_the_password(address: str, clock: MovedClock) -> None:
    with pytest.raises(ConfigError) as refused:
        SqlMetadataStore(address, clock)
    assert "geheim" not in str(refused.value)


async def test_a_refused_login_says_so_without_the_password(server: PostgresServer, clock: MovedClock) -> None:
    for database, user in (("nowhere", "vantage"), ("postgres", "nobody")):
        url = f"postgresql://{user}:geheim@127.0.0.1:{server.port}/{database}"
        with pytest.raises(ConfigError, match=r"refuses: .* does not exist") as refused:
            async with SqlMetadataStore(url, clock):
                pass
        assert "geheim" not in str(refused.value)


async def test_an_account_that_may_not_create_tables_is_refused(
    url: str, server: PostgresServer, database: str, clock: MovedClock
) -> None:
    server.run("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN")
    with pytest.raises(ConfigError, match="permission denied"):
        async with SqlMetadataStore(url.replace("vantage@", "reader@"), clock):
            pass


async def test_a_unix_socket_is_found_by_its_folder(server: PostgresServer, database: str) -> None:
    url = f"postgresql://vantage@/{database}?host={server.folder}&port={server.port}"
    async with SqlMetadataStore(url, SystemClock()) as store:
        await store.ping()


def test_a_missing_certificate_is_a_wrong_setting(clock: MovedClock) -> None:
    url = postgres.parse_url("postgresql://host/db?sslrootcert=/nowhere.pem")
    assert url.ssl_mode == "verify-full"
    with pytest.raises(ConfigError, match="sslrootcert"):
        postgres.create_engine(url)


async def test_tls_checks_the_certificate_of_the_server(tmp_path: Path) -> None:
    pem, key = make_certificate(tmp_path)
    with postgres_server(certificate=(pem, key)) as server:
        url = server.url(server.new_database())
        for options in ("sslmode=require", f"sslmode=verify-full&sslrootcert={pem}", f"sslrootcert={pem}"):
            async with SqlMetadataStore(f"{url}?{options}", SystemClock()) as store, store._read() as connection:
                encrypted = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
                assert (await connection.execute(encrypted)).scalar_one() is True
        async with SqlMetadataStore(f"{url}?sslmode=verify-full", SystemClock()) as store:
            with pytest.raises(StoreUnavailable, match="certificate"):
                await store.ping()


# --- outages


async def test_a_restart_between_two_uses_is_not_noticed() -> None:
    with postgres_server() as server:
        async with SqlMetadataStore(server.url(server.new_database()), SystemClock()) as store:
            await asyncio.gather(*(store.keys() for _ in range(10)))  # every connection is open
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            assert list(await store.keys()) == []
            await store.create_key(a_key(), actor="cli")


async def test_changes_that_were_acknowledged_survive_kills_and_each_has_its_entry() -> None:
    with postgres_server() as server:
        url = server.url(server.new_database())
        acknowledged: set[str] = set()
        async with SqlMetadataStore(url, SystemClock()) as first, SqlMetadataStore(url, SystemClock()) as second:
            stopped = False

            async def create(store: SqlMetadataStore, prefix: str) -> None:
                number = 0
                while not stopped:
                    number += 1
                    key = a_key(f"{prefix}-{number}")
                    try:
                        await store.create_key(key, actor="cli")
                        acknowledged.add(key.name)
                    except StoreUnavailable:
                        await asyncio.sleep(0.05)

            writers = [asyncio.create_task(create(store, name)) for store, name in ((first, "a"), (second, "b"))]
            for _ in range(3):
                before = len(acknowledged)
                await until(lambda before=before: len(acknowledged) > before + 20)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            before = len(acknowledged)
            await until(lambda: len(acknowledged) > before + 20)
            stopped = True
            await asyncio.gather(*writers)
            stored = {key.name for key in await first.keys()}
            entries = [entry.detail["name"] for entry in await second.audit(limit=100_000)]
            assert acknowledged <= stored
            assert sorted(entries) == sorted(stored)
            # What was not acknowledged may have been stored: one change of each writer for each kill.
            assert len(stored - acknowledged) <= 6


async def test_connections_to_a_server_that_became_a_standby_are_not_used_again(url: str) -> None:
    async with SqlMetadataStore(url, SystemClock()) as store:
        await store.create_key(a_key(), actor="cli")
        async with store._read() as connection:  # what such a connection does
            await connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            await connection.commit()
        with pytest.raises(StoreUnavailable, match="read-only"):
            await store.revoke_key("shop", actor="cli")
        await store.revoke_key("shop", actor="cli")


async def test_a_store_opens_while_the_server_is_away_and_works_once_it_is_back() -> None:
    with postgres_server() as server:
        url = server.url(server.new_database())
        server.kill()
        async with SqlMetadataStore(url, SystemClock()) as store:
            for use in (store.ping(), store.keys(), store.create_key(a_key(), actor="cli")):
                with pytest.raises(StoreUnavailable, match="cannot be reached"):
                    await use
            server.start()
            await until(lambda: works(store))
            await store.create_key(a_key(), actor="cli")
            # Killed with open connections, and started again.
            for _ in range(3):
                server.kill()
                with pytest.raises(StoreUnavailable):
                    await store.keys()
                server.start()
                await until(lambda: works(store))
                assert list(await store.keys()) == [a_key()]


async def test_a_server_that_stands_still_costs_one_caller_its_time_and_the_others_none() -> None:
    with postgres_server() as server:
        url = server.url(server.new_database())
        async with SqlMetadataStore(url, SystemClock()) as store:
            await store.create_key(a_key(), actor="cli")
            server.pause()
            with pytest.raises(StoreUnavailable):
                await store.keys()
            attempts = [asyncio.create_task(store.keys()) for _ in range(200)]
            await asyncio.wait(attempts, timeout=postgres.COMMAND_S / 2)
            assert sum(attempt.done() for attempt in attempts) >= 199
            server.resume()
            await asyncio.gather(*attempts, return_exceptions=True)
            await until(lambda: works(store))
            assert list(await store.keys()) == [a_key()]


def test_the_store_fits_the_port(clock: MovedClock) -> None:
    store: MetadataStore = SqlMetadataStore("postgresql://host/db", clock)
    assert store is not None
