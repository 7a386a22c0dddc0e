"""Statements for a cluster, held against files; and two shards that are read for real.

``UPDATE_SNAPSHOTS=1 pytest tests/storage/clickhouse/test_cluster.py`` writes them again: review the difference.
Replicas and ``ON CLUSTER`` need a Keeper, which the server of the tests lacks: those statements are not run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.storage.clickhouse.queries import queries
from tests.support.clickhouse_server import ClickHouseServer
from tests.support.samples import NOW_MS, MovedClock, a_batch, a_series, a_span, count_query
from vantage.core.batch import Batch
from vantage.core.errors import ConfigError
from vantage.core.timerange import TimeRange
from vantage.storage.clickhouse.cluster import ClusterEngine, distributed, on_cluster
from vantage.storage.clickhouse.engine import WINDOW, Statement
from vantage.storage.clickhouse.native import NativeEngine
from vantage.storage.clickhouse.schema import migrate, migrations
from vantage.storage.clickhouse.server_url import parse_server_url
from vantage.storage.clickhouse.sql import print_select
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.clickhouse.table_settings import DATA_TABLES, apply_settings
from vantage.storage.ports import Selector, StreamBatch, TraceFilter
from vantage.telemetry import Telemetry
from vantage.vql.text.compile import compile_query
from vantage.vql.tree import TagValue

PARAM = re.compile(r"\{\w+:")
SNAPSHOTS = Path(__file__).parent / "cluster"
DELETION = "ALTER TABLE series DELETE WHERE series_id NOT IN (SELECT series_id FROM rollups_1h)"
OTHERS = {
    "create_database": "CREATE DATABASE IF NOT EXISTS vantage ENGINE = Atomic",
    "delete_series": DELETION,
    "drop_partition": "ALTER TABLE samples DROP PARTITION ID '202611'",
    "expire": "ALTER TABLE spans MODIFY TTL toDateTime(intDiv(start_ns, 1000000000)) + toIntervalDay(30)",
    "record_migration": "INSERT INTO schema_migrations (version, name) SELECT {version:UInt32}, {name:String}",
}


def statements() -> dict[str, list[str]]:
    result = {migration.name: on_cluster(migration.text, "main") for migration in migrations()}
    result |= {name: on_cluster(text, "main") for name, text in OTHERS.items()}
    for name in ("spans", "top_tags", "rollups_1h", "everything_of_a_service"):
        result[f"query_{name}"] = [distributed(print_select(queries()[name]).text, "main")]
    return result


@pytest.mark.parametrize("name", statements())
def test_a_statement_for_a_cluster_is_that_of_the_file(name: str) -> None:
    result, path = ";\n\n".join(text.strip() for text in statements()[name]) + "\n", SNAPSHOTS / f"{name}.sql"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(result, encoding="utf-8")
    assert result == path.read_text(encoding="utf-8")


def test_there_is_no_file_of_another_statement() -> None:
    assert {path.stem for path in SNAPSHOTS.glob("*.sql")} == set(statements())


def test_a_name_that_cannot_be_a_cluster_is_refused() -> None:
    with pytest.raises(ConfigError, match="clickhouse_cluster"):
        ClusterEngine(parse_server_url("clickhouse://host"), cluster="it's")


CONFIG = """<clickhouse><remote_servers><main>{}</main></remote_servers></clickhouse>"""
SHARD = "<shard><replica><host>127.0.0.1</host><port>{}</port></replica></shard>"


class UnreplicatedEngine(ClusterEngine):
    """Reads two shards whose tables are not replicated."""

    deduplication = WINDOW


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ClickHouseServer]]:
    """Two servers that know each other, with the tables on each."""
    pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")
    folder = tmp_path_factory.mktemp("shards")
    servers = []
    for name in "ab":
        (folder / name).mkdir()
        servers.append(ClickHouseServer(folder / name, config=folder / "config.xml"))
    (folder / "config.xml").write_text(CONFIG.format("".join(SHARD.format(server.port) for server in servers)))
    with ExitStack() as stack:
        for server in servers:
            server.start()
            stack.callback(server.kill)
            engine = NativeEngine(parse_server_url(f"clickhouse://127.0.0.1:{server.port}/vantage"))
            engine.open()
            migrate(engine, migrations())
            apply_settings(engine, fsync=True)
            for table in (*DATA_TABLES, "raw_since", "filled_since", "schema_migrations"):
                _, reading = on_cluster(f"CREATE TABLE {table} ()", "main")
                engine.run(Statement(reading.replace(" ON CLUSTER 'main'", "")))
            engine.close()
        yield servers


@pytest.fixture
def opened(shards: list[ClickHouseServer]) -> Callable[[int], ClickHouseStore]:
    """Each call is a store that is connected to one shard, and reads both."""

    def store(number: int) -> ClickHouseStore:
        url = parse_server_url(f"clickhouse://127.0.0.1:{shards[number].port}/vantage")
        return ClickHouseStore(
            UnreplicatedEngine(url, cluster="main"), None, clock=MovedClock(), telemetry=Telemetry(), synchronous="FULL"
        )

    return store


def test_the_server_can_parse_each_statement_without_parameters(shards: list[ClickHouseServer]) -> None:
    for texts in statements().values():
        for text in texts:
            if not PARAM.search(text):
                shards[0].query(f"EXPLAIN AST {text}")


async def test_both_shards_are_read_as_one(opened: Callable[[int], ClickHouseStore]) -> None:
    async with opened(0) as first, opened(1) as second:
        for number, store in enumerate((first, second)):
            batch = a_batch(1.0, 2.0, series=a_series(tags={"shard": str(number)}), batch_id=f"b{number}")
            spans = (a_span("t1", span_id=f"s{number}", service=f"service{number}"),)
            batch = Batch(batch.series, batch.index, batch.time_ms, batch.value, spans=spans, batch_id=batch.batch_id)
            for _ in range(2):
                await store.write_range(
                    [StreamBatch(batch, number, 0, NOW_MS)], token=f"t{number}", until_s=float("inf")
                )
        for store in (first, second):
            assert list((await store.select(count_query(), deadline_s=30)).rows()) == [(4, 6.0)]
            grouped = await store.select(count_query(group_by=(TagValue("shard"),)), deadline_s=30)
            assert sorted(grouped.rows()) == [("0", 2, 3.0), ("1", 2, 3.0)]
            text = "SELECT count() FROM metrics WHERE tags['shard'] = '1' AND timestamp > now() - INTERVAL 1 DAY"
            query = compile_query(text, now_ms=NOW_MS + 1000).query
            assert list((await store.select(query, deadline_s=30)).rows()) == [(2,)]
            assert sorted(info.samples for info in await store.list_series()) == [2, 2]
            assert len((await store.trace("t1")).spans) == 2
            (summary,) = await store.traces(TraceFilter(TimeRange(0, NOW_MS + 1000), service="service1"))
            assert summary.spans == 2
            assert sum(row.items for row in (await store.usage()).rows if row.tier == "samples") == 4
            exported = [batch async for batch in store.export(Selector(), TimeRange(0, NOW_MS + 1000))]
            assert sum(batch.samples for batch in exported) == 4
            before = await store.batch_ids_before(["b0", "b1"], partition=0, offset=0, since_ms=0)
            assert before == {"b1"}
