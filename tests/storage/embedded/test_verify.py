"""``doctor --deep`` finds what is wrong in any row of any table, names it, and finds nothing where nothing is wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.storage.embedded.test_sealing import few_parts, merged
from tests.support.random_batches import RandomBatches
from tests.support.samples import MovedClock
from vantage.storage.embedded.offline.folder_reader import ReadOnlyFolder
from vantage.storage.embedded.offline.verify import Fault, verify_segments
from vantage.storage.embedded.store import EmbeddedStore
from vantage.telemetry import Telemetry


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A data folder with several parts of samples, links, spans and rollups."""
    chance = RandomBatches(11)
    async with EmbeddedStore(tmp_path / "data", clock=MovedClock(), telemetry=Telemetry()) as store:
        for _ in range(4):
            for _ in range(6):
                await store.write(chance.batch())
            await store.seal()
    return tmp_path / "data"


def faults(folder: Path) -> list[Fault]:
    looker = ReadOnlyFolder(folder)
    return list(verify_segments(looker, looker.segments()))


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


async def test_nothing_is_wrong_with_what_was_sealed_and_merged_and_nothing_is_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state_of(folder)
    assert faults(folder) == []
    assert state_of(folder) == before
    few_parts(monkeypatch, 2)
    async with EmbeddedStore(folder, clock=MovedClock(), telemetry=Telemetry()) as store:
        await merged(store)
        assert faults(folder) == [], "also beside a server"
    assert faults(folder) == []


def turn_a_bit(table: str, column: str, key: str = "id") -> Callable[[sqlite3.Connection], int]:
    def how(db: sqlite3.Connection) -> int:
        row, body = db.execute(f"SELECT {key}, {column} FROM {table} WHERE {column} IS NOT NULL").fetchone()
        body = bytearray(body)
        body[len(body) // 2] ^= 4
        db.execute(f"UPDATE {table} SET {column}=? WHERE {key}=?", (bytes(body), row))
        return int(row)

    return how


def run(sql: str, row: str) -> Callable[[sqlite3.Connection], int]:
    def how(db: sqlite3.Connection) -> int:
        (result,) = db.execute(row).fetchone()
        db.execute(sql, (result,))
        return int(result)

    return how


SAMPLES = "samples"
ROLLUPS = "rollups"


@pytest.mark.parametrize(
    ("tier", "table", "how"),
    [
        *(
            (SAMPLES, table, turn_a_bit(table, column))
            for table, column in (
                ("chunk", "runs"), ("chunk", "times"), ("chunk", "vals"), ("exemplar", "ids"),
                ("exemplar", "body"), ("span_block", "body"),
                ("id_index", "body"), ("part", "series"), ("part", "services"), ("series", "body"),
            )
        ),
        *(
            (ROLLUPS, "rollup", turn_a_bit("rollup", column))
            for column in ("runs", "times", "counts", "sums", "mins", "maxs", "sketches")
        ),
        (SAMPLES, "chunk", run("UPDATE chunk SET samples=samples+1 WHERE id=?", "SELECT id FROM chunk")),
        (SAMPLES, "chunk", run("UPDATE chunk SET first_ms=first_ms-1 WHERE id=?", "SELECT id FROM chunk")),
        (SAMPLES, "part", run("UPDATE part SET samples=samples+1 WHERE id=?", "SELECT id FROM part")),
        (SAMPLES, "part", run("UPDATE part SET spans=spans-1 WHERE id=?", "SELECT id FROM part WHERE spans")),
        (SAMPLES, "part", run("UPDATE part SET nbytes=nbytes+1 WHERE id=?", "SELECT id FROM part")),
        (SAMPLES, "span_block", run("UPDATE span_block SET spans=spans+1 WHERE id=?", "SELECT id FROM span_block")),
        (SAMPLES, "span_block", run("UPDATE span_block SET services='[]' WHERE id=?", "SELECT id FROM span_block")),
        (SAMPLES, "exemplar", run("UPDATE exemplar SET low=low-1 WHERE id=?", "SELECT id FROM exemplar")),
        (SAMPLES, "exemplar", run("UPDATE exemplar SET exemplars=exemplars-1 WHERE id=?", "SELECT id FROM exemplar")),
        (ROLLUPS, "rollup", run("UPDATE rollup SET partials=0 WHERE id=?", "SELECT id FROM rollup")),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named_by_file_table_and_row(
    folder: Path, tier: str, table: str, how: Callable[[sqlite3.Connection], int]
) -> None:
    path = max((folder / "segments").glob(f"*.{tier}.db"), key=lambda path: path.stat().st_size)
    with closing(sqlite3.connect(path)) as db, db:
        row = how(db)
    result = faults(folder) or [
        Fault(text.partition(":")[0], "part", None, text) for text in ReadOnlyFolder(folder).segments().damaged
    ]
    assert {fault.file for fault in result} == {path.name}
    assert table in {fault.table for fault in result}, result
    if result[0].row is not None:
        assert row in {fault.row for fault in result}, result


async def test_missing_rows_are_detected(folder: Path) -> None:
    path = max((folder / "segments").glob("*.samples.db"), key=lambda path: path.stat().st_size)
    for table in ("chunk", "exemplar", "span_block", "id_index"):
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("SAVEPOINT before")
            db.execute(f"DELETE FROM {table} WHERE rowid = (SELECT rowid FROM {table})")
            db.commit()
        assert faults(folder), table


async def test_a_page_that_is_overwritten_is_found(folder: Path) -> None:
    path = max((folder / "segments").glob("*.samples.db"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    middle = len(content) // 4096 * 2048
    content[middle : middle + 2048] = b"\xa5" * 2048
    path.write_bytes(content)
    looker = ReadOnlyFolder(folder)
    checked = looker.segments()
    assert checked.damaged or list(verify_segments(looker, checked))
