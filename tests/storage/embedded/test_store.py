"""The embedded store's own promises: restarts, damage, full disks, locks, limits."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.samples import NOW_MS, MovedClock, a_batch, a_series, a_span, count_query, last_hours
from vantage.core.batch import BATCH_ID_MEMORY_MS, Batch, build_batch
from vantage.core.errors import BusyError, DataFolderInUse, FormatTooNew, StartupError, StoreUnavailable
from vantage.core.exemplars import encode_exemplars
from vantage.storage.embedded import queries
from vantage.storage.embedded.offline.folder_reader import ReadOnlyFolder
from vantage.storage.embedded.read import trace_search
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.embedded.write.journal import FORMAT, check_journal
from vantage.storage.ports import Selector, TraceFilter
from vantage.storage.recent_batch_ids import RecentBatchIds
from vantage.vql.text.compile import compile_query

Open = Callable[..., Any]


async def totals(store: EmbeddedStore) -> tuple[Any, ...]:
    (row,) = (await store.select(count_query(), deadline_s=5)).rows()
    return row


async def test_everything_written_is_there_after_a_restart(opened: Open) -> None:
    first, other = a_series(tags={"k": "1"}), a_series(tags={"k": "2"})
    async with opened() as store:
        links = encode_exemplars(np.array([0], np.uint32), ["t1"], ["s9"])
        await store.write(build_batch([(first, NOW_MS, 1.0), (other, NOW_MS, 2.0)], exemplars=links, spans=(a_span(),)))
        await store.write(a_batch(4.0, series=first))
    async with opened() as store:
        assert await totals(store) == (3, 7.0)
        trace = await store.trace("t1")
        assert (len(trace.spans), len(trace.samples)) == (1, 1)
        assert sorted(info.samples for info in await store.list_series()) == [1, 2]
        await store.write(a_batch(8.0, series=other))
        assert await totals(store) == (4, 15.0)


async def test_batch_ids_are_remembered_across_a_restart(opened: Open, clock: MovedClock) -> None:
    async with opened() as store:
        await store.write(a_batch(1.0, batch_id="b1"))
    async with opened() as store:
        assert await store.write(a_batch(1.0, batch_id="b1")) is False
        clock.now += BATCH_ID_MEMORY_MS + 1
        assert await store.write(a_batch(1.0, batch_id="b1")) is True


def test_batch_ids_beyond_the_limit_are_evicted_and_counted() -> None:
    ids = RecentBatchIds(MovedClock(), ids_max=2)
    for name in ("a", "b", "c"):
        ids.add(name)
    assert [ids.seen(name) for name in ("a", "b", "c")] == [False, True, True]
    assert ids.evicted == 1


async def test_deleted_data_stays_deleted_after_a_restart(opened: Open) -> None:
    demo = a_series(environment="demo")
    async with opened() as store:
        await store.write(a_batch(1.0, series=demo))
        await store.write(a_batch(2.0))
        await store.write(Batch(spans=(a_span(), a_span("t2", service="gone"))))
        await store.delete(Selector(environment="demo"))
        await store.delete(Selector(service="gone"))
        await store.write(a_batch(4.0, series=demo))
    for _ in range(2):
        async with opened() as store:
            assert await totals(store) == (2, 6.0)
            assert (await store.trace("t2")).spans == ()
            assert len((await store.trace("t1")).spans) == 1


async def test_many_small_commits_make_few_blocks(opened: Open) -> None:
    async with opened() as store:
        for value in range(300):
            await store.write(a_batch(float(value)))
        assert len(store._head.samples) < 12
        assert await totals(store) == (300, sum(range(300)))


async def test_exemplars_survive_merging_and_filtering(opened: Open) -> None:
    series = a_series()
    async with opened() as store:
        for i in range(40):
            links = encode_exemplars(np.array([1], np.uint32), [f"t{i}"], [""])
            await store.write(build_batch([(series, NOW_MS, 0.0), (series, NOW_MS, float(i))], exemplars=links))
        (sample,) = (await store.trace("t17")).samples
        assert sample.value == 17.0
        stored = [
            (float(block.samples.value[position]), trace_id)
            for block in store._head.samples
            for position, trace_id, _ in block.samples.exemplars.rows()
        ]
        assert sorted(stored) == sorted((float(i), f"t{i}") for i in range(40))


async def test_a_damaged_row_is_reported_and_the_rest_served(opened: Open, tmp_path: Path) -> None:
    async with opened() as store:
        for value in (1.0, 2.0, 4.0):
            await store.write(a_batch(value))
    path = tmp_path / "data" / "journal.db"
    with closing(sqlite3.connect(path)) as db, db:
        (body,) = db.execute("SELECT body FROM journal WHERE seq=2").fetchone()
        db.execute("UPDATE journal SET body=? WHERE seq=2", (body[:-3] + bytes([body[-3] ^ 1]) + body[-2:],))
    assert check_journal(path, ReadOnlyFolder(path.parent).connect).damaged == 1
    async with opened() as store:
        assert await totals(store) == (2, 5.0)
        assert store.damaged_rows == 1
        await store.write(a_batch(8.0))
        assert await totals(store) == (3, 13.0)
    assert check_journal(path, ReadOnlyFolder(path.parent).connect).damaged == 1, (
        "a damaged row stays for a person to look at"
    )


async def test_a_newer_format_is_refused_and_not_changed(opened: Open, tmp_path: Path) -> None:
    async with opened() as store:
        await store.write(a_batch(1.0))
    path = tmp_path / "data" / "journal.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version={FORMAT + 1}")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(FormatTooNew, match="nothing was touched"):
        async with opened():
            pass
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert not path.with_name("journal.db-wal").exists()


async def test_a_file_of_something_else_is_refused(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "journal.db").write_bytes(b"no database at all, but long enough to have a header" * 4)
    with pytest.raises(StartupError, match="not a SQLite file"):
        async with opened():
            pass


async def test_a_second_store_on_one_folder_is_refused(opened: Open) -> None:
    async with opened() as store:
        with pytest.raises(DataFolderInUse, match="in use by another"):
            async with opened():
                pass
        await store.write(a_batch(1.0))
    async with opened() as store:
        assert await totals(store) == (1, 1.0)


async def test_a_full_disk_refuses_complete_batches_and_recovers_without_a_restart(opened: Open) -> None:
    stored = 0
    async with opened(page_count_max=60) as store:
        with pytest.raises(StoreUnavailable, match="full"):
            for _ in range(100):
                await store.write(a_batch(*[1.0] * 1000, series=a_series(tags={"n": str(stored)})))
                stored += 1
        assert 0 < stored < 100
        with pytest.raises(StoreUnavailable):
            await store.ping()
        assert (await totals(store))[0] == stored * 1000, "queries go on"
        assert len(await store.list_series()) == stored, "the refused batch left no series behind"
        await store._commits.run(lambda: store._journal.db.execute("PRAGMA max_page_count=100000"))
        await store.write(a_batch(1.0))
        await store.ping()
    async with opened() as store:
        assert (await totals(store))[0] == stored * 1000 + 1


async def test_a_batch_refused_for_a_full_disk_can_be_sent_again_with_its_id(opened: Open) -> None:
    async with opened(page_count_max=40) as store:
        with pytest.raises(StoreUnavailable):
            for n in range(100):
                await store.write(a_batch(*[1.0] * 1000, batch_id=f"b{n}"))
        await store._commits.run(lambda: store._journal.db.execute("PRAGMA max_page_count=100000"))
        before = (await totals(store))[0]
        assert await store.write(a_batch(*[1.0] * 1000, batch_id=f"b{before // 1000}")) is True
        assert await store.write(a_batch(*[1.0] * 1000, batch_id=f"b{before // 1000}")) is False


async def test_a_full_queue_is_busy_and_not_an_endless_one(opened: Open) -> None:
    batch = a_batch(*[1.0] * 1000)
    async with opened(queue_nbytes_max=batch.nbytes * 3) as store:
        outcomes = await asyncio.gather(*(store.write(batch) for _ in range(10)), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, BusyError)]
        assert len(refused) == 7
        assert (await totals(store))[0] == 3000
        assert store.queued_nbytes == 0


async def test_series_beyond_the_limit_go_to_the_overflow_series(opened: Open) -> None:
    many = [a_series(tags={"user": str(n)}) for n in range(10)]
    async with opened(series_max=4) as store:
        await store.write(build_batch([(item, NOW_MS, 1.0) for item in many]))
        await store.write(a_batch(1.0, series=many[9]))
        assert await totals(store) == (11, 11.0)
        counts = {info.series.tags: info.samples for info in await store.list_series()}
        assert counts[(("__overflow__", "true"),)] == 7
        assert len(counts) == 5
        assert len(store._catalogue.limit.overflowed) == 6
    async with opened(series_max=4) as store:
        assert await totals(store) == (11, 11.0)


async def test_a_caller_that_goes_away_does_not_take_its_batch_along(opened: Open) -> None:
    async with opened() as store:
        writing = asyncio.create_task(store.write(a_batch(1.0, batch_id="b1")))
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert await store.write(a_batch(1.0, batch_id="b1")) is False
        assert await totals(store) == (1, 1.0)


async def test_a_damaged_file_is_one_clear_line(opened: Open, tmp_path: Path) -> None:
    async with opened() as store:
        for n in range(300):
            await store.write(a_batch(1.0, series=a_series(tags={"n": str(n)})))
    path = tmp_path / "data" / "journal.db"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StartupError, match="damaged"):
        async with opened():
            pass


async def test_files_are_for_their_owner_alone(opened: Open, tmp_path: Path) -> None:
    async with opened() as store:
        await store.write(Batch(spans=(a_span(),)))
        await store.write(a_batch(1.0))
        await store.seal()
        result = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "data").rglob("*")}
    assert {mode for path, mode in result.items() if path.is_file()} == {0o600}, result
    assert {mode for path, mode in result.items() if path.is_dir()} == {0o700}, result


async def test_a_closed_store_is_unavailable(opened: Open) -> None:
    async with opened() as store:
        pass
    with pytest.raises(StoreUnavailable):
        await store.write(a_batch(1.0))
    with pytest.raises(StoreUnavailable):
        await store.ping()


async def test_closing_ends_the_queries_that_run(opened: Open) -> None:
    likes = " OR ".join(f"trace_id LIKE '%{i}%zz{i}'" for i in range(60))
    query = compile_query(f"SELECT count() FROM metrics WHERE {likes}", now_ms=NOW_MS).query
    series = a_series()
    async with opened() as store:
        for start in range(0, 100_000, 10_000):
            ids = [f"{start + i:032x}" for i in range(10_000)]
            rows = [(series, NOW_MS - 1000, 1.0)] * 10_000
            await store.write(build_batch(rows, exemplars=encode_exemplars(range(10_000), ids, ids)))
        running = asyncio.create_task(store.select(query, deadline_s=600))
        await asyncio.sleep(0.05)  # in its thread by now; were it not, it would end all the same
    with pytest.raises(StoreUnavailable):
        await running


async def test_a_listed_trace_with_too_many_spans_leaves_others_theirs(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_search, "LISTED_SPANS_MAX", 10)
    large = [a_span("large", f"s{i}", start_ms=NOW_MS - 2000 + i) for i in range(50)]
    small = [a_span(f"t{n:02}", f"s{i}", start_ms=NOW_MS - 1000 + n) for n in range(40) for i in range(3)]
    async with opened() as store:
        for _ in ("unsealed", "sealed"):
            await store.write(Batch(spans=(*large, *small)))
            listed = {trace.trace_id: trace.spans for trace in await store.traces(TraceFilter(last_hours(), limit=99))}
            assert listed == {"large": 10, **{f"t{n:02}": 3 for n in range(40)}}
            await store.seal()


async def test_of_a_trace_with_too_many_spans_the_first_are_shown(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "TRACE_SPANS_MAX", 10)
    async with opened() as store:
        for remainder in (2, 0, 3, 1):  # three parts and the head, each with spans of all times; the root comes second
            spans = [a_span("t1", f"s{i:02}", start_ms=NOW_MS - 1000 + i) for i in range(remainder, 40, 4)]
            await store.write(Batch(spans=tuple(spans)))
            if remainder != 1:
                await store.seal()
        trace = await store.trace("t1")
        assert [span.span_id for span in trace.spans] == [f"s{i:02}" for i in range(10)]
        assert trace.left_out == 30


async def test_a_trace_with_too_many_spans_says_how_many_are_left_out(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "TRACE_SPANS_MAX", 10)
    async with opened() as store:
        for start in (0, 8, 16, 24):  # three parts, and the head
            spans = [a_span("t1", f"s{i}", start_ms=NOW_MS - 1000 + i) for i in range(start, start + 8)]
            await store.write(Batch(spans=tuple(spans)))
            trace = await store.trace("t1")
            assert (len(trace.spans), trace.left_out) == (min(10, start + 8), max(0, start - 2))
            assert [span.span_id for span in trace.spans] == [f"s{i}" for i in range(len(trace.spans))]
            if start < 24:
                await store.seal()
                assert (await store.trace("t1")).left_out == trace.left_out
