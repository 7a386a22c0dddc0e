"""The tables: numbered files of SQL, applied in order and written down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vantage import resources
from vantage.core.errors import FormatTooNew
from vantage.storage.clickhouse.engine import Engine, Statement

_VERSION_TABLE: Final = """CREATE TABLE IF NOT EXISTS schema_migrations
(
    version UInt32,
    name String,
    applied_at DateTime('UTC') DEFAULT now('UTC')
)
ENGINE = MergeTree
ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"""
# The tables that inserts of data end up in, directly or through a view.
DATA_TABLES: Final = (
    "samples",
    "series",
    "exemplars",
    "rollups_5m",
    "rollups_1h",
    "spans",
    "span_times",
    "batch_ids",
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One statement, and the number its file begins with."""

    version: int
    name: str
    text: str


def migrations(folder: Path | None = None) -> list[Migration]:
    """Every migration, in order."""
    folder = folder or resources.migrations_dir() / "clickhouse"
    files = sorted(folder.glob("[0-9]*.sql"))
    return [Migration(int(file.stem.partition("_")[0]), file.stem, file.read_text(encoding="utf-8")) for file in files]


def migrate(engine: Engine, wanted: list[Migration]) -> list[str]:
    """Apply what is missing; the names of what was applied. A statement may have run without being written down (the
    process was killed in between): each can be repeated. Raises FormatTooNew before anything is changed."""
    engine.run(Statement(_VERSION_TABLE))
    held = engine.run(Statement("SELECT toInt64(version) AS version FROM schema_migrations"))
    applied = set(held.to_list("version"))
    newest = wanted[-1].version
    if applied and max(applied) > newest:
        raise FormatTooNew(
            f"the tables are at version {max(applied)}, which a newer Vantage made; this one knows version {newest}"
        )
    missing = [one for one in wanted if one.version not in applied]
    for one in missing:
        engine.run(Statement(one.text))
        engine.run(
            Statement(
                "INSERT INTO schema_migrations (version, name) SELECT {version:UInt32}, {name:String}",
                {"version": one.version, "name": one.name},
            )
        )
    return [one.name for one in missing]


def make_durable(engine: Engine, *, fsync: bool) -> None:
    """Whether the engine waits for the disk at each insert, or a power cut may take the last seconds."""
    for table in DATA_TABLES:
        engine.run(
            Statement(
                f"ALTER TABLE {table} MODIFY SETTING fsync_after_insert = {int(fsync)}, "
                f"fsync_part_directory = {int(fsync)}"
            )
        )
