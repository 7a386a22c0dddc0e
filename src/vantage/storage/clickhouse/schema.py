"""The schema: numbered files of SQL, applied in order and recorded."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vantage import resources
from vantage.core.errors import FormatTooNew
from vantage.storage.clickhouse.engine import Engine, Statement
from vantage.storage.clickhouse.migration_lock import migration_lock

_VERSION_TABLE: Final = """CREATE TABLE IF NOT EXISTS schema_migrations
(
    version UInt32,
    name String,
    applied_at DateTime('UTC') DEFAULT now('UTC')
)
ENGINE = MergeTree
ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One statement, and the number at the start of its file's name."""

    version: int
    name: str
    text: str


def migrations(folder: Path | None = None) -> list[Migration]:
    """Return every migration, in order."""
    folder = folder or resources.migrations_dir() / "clickhouse"
    files = sorted(folder.glob("[0-9]*.sql"))
    return [Migration(int(file.stem.partition("_")[0]), file.stem, file.read_text(encoding="utf-8")) for file in files]


def pending(engine: Engine, known: list[Migration]) -> list[Migration]:
    """Return the missing migrations; changes nothing. Raises FormatTooNew."""
    exists = engine.run(
        Statement(
            "SELECT toInt64(count()) AS tables FROM system.tables "
            "WHERE database = currentDatabase() AND name = 'schema_migrations'"
        )
    )
    if not exists.to_list("tables")[0]:
        return known
    recorded = engine.run(Statement("SELECT toInt64(version) AS version FROM schema_migrations"))
    applied = set(recorded.to_list("version"))
    newest = known[-1].version
    if applied and max(applied) > newest:
        raise FormatTooNew(
            f"the tables are at version {max(applied)}, which a newer Vantage made; this one knows version {newest}"
        )
    return [migration for migration in known if migration.version not in applied]


def migrate(engine: Engine, known: list[Migration]) -> list[str]:
    """Apply the missing migrations and return their names.

    A statement may have run without being recorded, if the process was killed in between: each can be repeated. Of
    several processes one migrates, the others wait. Raises FormatTooNew before anything is changed, StartupError.
    """
    if not pending(engine, known):
        return []
    with migration_lock(engine) if engine.shared else contextlib.nullcontext():
        engine.run(Statement(_VERSION_TABLE))
        missing = pending(engine, known)
        for migration in missing:
            engine.run(Statement(migration.text))
            engine.run(
                Statement(
                    "INSERT INTO schema_migrations (version, name) SELECT {version:UInt32}, {name:String}",
                    {"version": migration.version, "name": migration.name},
                )
            )
    return [migration.name for migration in missing]
