"""The tables of a server: one process of several migrates, settings are read back, rows expire; the seed's SQL."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.clickhouse_stores import server_store
from tests.support.samples import HOUR_MS, MovedClock, a_series, a_span
from tests.support.wait import until
from vantage.core.batch import Batch, build_batch
from vantage.core.clock import SystemClock
from vantage.core.errors import FormatTooNew, StartupError
from vantage.core.sample import Kind
from vantage.storage.clickhouse import table_settings
from vantage.storage.clickhouse.engine import DEDUPLICATION_WINDOW, QueryResult, Statement
from vantage.storage.clickhouse.migration_lock import migration_lock
from vantage.storage.clickhouse.native import NativeEngine
from vantage.storage.clickhouse.schema import Migration, migrate, migrations, pending
from vantage.storage.clickhouse.server_url import parse_server_url
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.clickhouse.table_settings import DATA_TABLES, apply_settings, apply_ttl
from vantage.storage.open import migrate_server, pending_on_server
from vantage.storage.ports import RetentionPolicy, StreamBatch
from vantage.telemetry import Telemetry

clickhouse_driver = pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")

DAY_MS = 24 * HOUR_MS


@pytest.fixture(scope="module")
def server() -> Iterator[ClickHouseServer]:
    with running_clickhouse() as server:
        yield server


@pytest.fixture
def url(server: ClickHouseServer) -> str:
    return server.new_database()


@pytest.fixture
def engine(url: str) -> Iterator[NativeEngine]:
    engine = NativeEngine(parse_server_url(url))
    engine.open()
    yield engine
    engine.close()


def opened(url: str, **options: Any) -> ClickHouseStore:
    return server_store(url, None, clock=options.pop("clock", MovedClock()), telemetry=Telemetry(), **options)


async def test_a_store_is_closed_though_its_closing_is_cancelled(url: str, tmp_path: Path) -> None:
    async def write() -> None:
        async with server_store(url, tmp_path, clock=MovedClock(), telemetry=Telemetry()):
            closing.set()

    closing = asyncio.Event()
    task = asyncio.create_task(write())
    await closing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with server_store(url, tmp_path, clock=MovedClock(), telemetry=Telemetry()):
        pass  # its folder is free again


# --- migrations ---


def test_a_dry_run_lists_the_migrations_and_creates_nothing(server: ClickHouseServer, url: str) -> None:
    names = [migration.name for migration in migrations()]
    assert pending_on_server(url, cluster="") == names
    assert url.rpartition("/")[2] not in server.query("SHOW DATABASES")
    assert migrate_server(url, cluster="") == names
    assert migrate_server(url, cluster="") == pending_on_server(url, cluster="") == []


async def test_processes_that_start_at_once_migrate_once(server: ClickHouseServer, url: str) -> None:
    stores = [opened(url) for _ in range(4)]
    await asyncio.gather(*(store.__aenter__() for store in stores))
    for store in stores:
        await store.__aexit__(None, None, None)
    database = url.rpartition("/")[2]
    recorded = server.query(f"SELECT count(), uniqExact(version) FROM {database}.schema_migrations").split()
    assert recorded == [str(len(migrations()))] * 2
    tables = server.query(f"SHOW TABLES FROM {database}").split()
    assert not [name for name in tables if "trace_links" in name or "migration_lock" in name]


@pytest.mark.parametrize("killed_at", [1, 8, 16, 18])
def test_a_migration_that_was_killed_is_resumed(engine: NativeEngine, killed_at: int) -> None:
    """The process dies after a statement, before that is recorded; the lock stays."""

    class Killed(Exception):
        pass

    complete, left = engine.run, [None] * killed_at

    def dying(statement: Statement, *args: Any, **named: Any) -> QueryResult:
        if statement.text.startswith("INSERT INTO schema_migrations") and not left:
            raise Killed
        if statement.text.startswith("INSERT INTO schema_migrations"):
            left.pop()
        if statement.text.startswith("DROP TABLE IF EXISTS migration_lock"):
            raise Killed
        return complete(statement, *args, **named)

    engine.run = dying  # type: ignore[method-assign]
    with pytest.raises(Killed):
        migrate(engine, migrations())
    engine.run = complete  # type: ignore[method-assign]
    assert len(pending(engine, migrations())) == len(migrations()) - killed_at
    with pytest.raises(StartupError, match="another process has been migrating"), migration_lock(engine, wait_s=0.1):
        pass
    with migration_lock(engine, expires_s=0):
        pass
    migrate(engine, migrations())
    assert pending(engine, migrations()) == []


def test_of_many_who_take_over_a_stale_lock_one_has_it_at_a_time(engine: NativeEngine) -> None:
    engine.run(Statement("CREATE TABLE migration_lock (at DateTime) ENGINE = Memory COMMENT 'gone'"))
    inside, together = threading.Lock(), []

    def hold() -> None:
        with migration_lock(engine, expires_s=1):
            if not inside.acquire(blocking=False):
                together.append("two at once")
                return
            engine.run(Statement("SELECT sleep(0.01)"))
            inside.release()

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == []


async def test_tables_of_a_newer_version_are_refused_in_one_line(engine: NativeEngine, url: str) -> None:
    migrate(engine, [*migrations(), Migration(9999, "9999_later", "SELECT 1")])
    with pytest.raises(FormatTooNew, match="version 9999, which a newer Vantage made"):
        async with opened(url):
            pass


# --- settings and expiry ---


def test_every_target_of_a_view_is_among_the_tables(engine: NativeEngine) -> None:
    migrate(engine, migrations())
    result = engine.run(
        Statement(
            "SELECT name, create_table_query AS text, engine FROM system.tables WHERE database = currentDatabase()"
        )
    )
    kinds = zip(result.to_list("text"), result.to_list("engine"), strict=True)
    views = [text for text, kind in kinds if kind == "MaterializedView"]
    targets = {text.partition(" TO ")[2].split(" ")[0].partition(".")[2] for text in views}
    assert targets == {"exemplars", "rollups_5m", "rollups_1h", "span_times", "red_1h", "span_buckets", "span_services"}
    assert targets <= set(DATA_TABLES)


def test_the_deduplication_window_is_set_on_every_table_and_read_back(
    engine: NativeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(engine, migrations())
    apply_settings(engine, fsync=False)
    for table, settings in table_settings._settings(engine).items():
        assert settings["non_replicated_deduplication_window"] == str(DEDUPLICATION_WINDOW), table
        assert settings["fsync_after_insert"] == "0", table
    engine.run(Statement("ALTER TABLE rollups_1h MODIFY SETTING non_replicated_deduplication_window = 5"))
    complete = engine.run

    def ignoring(statement: Statement, *args: Any, **named: Any) -> QueryResult:
        return complete(Statement("SELECT 1") if "MODIFY SETTING" in statement.text else statement, *args, **named)

    engine.run = ignoring  # type: ignore[method-assign]
    with pytest.raises(StartupError, match="rollups_1h has non_replicated_deduplication_window = 5 although 100000"):
        apply_settings(engine, fsync=False)


def test_expiry_is_changed_only_when_it_differs_and_read_back(engine: NativeEngine) -> None:
    migrate(engine, migrations())
    changes: list[str] = []
    complete = engine.run

    def recorded(statement: Statement, *args: Any, **named: Any) -> QueryResult:
        if statement.text.startswith("ALTER"):
            changes.append(statement.text)
        return complete(statement, *args, **named)

    engine.run = recorded  # type: ignore[method-assign]
    for days, expected in ((None, 0), (30, 12), (30, 0), (60, 12), (None, 12), (None, 0)):
        changes.clear()
        apply_ttl(engine, days=days)
        assert len(changes) == expected, days


async def test_active_parts_are_counted_by_table(server: ClickHouseServer, url: str) -> None:
    store = opened(url, clock=SystemClock())
    async with store:
        now_ms = SystemClock().now_ms()
        batch = StreamBatch(build_batch([(a_series(), now_ms, 1.0)], batch_id="b"), 0, 0, now_ms)
        await store.write_range([batch], token="t", until_s=time.monotonic() + 60)
        await store.expire(RetentionPolicy())
        reported = store._telemetry.values("vantage_clickhouse_parts", "table")
    rows = server.query(
        f"SELECT table, count() FROM system.parts WHERE database = '{url.rpartition('/')[2]}' AND active GROUP BY table"
    )
    counted = {table: int(parts) for table, parts in (row.split("\t") for row in rows.splitlines())}
    assert reported["samples"] >= 1
    assert set(reported) <= set(counted)
    assert reported["samples"] == counted["samples"]


async def test_rows_expire_on_the_server_without_any_process(server: ClickHouseServer, url: str) -> None:
    clock = SystemClock()
    old_ms, new_ms = clock.now_ms() - 40 * DAY_MS, clock.now_ms()
    async with opened(url, clock=clock) as store:
        batch = build_batch([(a_series(), old_ms, 1.0), (a_series(), new_ms, 2.0)])
        spans = (a_span("old", start_ms=old_ms), a_span("new", start_ms=new_ms))
        batch = Batch(batch.series, batch.index, batch.time_ms, batch.value, spans=spans)
        await store.write_range([StreamBatch(batch, 0, 0, new_ms)], token="t", until_s=float("inf"))
    async with opened(url, clock=clock, ttl_days=30):
        pass
    database = url.rpartition("/")[2]
    for table in ("samples", "rollups_5m", "rollups_1h", "spans", "span_times"):
        server.query(f"OPTIMIZE TABLE {database}.{table} FINAL")
        assert server.query(f"SELECT count() FROM {database}.{table}") == "1", table


# --- the seed's SQL ---


async def test_the_seeds_queries_run_over_a_native_connection(url: str) -> None:
    clock = SystemClock()
    series = a_series("my-api", "http.request.duration", Kind.HISTOGRAM, tags={"endpoint": "/api/users"})
    now_ms = clock.now_ms()
    async with opened(url, clock=clock) as store:
        batch = build_batch([(series, now_ms - n * 1000, 40.0 + n) for n in range(5)])
        await store.write_range([StreamBatch(batch, 0, 0, now_ms)], token="t", until_s=float("inf"))
        client = clickhouse_driver.Client.from_url(url)
        columns = [(name, kind) for name, kind, *_ in client.execute("DESCRIBE TABLE metrics")]
        wanted = [
            "timestamp", "service_name", "metric_name", "metric_type", "value", "tags", "trace_id", "span_id",
        ]  # fmt: skip
        assert [name for name, _ in columns if name != "environment"] == wanted
        assert dict(columns)["tags"] == "Map(String, String)"
        rows = client.execute(
            """
            SELECT
                avg(value) as avg_response_time,
                toStartOfMinute(timestamp) as minute
            FROM metrics
            WHERE
                service_name = 'my-api'
                AND metric_name = 'http.request.duration'
                AND timestamp >= now() - INTERVAL 1 HOUR
            GROUP BY minute
            ORDER BY minute DESC
            """
        )
        assert 40.0 <= rows[0][0] <= 44.0
        rows = client.execute("SELECT * FROM metrics WHERE service_name='my-api' LIMIT 10")
        assert len(rows) == 5
        assert {"endpoint": "/api/users"} in rows[0]
        (count,) = client.execute(
            "SELECT count() FROM metrics WHERE timestamp BETWEEN %(start)s AND %(end)s",
            {"start": "2020-01-01 00:00:00", "end": "2099-01-01 00:00:00"},
        )[0]
        assert count == 5
        assert client.execute("SELECT avg(value) FROM metrics GROUP BY toStartOfHour(timestamp)") != []
        assert client.execute("SELECT * FROM metrics WHERE trace_id = %(trace)s", {"trace": "t"}) == []
        client.disconnect()


async def test_a_query_that_nobody_waits_for_ends_on_the_server(server: ClickHouseServer, url: str) -> None:
    slow = Statement("SELECT sum(sleepEachRow(0.1)) AS slept FROM numbers(600) SETTINGS max_block_size = 1")

    def running() -> int:
        return int(server.query("SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow(0.1)%'")) - 1

    async def becomes(count: int) -> None:
        await until(lambda: running() == count)

    async with opened(url) as store:
        query = asyncio.create_task(store._query(slow, deadline_s=60))
        await becomes(1)
        query.cancel()
        await becomes(0)
        query = asyncio.create_task(store._query(slow, deadline_s=60))
        await becomes(1)
    await becomes(0)
    with pytest.raises(Exception, match="cancelled"):
        await query
