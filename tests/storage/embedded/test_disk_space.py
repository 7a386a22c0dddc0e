"""Space on disk: the journal returns what it does not need, deletes without writing, and segments are synced as they
grow."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.samples import MovedClock, a_batch, count_query, of_service
from tests.support.wait import until
from vantage.core.record import Record
from vantage.core.sample_columns import SampleColumns
from vantage.storage.embedded.format.segment import SAMPLES, SYNC_NBYTES, SegmentWriter
from vantage.storage.embedded.maintain.worker import CALM_S
from vantage.storage.embedded.write import journal as journal_module
from vantage.storage.embedded.write.journal import FREE_PAGES_KEPT, GIVE_BACK_PAGES, REWRITTEN_PAGES_MAX, Journal

PAGE_NBYTES = 4096
COMMITS = 300
SAMPLES_A_COMMIT = 3000
COMMIT_NBYTES = 20 * SAMPLES_A_COMMIT


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.db", synchronous="NORMAL")
    opened.open()
    yield opened
    opened.close()


def commit(journal: Journal, number: int) -> None:
    rows = np.arange(SAMPLES_A_COMMIT)
    for _ in range(number):
        samples = SampleColumns(rows.astype(np.uint32), rows + 1_000_000, rows.astype(np.float64))
        journal.commit(Record(samples, (), 0), at_ms=1, new_series=(), batch_ids=())


def delete_all(journal: Journal) -> None:
    journal.seal(seq_max=COMMITS, generation=1)
    while journal.delete_sealed():
        pass


def checkpoint(journal: Journal) -> None:
    assert journal.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


def log_nbytes(path: Path) -> int:
    return path.with_name(path.name + "-wal").stat().st_size


def free_pages(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA freelist_count").fetchone()[0])


def test_deleting_sealed_rows_does_not_write_them_again(journal: Journal) -> None:
    commit(journal, COMMITS)
    checkpoint(journal)
    delete_all(journal)
    assert log_nbytes(journal.path) < COMMITS * COMMIT_NBYTES // 20


def test_free_space_goes_back_to_the_disk_in_pieces(journal: Journal) -> None:
    commit(journal, COMMITS)
    assert not journal.give_back(), "nothing is free"
    delete_all(journal)
    commit(journal, 2)
    before = free_pages(journal.db)
    assert before > FREE_PAGES_KEPT + 3 * GIVE_BACK_PAGES
    assert journal.give_back()
    assert before - free_pages(journal.db) == GIVE_BACK_PAGES
    while journal.give_back():
        pass
    assert free_pages(journal.db) == FREE_PAGES_KEPT
    checkpoint(journal)
    assert journal.path.stat().st_size < (FREE_PAGES_KEPT + 100) * PAGE_NBYTES
    assert [entry.seq for entry in journal.entries()] == [COMMITS + 1, COMMITS + 2]
    assert journal.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def earlier_version(path: Path) -> None:
    """Make a journal of the present format that cannot give back single pages."""
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(
        f"PRAGMA auto_vacuum=NONE; {journal_module._SCHEMA} PRAGMA application_id={journal_module.APPLICATION_ID};"
        f"PRAGMA user_version={journal_module.FORMAT};"
    )
    db.close()


@pytest.mark.parametrize("left", [1, REWRITTEN_PAGES_MAX * PAGE_NBYTES // COMMIT_NBYTES + 2])
def test_a_journal_of_an_earlier_version_is_rewritten_when_little_is_in_it(tmp_path: Path, left: int) -> None:
    earlier_version(tmp_path / "journal.db")
    journal = Journal(tmp_path / "journal.db", synchronous="NORMAL")
    journal.open()
    commit(journal, COMMITS)
    delete_all(journal)
    commit(journal, left)
    assert not journal.give_back()
    rewritten = left == 1
    assert (free_pages(journal.db) <= FREE_PAGES_KEPT) == rewritten
    assert journal.db.execute("PRAGMA auto_vacuum").fetchone() == (2 if rewritten else 0,)
    assert len(list(journal.entries())) == left
    journal.close()


async def test_a_calm_store_returns_the_space_of_what_was_sealed(
    opened: Callable[..., Any], clock: MovedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "FREE_PAGES_KEPT", 0)
    path = tmp_path / "data" / "journal.db"
    async with opened() as store:
        for _ in range(200):
            await store.write(a_batch(*map(float, range(300))))
        await store._commits.run(lambda: checkpoint(store._journal))
        full = path.stat().st_size
        assert full > 200 * 300 * 20
        await store.seal()
        await until(lambda: not store._seal_queue.has_sealed_rows)
        await clock.sleep(CALM_S + 1)
        await until(lambda: path.stat().st_size < full // 2)
        await store.write(a_batch(1.0))
        ((count, _),) = (await store.select(count_query(of_service("api")), deadline_s=5)).rows()
        assert count == 200 * 300 + 1


def test_a_segment_is_synced_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "2026-W48.samples.db"
    writer = SegmentWriter(path, SAMPLES)
    body = bytes(range(256)) * 1024  # 256 KiB
    for number in range(32):
        with writer.slice() as db:
            db.execute("INSERT INTO chunk VALUES (?, 1, 0, 0, 1, 1, 0, ?, '', '')", (number, body))
        writer.sync_written(len(body))
    assert log_nbytes(path) < 2 * SYNC_NBYTES
    writer.close()
