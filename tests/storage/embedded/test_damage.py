"""Damaged segments are reported by name, quarantined or skipped, and everything else is served. Disks fill up."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.samples import HOUR_MS, NOW_MS, a_batch, a_series, a_span, count_query
from tests.support.wait import until
from vantage.core.batch import Batch
from vantage.core.errors import FormatTooNew, StoreUnavailable
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.format.segment import FORMAT, SegmentWriter
from vantage.storage.embedded.maintain import merge
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.ports import TraceFilter
from vantage.storage.sqlite_reading import FrozenConnection, connect_to_read

DAY_MS = 24 * HOUR_MS
Open = Callable[..., Any]


def few_parts(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have so many parts merged at once, however busy the store is."""
    monkeypatch.setattr(merge, "PARTS_MIN", number)
    monkeypatch.setattr(merge, "PARTS_MIN_BUSY", number)


async def total(store: EmbeddedStore) -> int:
    ((count, _),) = (await store.select(count_query(), deadline_s=5)).rows()
    return int(count)


async def two_weeks(opened: Open, tmp_path: Path) -> tuple[Path, Path]:
    """A thousand samples and a span in each of two weeks: their files of samples, the older first."""
    async with opened() as store:
        for days, service in ((20, "old"), (0, "new")):
            at_ms = NOW_MS - days * DAY_MS - 5000
            await store.write(a_batch(*map(float, range(1000)), series=a_series(service), at_ms=at_ms))
            await store.write(Batch(spans=(a_span(service, service=service, start_ms=at_ms),)))
        await store.seal()
    older, newer = sorted((tmp_path / "data" / "segments").glob("*.samples.db"))
    return older, newer


def flip(path: Path, sql: str) -> None:
    """Turn one bit of a stored value over."""
    table, _, column = sql.partition(".")
    with closing(sqlite3.connect(path)) as db, db:
        rowid, body = db.execute(f"SELECT rowid, {column} FROM {table}").fetchone()
        body = bytearray(body)
        body[len(body) // 2] ^= 4
        db.execute(f"UPDATE {table} SET {column}=? WHERE rowid=?", (bytes(body), rowid))


async def test_a_truncated_segment_is_quarantined_and_the_rest_is_served(opened: Open, tmp_path: Path) -> None:
    older, _ = await two_weeks(opened, tmp_path)
    content = older.read_bytes()
    older.write_bytes(content[: len(content) // 2])
    with capture_logs() as logs:
        async with opened() as store:
            assert await total(store) == 1000
            usage = await store.usage()
            assert usage.damaged == (older.name,)
            await store.write(a_batch(1.0, at_ms=NOW_MS - 20 * DAY_MS))
            await store.seal()
            assert await total(store) == 1001
    (reported,) = [log for log in logs if log["log_level"] == "error"]
    assert reported["file"] == older.name
    assert "cut off" in reported["reason"]
    (aside,) = (tmp_path / "data" / "segments" / "damaged").glob("*.samples.db")
    assert aside.read_bytes() == content[: len(content) // 2], "nothing of it is changed"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"no database at all" * 100,
        lambda content: content[:2048] + b"\xff" * (len(content) - 2048),
        lambda content: b"",
    ],
    ids=["something else", "rubbish behind the header", "empty"],
)
async def test_an_invalid_segment_is_quarantined_at_start(
    opened: Open, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    older, _ = await two_weeks(opened, tmp_path)
    older.write_bytes(spoil(older.read_bytes()))
    async with opened() as store:
        assert await total(store) == 1000
        assert (await store.usage()).damaged == (older.name,)
        assert [trace.trace_id for trace in await store.traces(TraceFilter(TimeRange(0, NOW_MS)))] == ["new"]


async def test_a_segment_that_breaks_while_it_is_served_is_quarantined(opened: Open, tmp_path: Path) -> None:
    older, _ = await two_weeks(opened, tmp_path)
    async with opened() as store:
        content = older.read_bytes()
        with older.open("r+b") as file:  # in place, as a failing disk would
            file.seek(2048)
            file.write(b"\xff" * (len(content) - 2048))
        store._pool.evict(older)
        store._pool.readmit(older)
        await total(store)

        async def damaged() -> tuple[str, ...]:
            return (await store.usage()).damaged

        assert await until(damaged) == (older.name,)
        assert await total(store) == 1000


@pytest.mark.parametrize("column", ["chunk.vals", "chunk.times", "chunk.runs"])
async def test_a_flipped_bit_costs_its_chunk_and_is_counted(opened: Open, tmp_path: Path, column: str) -> None:
    older, _ = await two_weeks(opened, tmp_path)
    flip(older, column)
    with capture_logs() as logs:
        async with opened() as store:
            assert await total(store) == 1000
            assert store.damaged_rows > 0
    assert {log["file"] for log in logs if log["log_level"] == "error"} == {older.name}


async def test_a_flipped_bit_in_a_block_of_spans_costs_that_block(opened: Open, tmp_path: Path) -> None:
    older, _ = await two_weeks(opened, tmp_path)
    flip(older, "span_block.body")
    async with opened() as store:
        assert [trace.trace_id for trace in await store.traces(TraceFilter(TimeRange(0, NOW_MS)))] == ["new"]
        assert (await store.trace("old")).spans == ()
        assert store.damaged_rows > 0


async def test_parts_with_a_damaged_row_are_not_merged_away(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as store:
        for n in range(3):
            await store.write(a_batch(*[float(n)] * 100))
            await store.seal()
    (path,) = (tmp_path / "data" / "segments").glob("*.samples.db")
    flip(path, "chunk.vals")
    few_parts(monkeypatch, 3)
    async with opened() as store:
        await until(lambda: store._merger._unreadable)
        assert await total(store) == 200
        (segment,) = store._snapshots.now.samples.values()
        assert len(segment.parts) == 3, "the damaged row stays for a person to look at"


async def test_a_segment_of_a_newer_format_is_refused_and_nothing_touched(opened: Open, tmp_path: Path) -> None:
    older, newer = await two_weeks(opened, tmp_path)
    with closing(sqlite3.connect(newer)) as db:
        db.execute(f"PRAGMA user_version={FORMAT + 1}")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = (older.read_bytes(), newer.read_bytes())
    with pytest.raises(FormatTooNew, match=newer.name):
        async with opened():
            pass
    assert (older.read_bytes(), newer.read_bytes()) == before


async def test_a_disk_that_fills_up_in_the_middle_of_a_seal_loses_nothing(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SegmentWriter.__init__

    def small(self: SegmentWriter, path: Path, tier: str) -> None:
        made(self, path, tier)
        self.db.execute("PRAGMA max_page_count=120")  # SQLite's own way of a full disk

    monkeypatch.setattr("vantage.storage.embedded.format.part_writer.SLICE_NBYTES", 16 << 10)
    values = [float(hash((n, "x")) % 10**9) / 7 for n in range(60_000)]
    async with opened() as store:
        await store.write(a_batch(*values))
        monkeypatch.setattr(SegmentWriter, "__init__", small)
        with pytest.raises(StoreUnavailable, match="full"):
            await store.seal()
        assert await total(store) == 60_000
        await store.write(a_batch(1.0))
        monkeypatch.setattr(SegmentWriter, "__init__", made)
        store._seal_queue._retry_at_s = 0.0
        await store.seal()
        assert store.unsealed_nbytes == 0
        assert await total(store) == 60_001
    async with opened() as store:
        assert await total(store) == 60_001


async def test_a_seal_that_the_journal_cannot_record_is_repeated_and_stored_once(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as store:
        await store.write(a_batch(*map(float, range(1000))))
        recorded = store._journal.seal

        def full(**named: int) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(store._journal, "seal", full)
        with pytest.raises(StoreUnavailable, match="full"):
            await store.seal()
        monkeypatch.setattr(store._journal, "seal", recorded)
        store._seal_queue._retry_at_s = 0.0
        await store.seal()
        assert await total(store) == 1000
    async with opened() as store:
        assert await total(store) == 1000


async def test_a_lost_journal_does_not_take_the_segments_along(opened: Open, tmp_path: Path) -> None:
    await two_weeks(opened, tmp_path)
    for path in (tmp_path / "data").glob("journal.db*"):
        path.unlink()
    async with opened() as store:
        assert await total(store) == 2000
        assert {info.series.service for info in await store.list_series()} == {"old", "new"}
        await store.write(a_batch(1.0, series=a_series("new")))
        await store.seal()
    async with opened() as store:
        assert await total(store) == 2001


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize("replace", [Path.unlink, as_folder, as_fifo, as_dangling_link])
async def test_a_segment_that_is_no_file_any_more_is_named_and_the_rest_is_served(
    opened: Open, tmp_path: Path, replace: Callable[[Path], None]
) -> None:
    older, _ = await two_weeks(opened, tmp_path)
    replace(older)
    async with opened() as store:
        assert await total(store) == 1000
        assert (await store.usage()).damaged == (older.name,)
        assert any(older.name in warning for warning in store.warnings())
    async with opened() as store:
        assert await total(store) == 1000


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: os.truncate(path, 0)], ids=["removed", "emptied"])
async def test_a_segment_that_disappears_while_it_is_served_is_named(
    opened: Open, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    older, _ = await two_weeks(opened, tmp_path)
    async with opened() as store:
        spoil(older)
        store._pool.evict(older)
        store._pool.readmit(older)
        await total(store)

        async def damaged() -> tuple[str, ...]:
            return (await store.usage()).damaged

        assert await until(damaged) == (older.name,)
        assert await total(store) == 1000


def no_shared_memory(path: Path) -> None:
    path.with_name(path.name + "-shm").symlink_to("nowhere/at/all")


async def test_segments_are_read_where_sqlite_cannot_share_memory(opened: Open, tmp_path: Path) -> None:
    """As on a full disk: SQLite cannot make the file beside a database that it needs even to read it."""
    await two_weeks(opened, tmp_path)
    segments = tmp_path / "data" / "segments"
    for path in segments.glob("*.db"):
        no_shared_memory(path)
    async with opened() as store:
        assert await total(store) == 2000
        assert (await store.usage()).damaged == ()
        assert len((await store.trace("old")).spans) == 1
        await store.write(a_batch(1.0, series=a_series("late"), at_ms=NOW_MS))
        with pytest.raises(StoreUnavailable):
            await store.seal()
        assert store.warnings()
        assert await total(store) == 2001
    for path in segments.glob("*-shm"):
        path.unlink()
    async with opened() as store:
        await store.seal()
        assert await total(store) == 2001
        assert not store.warnings()


@pytest.mark.parametrize("has_log", [False, True])
def test_a_database_without_shared_memory_is_read_with_its_log(tmp_path: Path, *, has_log: bool) -> None:
    source, path = tmp_path / "source.db", tmp_path / "copy.db"
    with closing(sqlite3.connect(source, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("CREATE TABLE row (n)")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if has_log:
            db.execute("INSERT INTO row VALUES (1)")
        for end in ("", "-wal"):
            shutil.copy(f"{source}{end}", f"{path}{end}")
    no_shared_memory(path)
    with closing(connect_to_read(path)) as db:
        assert isinstance(db, FrozenConnection)
        assert db.execute("SELECT count(*) FROM row").fetchone() == (int(has_log),)
