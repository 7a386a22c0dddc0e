"""The metadata schema: made, upgraded, guarded."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import util
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from vantage.core.audit import AuditEntry
from vantage.core.clock import SystemClock
from vantage.core.deployment import Deployment
from vantage.core.errors import ConfigError, FormatTooNew, StoreUnavailable
from vantage.resources import migrations_dir
from vantage.storage.metadata import migrate, schema
from vantage.storage.metadata import store as metadata_store
from vantage.storage.metadata.store import SqlMetadataStore

ENTRY = AuditEntry(1, "system", "test", "subject")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metadata.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_an_empty_database_is_brought_to_the_newest_revision(url: str) -> None:
    names = migrate.known()
    assert migrate.pending(url) == names
    assert migrate.upgrade(url) == names
    assert migrate.pending(url) == []
    assert migrate.upgrade(url) == []


def test_asking_what_is_pending_makes_no_file(url: str, tmp_path: Path) -> None:
    migrate.pending(url)
    assert list(tmp_path.iterdir()) == []


def test_file_names_match_the_revisions_of_alembic() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_dir() / "metadata"))
    config.set_main_option("path_separator", "os")
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert [name[:4] for name in migrate.known()] == revisions[::-1]


def test_the_newest_revision_matches_the_schema(url: str, path: Path) -> None:
    migrate.upgrade(url)
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"compare_type": True, "compare_server_default": True}
            )
            assert compare_metadata(context, schema.metadata) == []
    finally:
        engine.dispose()


def test_the_newest_revision_has_the_very_statements_of_the_schema(url: str, path: Path) -> None:
    # The comparison above does not see conditions of indexes, or AUTOINCREMENT.
    migrate.upgrade(url)
    from_schema = path.with_name("schema.db")
    engine = create_engine(f"sqlite:///{from_schema}")
    schema.metadata.create_all(engine)
    engine.dispose()

    def statements(database: Path) -> dict[str, str]:
        with closing(sqlite3.connect(database)) as connection:
            rows = connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL"
            ).fetchall()
        return {name: " ".join(sql.split()) for name, sql in rows if name not in ("alembic_version", "sqlite_sequence")}

    assert statements(path) == statements(from_schema)


def test_the_first_migration_compiles_for_postgresql() -> None:
    output = io.StringIO()
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": output})
    (file,) = (migrations_dir() / "metadata/versions").glob("0001_*.py")
    spec = util.spec_from_file_location("first_migration", file)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with Operations.context(context):
        module.upgrade()
    assert "id BIGSERIAL NOT NULL" in output.getvalue()
    assert "WHERE source = 'seen'" in output.getvalue()
    assert "BEFORE UPDATE OR DELETE OR TRUNCATE ON audit" in output.getvalue()


# DELETE: as a copied database may be. Opening that for writing would alter its header.
@pytest.mark.parametrize("journal_mode", ["WAL", "DELETE"])
@pytest.mark.parametrize("revision", ["9999", "not-ours"])
async def test_a_revision_of_another_version_is_refused_and_the_file_not_changed(
    url: str, path: Path, revision: str, journal_mode: str
) -> None:
    migrate.upgrade(url)
    run_sql(path, f"UPDATE alembic_version SET version_num = '{revision}'", f"PRAGMA journal_mode = {journal_mode}")
    before = digest(path)
    for use in (migrate.pending, migrate.upgrade):
        with pytest.raises(FormatTooNew, match=revision):
            use(url)
    with pytest.raises(FormatTooNew):
        async with SqlMetadataStore(url, SystemClock()):
            pass
    assert digest(path) == before


def test_the_write_ahead_log_of_a_crashed_newer_version_is_not_changed(url: str, path: Path, tmp_path: Path) -> None:
    migrate.upgrade(url)
    crashed = tmp_path / "crashed.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{crashed}{suffix}")
    log = Path(f"{crashed}-wal")
    before = digest(crashed), digest(log)
    with pytest.raises(FormatTooNew, match="9999"):
        migrate.upgrade(f"sqlite:///{crashed}")
    assert (digest(crashed), digest(log)) == before


def test_a_database_of_another_program_is_refused_and_not_changed(url: str, path: Path) -> None:
    run_sql(path, "CREATE TABLE notes (text TEXT)")
    before = digest(path)
    with pytest.raises(ConfigError, match="something else"):
        migrate.upgrade(url)
    assert digest(path) == before


def test_a_failed_migration_is_rolled_back(url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = migrate._run

    def run_and_fail(connection: object) -> None:
        run(connection)  # type: ignore[arg-type]
        raise OSError("no space left")

    monkeypatch.setattr(migrate, "_run", run_and_fail)
    with pytest.raises(StoreUnavailable, match="no space left"):
        migrate.upgrade(url)
    monkeypatch.undo()
    assert migrate.pending(url) == migrate.known()
    assert migrate.upgrade(url) == migrate.known()


def test_processes_that_make_the_database_at_once_take_turns(url: str) -> None:
    script = "import sys; from vantage.storage.metadata import migrate; print(len(migrate.upgrade(sys.argv[1])))"
    command = [sys.executable, "-c", script, url]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [process.communicate(timeout=60) for process in running]
    assert sorted(out.strip() for out, _ in answers) == ["0", "0", "0", str(len(migrate.known()))], answers


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET actor = 'nobody'",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit (id, at_ms, actor, action, subject, detail) VALUES (1, 2, 'x', 'x', 'x', '{}')",
    ],
)
async def test_the_database_refuses_to_alter_or_remove_an_audit_entry(url: str, change: str) -> None:
    async with SqlMetadataStore(url, SystemClock()) as store:
        await store.record_audit(ENTRY)
        with pytest.raises(Exception, match="append-only"):
            async with store._write() as connection:
                await connection.exec_driver_sql(change)
        assert [entry.actor for entry in await store.audit()] == ["system"]
        await store.record_audit(ENTRY)
        assert len(await store.audit()) == 2


async def test_the_file_and_those_beside_it_are_for_their_owner_alone(url: str, path: Path) -> None:
    before = os.umask(0)
    try:
        async with SqlMetadataStore(url, SystemClock()) as store:
            await store.record_audit(ENTRY)
            modes = {result.name: stat.S_IMODE(result.stat().st_mode) for result in path.parent.iterdir()}
    finally:
        os.umask(before)
    names = ("metadata.db", "metadata.db-wal", "metadata.db-shm", "metadata.db.reserve")
    assert modes == dict.fromkeys(names, 0o600)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions mean nothing to root: put it off for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_file_that_may_only_be_read_is_unavailable_until_it_may_be_written() -> None:
    # Not in tmp_path, whose parents are closed to anybody else.
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "metadata.db"
        url = f"sqlite:///{path}"
        async with SqlMetadataStore(url, SystemClock()) as store:
            await store.record_audit(ENTRY)
        path.chmod(0o444)
        path.parent.chmod(0o555)
        with as_nobody(), pytest.raises(StoreUnavailable):
            async with SqlMetadataStore(url, SystemClock()) as store:
                await store.record_audit(ENTRY)
        path.parent.chmod(0o755)
        path.chmod(0o600)
        async with SqlMetadataStore(url, SystemClock()) as store:
            await store.record_audit(ENTRY)
            assert len(await store.audit()) == 2


async def test_a_change_refused_as_read_only_is_unavailable_and_succeeds_later(url: str) -> None:
    async with SqlMetadataStore(url, SystemClock()) as store:
        for setting in ("ON", "OFF"):
            async with store._read() as first, store._read() as two:
                for connection in (first, two):
                    await connection.exec_driver_sql(f"PRAGMA query_only = {setting}")
            if setting == "ON":
                with pytest.raises(StoreUnavailable, match="readonly"):
                    await store.record_audit(ENTRY)
        await store.record_audit(ENTRY)
        assert len(await store.audit()) == 1


async def test_sources_of_deployments_take_their_present_names(url: str, path: Path) -> None:
    migrate.upgrade(url)
    run_sql(
        path,
        "DROP INDEX uq_deployment_detected",
        "CREATE UNIQUE INDEX uq_deployment_seen ON deployment (service, environment, version) WHERE source = 'seen'",
        "INSERT INTO deployment (service, environment, version, at_ms, source, description) VALUES "
        "('api', 'e', '1', 1, 'seen', ''), ('api', 'e', '2', 2, 'told', 'new cart')",
        "DROP TABLE stream_position",
        "DROP TABLE saved_query",
        "DROP TABLE comparison",
        "DROP TABLE anomaly",
        *(
            f"DROP TABLE {name}"
            for name in (
                "alert_rule",
                "alert",
                "alert_event",
                "alert_evaluation",
                "alert_settings",
                "channel",
                "silence",
                "notification",
                "notified_alert",
                "notice_group",
                "slo",
                "heartbeat",
                "http_check",
            )
        ),
        "UPDATE alembic_version SET version_num = '0001'",
    )
    async with SqlMetadataStore(url, SystemClock()) as store:
        sources = {deployment.version: deployment.source for deployment in await store.deployments()}
        assert sources == {"1": "detected", "2": "reported"}
        assert await store.record_deployment(Deployment("api", "e", "1", 5, "detected"), actor="system") is False


async def test_detected_deployments_cannot_fill_the_disk(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_store, "DETECTED_MAX", 5)
    monkeypatch.setattr(metadata_store, "DETECTED_AUDITED_MAX", 7)
    monkeypatch.setattr(metadata_store, "PRUNE_EVERY", 10)
    async with SqlMetadataStore(url, SystemClock()) as store:
        await store.record_deployment(Deployment("api", "", "reported", 1, "reported"), actor="ci")
        for i in range(40):
            await store.record_deployment(Deployment("api", "", f"v{i}", 1000 + i, "detected"), actor="system")
        versions = [deployment.version for deployment in await store.deployments(limit=1000)]
        assert versions == ["v39", "v38", "v37", "v36", "v35", "reported"]
        assert [entry.actor for entry in await store.audit(limit=1000)] == ["system"] * 7 + ["ci"]
