"""The store on ClickHouse's engine: restarts, crashes, deletion, unusual text."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.clickhouse_stores import chdb_store, copy_tables, store_of
from tests.support.samples import HOUR_MS, NOW_MS, MovedClock, a_batch, a_series, a_span, count_query, of_service
from tests.support.wait import until
from vantage.core.batch import Batch, build_batch
from vantage.core.errors import (
    ConfigError,
    DataFolderInUse,
    FormatTooNew,
    InputError,
    StartupError,
    StoreTimeout,
    StoreUnavailable,
)
from vantage.core.exemplars import encode_exemplars
from vantage.core.retention import parse_rule
from vantage.core.sample import Kind
from vantage.storage.clickhouse import chdb
from vantage.storage.clickhouse.engine import Insert, Statement, translate_error
from vantage.storage.clickhouse.intent_log import NAME
from vantage.storage.clickhouse.schema import Migration, migrate, migrations
from vantage.storage.clickhouse.sql import print_select
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.ports import RetentionPolicy, Selector
from vantage.telemetry import Telemetry
from vantage.vql.check import check
from vantage.vql.text.compile import compile_query
from vantage.vql.tree import Compare, Literal, Select, SelectItem, TagValue

pytest.importorskip("chdb", reason="pip install 'vantage[chdb]'")

DAY_MS = 24 * HOUR_MS
Opened = Callable[[], ClickHouseStore]


@pytest.fixture(scope="module")
def server() -> Iterator[ClickHouseServer]:
    with running_clickhouse() as server:
        yield server


@pytest.fixture(params=["chdb", "server"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store: in the process, and on a server."""
    if request.param == "chdb":
        return "chdb:///"
    pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")
    server: ClickHouseServer = request.getfixturevalue("server")
    return server.new_database()


@pytest.fixture
def opened(url: str, tmp_path: Path) -> Opened:
    """Each call is a store on the same folder and database, to be entered."""
    if url == "chdb:///":
        copy_tables(tmp_path / "ch")
    return lambda: store_of(url, tmp_path / "ch", clock=MovedClock(), telemetry=Telemetry())


@pytest.fixture
def opened_here(tmp_path: Path) -> Opened:
    """The same, in the process."""
    copy_tables(tmp_path / "ch")
    return lambda: chdb_store(tmp_path / "ch", clock=MovedClock(), telemetry=Telemetry())


async def counted(store: ClickHouseStore, *, service: str = "api") -> tuple[object, ...]:
    (row,) = (await store.select(count_query(of_service(service)), deadline_s=30)).rows()
    return row


async def rolled(store: ClickHouseStore) -> list[object]:
    results = []
    for table in ("rollups_5m", "rollups_1h"):
        text = f"SELECT toInt64(sum(count)) AS held FROM {table}"
        results += (await store._in_thread(lambda text=text: store.engine.run(Statement(text)))).to_list("held")
    return results


async def rolled_requests(store: ClickHouseStore) -> list[object]:
    results = []
    for table in ("red_5m", "red_1h"):
        text = f"SELECT toInt64(sum(count)) AS n FROM {table} WHERE level = 'service' AND source != 'spans'"
        results += (await store._in_thread(lambda text=text: store.engine.run(Statement(text)))).to_list("n")
    return results


async def test_what_was_written_is_there_after_a_restart(opened: Opened) -> None:
    links = encode_exemplars(np.array([1], np.uint32), ["t1"], ["s1"])
    series = a_series(tags={"k": "ü"})
    async with opened() as store:
        await store.write(build_batch([(series, NOW_MS, 1.0), (series, NOW_MS, 2.0)], exemplars=links, batch_id="b1"))
        await store.write(Batch(spans=(a_span(attributes={"z": "1", "a": "2"}),), batch_id="b2"))
    async with opened() as store:
        assert await counted(store) == (2, 3.0)
        trace = await store.trace("t1")
        assert [span.attributes for span in trace.spans] == [{"z": "1", "a": "2"}]
        assert [sample.value for sample in trace.samples] == [2.0]
        assert await store.write(a_batch(5.0, batch_id="b1")) is False
        assert await store.write(Batch(spans=(a_span(),), batch_id="b2")) is False
        assert [info.series.tags for info in await store.list_series()] == [(("k", "ü"),)]


@pytest.mark.parametrize("inserted", range(7))
async def test_a_commit_that_was_cut_short_is_finished_once(opened: Opened, inserted: int) -> None:
    """The process dies after some of its tables were inserted into, or all and the file was not removed yet."""
    batch = a_batch(1.0, 2.0, batch_id="b1")
    batch = Batch(batch.series, batch.index, batch.time_ms, batch.value, spans=(a_span(),), batch_id="b1")
    async with opened() as store:
        complete = store.engine.insert
        left: list[Insert] = []

        def dying(insert: Insert) -> None:
            left.append(insert)
            if len(left) > inserted:
                raise StoreUnavailable("killed")
            complete(insert)

        store.engine.insert = dying  # type: ignore[method-assign]
        if inserted == 6:
            store._intent.remove = lambda: None  # type: ignore[method-assign, union-attr]
            await store.write(batch)
        else:
            with pytest.raises(StoreUnavailable):
                await store.write(batch)
    assert store.folder is not None
    assert (store.folder / NAME).exists()
    async with opened() as store:
        assert await counted(store) == (2, 3.0)
        assert await rolled(store) == [2, 2]
        assert await rolled_requests(store) == [2, 2]
        assert len((await store.trace("t1")).spans) == 1
        assert await store.write(batch) is False
        assert store.folder is not None
        assert not (store.folder / NAME).exists()


async def test_a_failed_commit_is_finished_before_the_next(opened: Opened) -> None:
    async with opened() as store:
        complete = store.engine.insert
        fails = iter([False, True])

        def failing(insert: Insert) -> None:
            if next(fails, False):
                raise StoreUnavailable("the disk is full")
            complete(insert)

        store.engine.insert = failing  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable, match="disk is full"):
            await store.write(a_batch(1.0, batch_id="b1"))
        with pytest.raises(StoreUnavailable, match="disk is full"):
            await store.ping()
        assert await store.write(a_batch(1.0, batch_id="b1")) is False
        await store.ping()
        assert await store.write(a_batch(2.0, batch_id="b2")) is True
        assert await counted(store) == (2, 3.0)
        assert await rolled(store) == [2, 2]


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.support.samples import MovedClock, a_batch
from vantage.storage.clickhouse.sql import print_select
from tests.support.clickhouse_stores import store_of
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.telemetry import Telemetry

async def main():
    async with store_of(sys.argv[1], Path(sys.argv[2]), clock=MovedClock(), telemetry=Telemetry()) as store:
        print("ready", flush=True)
        for number in range(10_000):
            await store.write(a_batch(1.0, batch_id=f"b{number}"))
            print(number, flush=True)

asyncio.run(main())
"""


async def can_be_opened(opened: Opened, server: ClickHouseServer) -> bool:
    server.revive()
    try:
        async with opened() as store:
            await store.ping()
    except (StartupError, StoreUnavailable):
        return False
    return True


async def test_a_killed_process_loses_nothing_it_had_acknowledged(
    opened: Opened, url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "ch"
    for round_ in range(2):
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", KILLED, url, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).resolve().parents[3],
        ) as process:
            assert process.stdout is not None
            recorded = -1
            for line in process.stdout:
                if line.strip().isdigit():
                    recorded = int(line)
                if recorded >= 8 + round_:
                    process.kill()
                    break
            for line in process.stdout:
                if line.strip().isdigit():
                    recorded = int(line)
        if url != "chdb:///":  # this build ends some time after a client that dies in an insert
            await until(lambda: can_be_opened(opened, request.getfixturevalue("server")))
        async with opened() as store:
            stored, total = await counted(store)
            assert total == stored
            assert recorded + 1 <= int(str(stored)) <= recorded + 2  # one may have been stored and not acknowledged yet
            assert await rolled(store) == [stored, stored]
            assert await store.write(a_batch(1.0, batch_id=f"b{recorded}")) is False


async def test_a_second_process_is_refused_because_the_folder_is_in_use(opened: Opened) -> None:
    async with opened() as store:
        with pytest.raises(DataFolderInUse):
            async with opened():
                pass
        await store.ping()


async def test_without_the_package_the_message_names_it(opened_here: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("vantage.storage.clickhouse.chdb.importlib.import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'vantage\[server,chdb\]'"):
        async with opened_here():
            pass


async def test_tables_of_a_newer_version_are_not_changed(opened: Opened) -> None:
    async with opened() as store:

        def newer() -> list[str]:
            assert migrate(store.engine, migrations()) == []
            return migrate(store.engine, [*migrations(), Migration(9999, "9999_later", "SELECT 1")])

        assert await store._in_thread(newer) == ["9999_later"]
    with pytest.raises(FormatTooNew, match="9999"):
        async with opened():
            pass


ODD = [
    "it's",
    "back\\slash",
    "tab\there",
    "line\nbreak",
    "\r\b\f",
    "{p0:String}",
    "\\N",
    "",
    "%_",
    "ü🙂",
    "'",
    "\\'",
    "\\x41",
]


async def test_odd_texts_are_found_as_they_are(opened: Opened) -> None:
    stored = [*(text or "-" for text in ODD), "other"]
    async with opened() as store:
        for number, text in enumerate(stored):
            await store.write(a_batch(float(number), series=a_series(tags={"k": text})))
        for number, text in enumerate(ODD):
            result = await store.select(count_query(Compare("=", TagValue("k"), Literal(text))), deadline_s=30)
            assert list(result.rows()) == [(1, float(number)) if text else (0, None)], text
            select = Select("metrics", (SelectItem(TagValue("k"), "k"), SelectItem(Literal(text), "same")))
            rows = list((await store.select(check(select, now_ms=NOW_MS), deadline_s=30)).rows())
            assert rows == sorted(((tag, text) for tag in stored), key=lambda row: row[0].encode())


async def test_samples_beyond_the_series_limit_are_folded(tmp_path: Path) -> None:
    copy_tables(tmp_path)
    async with chdb_store(tmp_path, clock=MovedClock(), telemetry=Telemetry(), series_max=2) as store:
        for number in range(5):
            await store.write(a_batch(1.0, series=a_series(tags={"n": str(number)})))
        assert await counted(store) == (5, 5.0)
        assert sorted(info.samples for info in await store.list_series()) == [1, 1, 3]


async def test_a_query_that_reads_too_much_is_refused_with_the_figure(tmp_path: Path) -> None:
    copy_tables(tmp_path)
    async with chdb_store(tmp_path, clock=MovedClock(), telemetry=Telemetry(), query_samples_max=5) as store:
        await store.write(a_batch(*map(float, range(20))))
        with pytest.raises(InputError, match=r"would read 20\.00 rows, at most 5 are allowed: narrow"):
            await counted(store)


PLANNED = (
    "metrics WHERE timestamp >= now() - INTERVAL 30 DAY",
    "metrics WHERE timestamp >= now() - INTERVAL 30 DAY AND service_name = 's1'",
    "metrics WHERE timestamp >= now() - INTERVAL 30 DAY AND tags['n'] = '7'",
    "metrics WHERE timestamp BETWEEN now() - INTERVAL 10 DAY AND now() - INTERVAL 9 DAY AND metric_name = 'm0'",
    "spans WHERE timestamp >= now() - INTERVAL 30 DAY",
)


async def test_a_plan_is_at_most_twice_what_is_read(opened_here: Opened) -> None:
    series = [a_series(f"s{n % 4}", f"m{n % 2}", tags={"n": str(n)}) for n in range(40)]
    async with opened_here() as store:
        for day in range(20):
            first = NOW_MS - (20 - day) * DAY_MS
            times = range(first, first + DAY_MS, HOUR_MS // 6)
            await store.write(build_batch([(item, at, float(at % 7)) for at in times for item in series]))
            await store.write(
                Batch(spans=tuple(a_span(f"t{day}-{n}", start_ms=first + n * HOUR_MS) for n in range(20)))
            )
        for where in PLANNED:
            compiled = compile_query(f"EXPLAIN SELECT sum(1) FROM {where}", now_ms=NOW_MS)
            (planned,) = (await store.explain(compiled.query, deadline_s=30)).column("rows")
            statement = print_select(compiled.query)
            params = {name: chdb.param_text(value) for name, value in statement.params.items()}

            def rows_read(text: str = statement.text, params: dict[str, str] = params) -> int:
                assert isinstance(store.engine, chdb.ChdbEngine)
                result = store.engine._thread_connection().query(text, "Null", params=params)
                return int(result.storage_rows_read())

            read = await store._in_thread(rows_read)
            assert read / 2 <= planned <= 2 * read, where
            assert planned > 0


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Code: 159. DB::Exception: Timeout exceeded", StoreTimeout),
        ("Code: 158. DB::Exception: Limit for rows", InputError),
        ("Code: 241. DB::Exception: Memory limit exceeded", InputError),
        ("Code: 241. DB::Exception: Memory limit (total) exceeded", StoreUnavailable),
        ("Code: 243. DB::Exception: Cannot reserve 1 MiB, not enough space", StoreUnavailable),
        ("Code: 252. DB::Exception: Too many parts (300)", StoreUnavailable),
        ("the library went away", StoreUnavailable),
    ],
)
def test_errors_of_the_engine_have_a_meaning(text: str, kind: type[Exception]) -> None:
    assert type(translate_error(RuntimeError(text), {"max_rows_to_read": 7, "max_memory_usage": 9})) is kind


async def test_days_are_dropped_with_their_rollups_and_series(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vantage.storage.clickhouse.deletion.EMPTY_AGE_MS_MIN", -1)
    old, new = a_series(metric="old"), a_series(metric="new")
    async with opened() as store:
        await store.write(build_batch([(old, NOW_MS - 400 * DAY_MS, 1.0), (old, NOW_MS - 10 * DAY_MS, 2.0)]))
        await store.write(build_batch([(new, NOW_MS - 10 * DAY_MS, 4.0), (new, NOW_MS, 8.0)]))
        await store.write(Batch(spans=(a_span("t1", start_ms=NOW_MS - 10 * DAY_MS), a_span("t2"))))
        deleted = await store.expire(RetentionPolicy(days=7))
        assert (deleted.samples, deleted.spans, deleted.series) == (3, 1, 1)
        assert await counted(store) == (1, 8.0)
        assert await rolled(store) == [1, 1]
        assert [info.series.metric for info in await store.list_series()] == ["new"]
        assert (await store.trace("t1")).spans == ()
        assert (await store.expire(RetentionPolicy(days=7))).samples == 0
        assert await store.write(a_batch(1.0, series=old)) is True
        assert await counted(store) == (2, 9.0)
    async with opened() as store:
        assert await counted(store) == (2, 9.0)


async def test_a_rule_is_for_the_services_and_metrics_it_names(opened: Opened) -> None:
    async with opened() as store:
        for service, metric in (("api", "debug.x"), ("api", "m"), ("worker", "debug.y")):
            await store.write(a_batch(1.0, series=a_series(service, metric), at_ms=NOW_MS - 5 * DAY_MS))
        await store.write(Batch(spans=(a_span(start_ms=NOW_MS - 5 * DAY_MS),)))
        deleted = await store.expire(RetentionPolicy(rules=(parse_rule("*/debug.*=2"),)))
        assert (deleted.samples, deleted.spans) == (2, 0)
        assert await counted(store) == (1, 1.0)
        deleted = await store.expire(RetentionPolicy(rules=(parse_rule("api/*=2"),)))
        assert (deleted.samples, deleted.spans) == (1, 1)
        assert await store.list_series() == []


async def test_beyond_the_budget_the_oldest_samples_expire_before_rollups(opened: Opened) -> None:
    rng = np.random.default_rng(1)
    series = a_series(kind=Kind.GAUGE)
    async with opened() as store:
        for months in (3, 2, 1, 0):
            times = NOW_MS - months * 31 * DAY_MS - np.arange(20_000) * 10_000
            await store.write(
                Batch((series,), np.zeros(20_000, np.uint32), times.astype(np.int64), rng.standard_normal(20_000))
            )
        assert await store.raw_since_ms() == 0
        files = (await store.usage()).files
        deleted = await store.expire(RetentionPolicy(budget_bytes=sum(files.values()) - files["samples"] // 2))
        assert 40_000 <= deleted.samples < 70_000
        assert deleted.nbytes > 0
        since_ms = await store.raw_since_ms()
        assert NOW_MS - 70 * DAY_MS < since_ms < NOW_MS
        assert (await rolled(store))[1] == 80_000
        assert sum((await store.usage()).files.values()) <= sum(files.values()) - files["samples"] // 2
        stored, _ = await counted(store)
        assert stored == 80_000 - deleted.samples
    async with opened() as store:
        assert await store.raw_since_ms() == since_ms


async def test_usage_counts_metrics_and_services(opened: Opened) -> None:
    async with opened() as store:
        await store.write(a_batch(1.0, 2.0, series=a_series(tags={"k": "1"})))
        await store.write(a_batch(1.0, series=a_series(tags={"k": "2"})))
        await store.write(Batch(spans=(a_span(),)))
        usage = await store.usage()
        rows = {(row.service, row.metric, row.tier): (row.items, row.series) for row in usage.rows}
        assert rows == {("api", "m", "samples"): (3, 2), ("api", "m", "rollups"): (0, 2), ("api", "", "spans"): (1, 0)}
        assert all(row.nbytes > 0 for row in usage.rows)
        assert usage.damaged == ()


async def test_forgetting_reaches_rollups_links_and_times(opened: Opened) -> None:
    async with opened() as store:
        await store.write(
            build_batch(
                [(a_series("gone"), NOW_MS, 1.0)], exemplars=encode_exemplars(np.zeros(1, np.uint32), ["t1"], [""])
            )
        )
        await store.write(Batch(spans=(a_span("t1", service="gone"),)))
        await store.delete(Selector(service="gone"))
        for table in ("samples", "series", "exemplars", "rollups_5m", "rollups_1h", "spans", "span_times"):
            text = f"SELECT toInt64(count()) AS held FROM {table}"
            result = await store._in_thread(lambda text=text: store.engine.run(Statement(text)))
            assert result.to_list("held") == [0], table


async def test_writers_at_once_share_commits(opened: Opened) -> None:
    async with opened() as store:
        await store.write(a_batch(0.0))
        outcomes = await asyncio.gather(*(store.write(a_batch(1.0, batch_id=f"b{n}")) for n in range(200)))
        assert all(outcomes)
        assert store._telemetry.value("vantage_store_commit_batches_count") < 20
        assert await counted(store) == (201, 200.0)


async def test_the_view_metrics_has_the_columns_that_others_expect(opened: Opened) -> None:
    async with opened() as store:
        await store.write(a_batch(1.5, series=a_series(tags={"k": "v"})))
        result = await store._in_thread(lambda: store.engine.run(Statement("SELECT * FROM metrics")))
        names = (
            "timestamp", "service_name", "environment", "metric_name", "metric_type", "value", "tags", "trace_id",
            "span_id",
        )  # fmt: skip
        row = [result.to_list(name)[0] for name in names[1:]]
        assert row == ["api", "test", "m", "gauge", 1.5, {"k": "v"}, "", ""]


async def test_queries_of_the_text_run_as_well(opened: Opened) -> None:
    async with opened() as store:
        await store.write(a_batch(1.0, 3.0))
        query = compile_query(
            "SELECT avg(value) AS mean FROM metrics WHERE service_name = :s", now_ms=NOW_MS, params={"s": "api"}
        )
        assert list((await store.select(query.query, deadline_s=30)).rows()) == [(2.0,)]
