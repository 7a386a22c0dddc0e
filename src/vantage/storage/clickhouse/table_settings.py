"""Settings of the tables that can change: durability, deduplication, expiry. Each is read back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from vantage.core.errors import StartupError
from vantage.storage.clickhouse.engine import Engine, Statement

# The tables that receive inserts of data, directly or through a view.
DATA_TABLES: Final = (
    "samples",
    "series",
    "exemplars",
    "rollups_5m",
    "rollups_1h",
    "spans",
    "span_times",
    "batch_ids",
    "red_1m",
    "red_5m",
    "red_1h",
    "span_buckets",
    "edges_5m",
    "edge_buckets",
    "span_services",
)
RED_MINUTES_DAYS: Final = 2  # how long rollups of requests over minutes are kept
DAY_MS: Final = 86_400_000
_SETTING: Final = re.compile(r"(\w+) = ([^,\s]+)")
# When a row of a table is as old as its data.
_TIMES: Final = {
    "samples": "toDateTime(timestamp)",
    "exemplars": "toDateTime(timestamp)",
    "rollups_5m": "toDateTime(timestamp)",
    "rollups_1h": "toDateTime(timestamp)",
    "red_1m": "toDateTime(timestamp)",
    "red_5m": "toDateTime(timestamp)",
    "red_1h": "toDateTime(timestamp)",
    "span_buckets": "toDateTime(timestamp)",
    "edges_5m": "toDateTime(timestamp)",
    "edge_buckets": "toDateTime(timestamp)",
    "span_services": "toDateTime(timestamp)",
    "spans": "toDateTime(intDiv(start_ns, 1000000000))",
    "span_times": "toDateTime(intDiv(last_ns, 1000000000))",
}
_TTL: Final = re.compile(r"\bTTL (.*?)(?= SETTINGS |$)")


def apply_settings(engine: Engine, *, fsync: bool) -> None:
    """Make the tables recognise repeated inserts, and wait for the disk at each insert, or not: then a power cut may
    lose the last seconds. Raises StartupError when a table does not have the settings afterwards."""
    wanted = {"fsync_after_insert": int(fsync), "fsync_part_directory": int(fsync), **engine.deduplication}
    changed = False
    for table, settings in _settings(engine).items():
        changes = [f"{name} = {value}" for name, value in wanted.items() if not _has(settings, name, value)]
        if changes:
            engine.run(Statement(f"ALTER TABLE {table} MODIFY SETTING {', '.join(changes)}"))
            changed = True
    if not changed:
        return
    for table, settings in _settings(engine).items():
        for name, value in wanted.items():
            if not _has(settings, name, value):
                raise StartupError(
                    f"the table {table} has {name} = {settings.get(name, 'its default')} although {value} was set: "
                    "repeated inserts may be stored twice, or inserts be lost in a power cut"
                )


def _has(settings: Mapping[str, str], name: str, value: int) -> bool:
    text = settings.get(name, "")
    return text.isdigit() and (int(text) >= value if "deduplication" in name else int(text) == value)


def _settings(engine: Engine) -> dict[str, dict[str, str]]:
    engines = _engines(engine, DATA_TABLES)
    return {table: dict(_SETTING.findall(text.partition(" SETTINGS ")[2])) for table, text in engines.items()}


def apply_ttl(engine: Engine, *, days: int | None) -> None:
    """Make rows expire by themselves, ``days`` after their time by the server's clock; None: never. Raises StartupError
    when a table does not have that expiry afterwards."""
    changed = False
    for table, ttl in _ttls(engine).items():
        wanted = _ttl(table, days)
        if ttl != wanted:
            change = f"MODIFY TTL {wanted}" if wanted else "REMOVE TTL"
            engine.run(Statement(f"ALTER TABLE {table} {change}"))
            changed = True
    if not changed:
        return
    for table, ttl in _ttls(engine).items():
        if ttl != _ttl(table, days):
            raise StartupError(
                f"the table {table} expires by {ttl or 'nothing'} although {_ttl(table, days) or 'nothing'} was set"
            )


def _ttl(table: str, days: int | None) -> str:
    if table == "red_1m":  # minutes are for the present
        days = min(days or RED_MINUTES_DAYS, RED_MINUTES_DAYS)
    return "" if days is None else f"{_TIMES[table]} + toIntervalDay({days})"


def _ttls(engine: Engine) -> dict[str, str]:
    engines = _engines(engine, tuple(_TIMES))
    return {table: match[1] if (match := _TTL.search(text)) else "" for table, text in engines.items()}


def _engines(engine: Engine, tables: tuple[str, ...]) -> dict[str, str]:
    """Return each table's engine with keys, expiry and settings, as the server prints it. Raises StartupError when one
    is missing."""
    result = engine.run(
        Statement("SELECT name, engine_full AS text FROM system.tables WHERE database = currentDatabase()")
    )
    texts = dict(zip(result.to_list("name"), result.to_list("text"), strict=True))
    if missing := [table for table in tables if table not in texts]:
        raise StartupError(f"tables are missing although they were created: {', '.join(missing)}")
    return {table: texts[table] for table in tables}
