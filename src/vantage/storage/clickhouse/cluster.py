"""A cluster of ClickHouse servers: statements rewritten for tables that are replicated and read as one.

A table ``x`` exists on each node, replicated within its shard; ``x_all`` reads the tables ``x`` of all shards. Inserts
go to ``x`` of the host that Vantage is connected to, since a repeat is only recognised there and on its replicas.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from typing import Final

from vantage.core.errors import ConfigError
from vantage.storage.clickhouse.engine import NO_SETTINGS, REPLICATED_WINDOW, QueryResult, Statement
from vantage.storage.clickhouse.native import NativeEngine
from vantage.storage.clickhouse.server_url import ServerUrl

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_READ: Final = re.compile(r"\b(FROM|JOIN) (?!system\b)([a-z_0-9]+)\b(?!\()")
_SYSTEM: Final = re.compile(r"\bFROM system\.(parts|detached_parts)\b")
_GLOBAL: Final = re.compile(r"\b((?:NOT )?IN|ANY LEFT JOIN) \((?=SELECT\b)")
_CREATE: Final = re.compile(
    r"^(CREATE (?:TABLE|VIEW|MATERIALIZED VIEW|DATABASE)(?: IF NOT EXISTS)?"
    r"|DROP (?:TABLE|VIEW)(?: IF EXISTS)?|ALTER TABLE) (\w+)"
)
_RENAME: Final = re.compile(r"^RENAME TABLE(?: IF EXISTS)? (\w+) TO (\w+)")
_ENGINE: Final = re.compile(r"^ENGINE = (\w*MergeTree)(?=$|\()", re.MULTILINE)
_WINDOW: Final = re.compile(r"\bnon_replicated_deduplication_window = \d+")
_COMMENT: Final = re.compile(r"\A(?:--[^\n]*\n)+")
_LOCK: Final = "migration_lock"  # among the processes that use one host


def distributed(text: str, cluster: str) -> str:
    """Return a query that reads every shard. A subquery is run once, and its result is sent to the shards."""
    text = _GLOBAL.sub(r"GLOBAL \1 (", text)
    text = _READ.sub(r"\1 \2_all", text)
    return _SYSTEM.sub(rf"FROM cluster('{cluster}', system.\1)", text)


def on_cluster(text: str, cluster: str) -> list[str]:
    """Return the statements that do on every node what ``text`` does on one: any statement but a query or an insert of
    rows."""
    text = _COMMENT.sub("", text)
    if _LOCK in text or text.startswith("INSERT"):
        return [text]
    where = f" ON CLUSTER '{cluster}'"
    if renamed := _RENAME.match(text):
        old, new = renamed.groups()
        return [f"{text.rstrip()}{where}", f"DROP TABLE IF EXISTS {old}_all{where}", _reading(new, cluster)]
    match = _CREATE.match(text)
    if match is None:
        return [text]
    verb, name = match.groups()
    body = text[match.end() :]
    if verb.startswith("CREATE TABLE"):
        body = _WINDOW.sub(", ".join(f"{key} = {value}" for key, value in REPLICATED_WINDOW.items()), body)
        body = _ENGINE.sub(r"ENGINE = Replicated\1", body)
        return [f"{verb} {name}{where}{body}", _reading(name, cluster)]
    if verb.startswith("CREATE VIEW"):
        body = distributed(body, cluster)
    if verb == "ALTER TABLE":
        body = distributed(body, cluster)
        if "ADD COLUMN" in body:
            again = [f"DROP TABLE IF EXISTS {name}_all{where}", _reading(name, cluster)]
            return [f"{verb} {name}{where}{body}", *again]
    return [f"{verb} {name}{where}{body}"]


def _reading(table: str, cluster: str) -> str:
    return (
        f"CREATE TABLE IF NOT EXISTS {table}_all ON CLUSTER '{cluster}' AS {table} "
        f"ENGINE = Distributed('{cluster}', currentDatabase(), '{table}')"
    )


class ClusterEngine(NativeEngine):
    """Runs statements on a cluster whose name the servers know. Raises ConfigError for a name that cannot be one."""

    name = "cluster"
    deduplication = REPLICATED_WINDOW

    def __init__(self, url: ServerUrl, *, cluster: str, connections_max: int = 10) -> None:
        super().__init__(url, connections_max=connections_max)
        if not _NAME.fullmatch(cluster):
            raise ConfigError("clickhouse_cluster: a name has letters, digits, _ and -")
        self._cluster = cluster

    def run(
        self,
        statement: Statement,
        settings: Mapping[str, float] = NO_SETTINGS,
        *,
        cancelled: threading.Event | None = None,
    ) -> QueryResult:
        first, *others = self._rewritten(statement)
        result = super().run(first, _on_replicas(settings), cancelled=cancelled)
        for other in others:
            super().run(other)
        return result

    def stream(self, statement: Statement, settings: Mapping[str, float] = NO_SETTINGS) -> Iterator[QueryResult]:
        (rewritten,) = self._rewritten(statement)
        return super().stream(rewritten, settings)

    def _run_in_system(self, statement: Statement) -> QueryResult:
        if statement.text.startswith("CREATE"):
            (statement,) = self._rewritten(statement)
        return super()._run_in_system(statement)

    def _rewritten(self, statement: Statement) -> list[Statement]:
        if statement.text.startswith(("SELECT", "EXPLAIN")):
            return [Statement(distributed(statement.text, self._cluster), statement.params)]
        return [Statement(text, statement.params) for text in on_cluster(statement.text, self._cluster)]


def _on_replicas(settings: Mapping[str, float]) -> Mapping[str, float]:
    """Wait for a deletion on all replicas, where one of a single server is waited for."""
    return {**settings, "mutations_sync": 2} if "mutations_sync" in settings else settings
