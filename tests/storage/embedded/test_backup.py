"""Backups contain everything acknowledged before they began, restores are complete or refused, with a reason."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import stat
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.telemetry_contract import ALWAYS, contents
from tests.storage.embedded.test_sealing import few_parts
from tests.support.random_batches import RandomBatches
from tests.support.samples import NOW_MS, MovedClock, a_batch
from tests.support.wait import until
from vantage.core.errors import (
    BusyError,
    DataFolderInUse,
    FormatTooNew,
    InputError,
    StartupError,
    StoreUnavailable,
    VantageError,
)
from vantage.storage.embedded.maintain import segment_files
from vantage.storage.embedded.offline.backup import BackupResult, make_backup
from vantage.storage.embedded.offline.restore import MARKER, restore_backup
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.lock import MAINTENANCE, FileLock
from vantage.storage.ports import Selector
from vantage.telemetry import Telemetry

Open = Callable[..., Any]
BACKUPS = 10 if os.environ.get("VANTAGE_TEST_LONG") else 2


@pytest.fixture
def opened() -> Open:
    @asynccontextmanager
    async def open_store(folder: Path, **options: Any) -> AsyncIterator[EmbeddedStore]:
        async with EmbeddedStore(folder, clock=MovedClock(), telemetry=Telemetry(), **options) as store:
            yield store

    return open_store


def back_up(folder: Path, target: Path, **other: Any) -> BackupResult:
    options = {"metadata": None, "version": "1.2.3", "now_ms": lambda: NOW_MS, **other}
    return make_backup(folder, target, **options)


async def everything(store: EmbeddedStore) -> Counter[Any]:
    return contents([batch async for batch in store.export(Selector(), ALWAYS)])


async def filled(opened: Open, folder: Path, *, batches: int = 12) -> Counter[Any]:
    """Some of it sealed, some not."""
    chance = RandomBatches(3)
    async with opened(folder) as store:
        for n in range(batches):
            await store.write(chance.batch())
            if n == batches // 2:
                await store.seal()
        return await everything(store)


def state_of(folder: Path) -> dict[str, Any]:
    """Names, sizes and contents of everything in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


async def test_a_backup_beside_a_writing_sealing_and_merging_store_is_one_state_of_it(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_parts(monkeypatch, 2)
    chance = RandomBatches(5)
    written = []
    segments = tmp_path / "data" / "segments"
    async with opened(tmp_path / "data", generation_samples_max=100) as store:

        async def write() -> None:
            while True:
                written.append(chance.batch())
                await store.write(written[-1])

        for n in range(BACKUPS):
            wanted = len(written) + 10
            writing = asyncio.create_task(write())
            await until(lambda wanted=wanted: len(written) >= wanted and any(segments.glob("*.db")), every_s=0.005)
            before = len(written) - 1  # all but perhaps the last are acknowledged
            made = await asyncio.to_thread(back_up, tmp_path / "data", tmp_path / f"backup{n}")
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            assert made.manifest.segments
            restore_backup(tmp_path / f"backup{n}", tmp_path / f"new{n}")
            async with opened(tmp_path / f"new{n}") as copy:
                stored = await everything(copy)
            state, later = contents(written[:before]), iter(written[before:])
            while state != stored and (batch := next(later, None)) is not None:
                state.update(contents([batch]))
            assert state == stored, "it holds neither exactly what was acknowledged before, nor that and what followed"


async def test_a_backup_without_a_server_is_the_same(opened: Open, tmp_path: Path) -> None:
    stored = await filled(opened, tmp_path / "data")
    made = back_up(tmp_path / "data", tmp_path / "backup")
    assert (made.omitted, made.quarantined, made.manifest.sealed_generation) == ((), 0, 1)
    assert restore_backup(tmp_path / "backup", tmp_path / "new") == made.manifest
    async with opened(tmp_path / "new") as store:
        assert await everything(store) == stored
        await store.seal()
        assert await everything(store) == stored


async def test_deleted_data_is_deleted_in_the_backup_too(opened: Open, tmp_path: Path) -> None:
    """While the lock is locked nothing is removed from segments, so the backup has the data and its tombstone."""
    await filled(opened, tmp_path / "data")
    lock = FileLock(tmp_path / "data", MAINTENANCE)
    async with opened(tmp_path / "data") as store:
        assert lock.take(wait=True)
        await store.delete(Selector(service="svc1"))
        stored = await everything(store)
        assert not any(b"svc1" in item[0] for item in stored if isinstance(item, tuple))
        lock.release()
        back_up(tmp_path / "data", tmp_path / "backup")
    restore_backup(tmp_path / "backup", tmp_path / "new")
    async with opened(tmp_path / "new") as store:
        assert await everything(store) == stored


async def test_nothing_is_sealed_while_segments_are_copied_and_everything_afterwards(
    opened: Open, tmp_path: Path
) -> None:
    async with opened(tmp_path / "data") as store:
        await store.write(a_batch(1.0))
        lock = FileLock(tmp_path / "data", MAINTENANCE)
        assert lock.take(wait=True)
        with pytest.raises(StoreUnavailable):
            await store.seal()
        await store.write(a_batch(2.0))
        lock.release()
        await store.seal()
        assert sum((await everything(store)).values()) == 2


async def test_a_store_that_opens_beside_a_backup_changes_no_segments_until_it_is_over(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening removes leftovers of a killed process from segments, but not while they are copied."""
    await filled(opened, tmp_path / "data")
    lock = FileLock(tmp_path / "data", MAINTENANCE)
    assert lock.take(wait=True)
    monkeypatch.setattr(segment_files, "BACKUP_WAIT_S", 0.2)
    with pytest.raises(StartupError, match="a backup has held"):
        async with opened(tmp_path / "data"):
            pass
    monkeypatch.setattr(segment_files, "BACKUP_WAIT_S", 60.0)
    async with AsyncExitStack() as stack:
        opening = asyncio.create_task(stack.enter_async_context(opened(tmp_path / "data")))
        await asyncio.sleep(0.3)
        assert not opening.done()
        lock.release()
        assert sum((await everything(await opening)).values())


def test_a_lock_that_stays_locked_is_reported_and_given_up(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with closing(sqlite3.connect(tmp_path / "data" / "journal.db")) as db:
        db.execute("CREATE TABLE t (a)")
    file_lock = FileLock(tmp_path / "data", MAINTENANCE)
    assert file_lock.take(wait=True)
    with pytest.raises(BusyError, match="try again later"):
        back_up(tmp_path / "data", tmp_path / "backup", wait_s=0.2)
    assert not (tmp_path / "backup").exists()
    file_lock.release()
    back_up(tmp_path / "data", tmp_path / "backup")


async def test_a_backup_is_for_its_owner_alone(opened: Open, tmp_path: Path) -> None:
    await filled(opened, tmp_path / "data")
    back_up(tmp_path / "data", tmp_path / "backup")
    restore_backup(tmp_path / "backup", tmp_path / "new")
    for folder in (tmp_path / "backup", tmp_path / "new"):
        paths = [folder, *folder.rglob("*")]
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o700}
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o600}


async def test_damaged_segments_are_skipped_and_named(opened: Open, tmp_path: Path) -> None:
    await filled(opened, tmp_path / "data")
    first, *_ = sorted((tmp_path / "data" / "segments").glob("*.samples.db"))
    first.write_bytes(b"no database at all" * 100)
    made = back_up(tmp_path / "data", tmp_path / "backup")
    assert [text.partition(":")[0] for text in made.omitted] == [first.name]
    assert f"segments/{first.name}" not in {file.path for file in made.manifest.files}
    async with opened(tmp_path / "data"):  # quarantines it
        pass
    made = back_up(tmp_path / "data", tmp_path / "again")
    assert (made.omitted, made.quarantined) == ((), 1)
    assert not (tmp_path / "again" / "segments" / "damaged").exists()


async def test_a_target_that_is_not_empty_is_refused_and_not_changed(opened: Open, tmp_path: Path) -> None:
    await filled(opened, tmp_path / "data")
    target = tmp_path / "backup"
    target.mkdir()
    (target / "mine").write_text("precious")
    with pytest.raises(InputError, match="is not empty"):
        back_up(tmp_path / "data", target)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        back_up(tmp_path / "data", tmp_path / "file")
    with pytest.raises(InputError, match="cannot be made"):
        back_up(tmp_path / "data", tmp_path / "file" / "below")
    assert state_of(target) == {"mine": hashlib.sha256(b"precious").hexdigest()}
    (target / "mine").unlink()
    back_up(tmp_path / "data", target)
    with pytest.raises(InputError, match="is not empty"):
        back_up(tmp_path / "data", target)


def test_a_folder_without_data_is_nothing_to_back_up(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="nothing to back up"):
            back_up(folder, tmp_path / "backup")
    assert not (tmp_path / "absent").exists()


async def test_a_failed_backup_is_removed(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(opened, tmp_path / "data")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vantage.storage.embedded.offline.backup.write_manifest", full)
    with pytest.raises(StartupError, match="No space left"):
        back_up(tmp_path / "data", tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


async def damaged(opened: Open, tmp_path: Path, how: Callable[[Path], object]) -> Path:
    await filled(opened, tmp_path / "data")
    back_up(tmp_path / "data", tmp_path / "backup")
    how(tmp_path / "backup")
    return tmp_path / "backup"


def change(name: str, **fields: Any) -> Callable[[Path], object]:
    """A manifest with some fields changed."""

    def how(folder: Path) -> None:
        manifest = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**manifest, **fields}))

    return how


def turn_a_bit(pattern: str) -> Callable[[Path], object]:
    def how(folder: Path) -> None:
        path = sorted(folder.glob(pattern))[0]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return how


ESCAPING = [{"path": "../journal.db", "nbytes": 1, "sha256": ""}]


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        (lambda folder: (folder / "backup.json").unlink(), InputError, "it has no backup.json"),
        (lambda folder: (folder / "backup.json").write_text("{"), InputError, "backup.json is damaged"),
        (change("backup.json", files=ESCAPING), InputError, "backup.json is damaged: it names a file"),
        (change("backup.json", files=[]), InputError, "it names no journal.db"),
        (change("backup.json", format=9, vantage="9.0"), FormatTooNew, "format 9, made by Vantage 9.0"),
        (lambda folder: (folder / "journal.db").unlink(), InputError, r"journal\.db cannot be read"),
        (turn_a_bit("journal.db"), InputError, r"journal\.db is not what was written"),
        (turn_a_bit("segments/*.samples.db"), InputError, r"samples\.db is not what was written"),
        (lambda folder: (folder / "journal.db").write_bytes(b""), InputError, "has 0 bytes"),
    ],
)
async def test_a_backup_that_is_not_as_it_was_made_is_refused_by_name_and_nothing_is_touched(
    opened: Open, tmp_path: Path, how: Callable[[Path], object], error: type[VantageError], said: str
) -> None:
    source = await damaged(opened, tmp_path, how)
    with pytest.raises(error, match=said):
        restore_backup(source, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_is_no_folder_is_no_backup(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        restore_backup(tmp_path / "absent", tmp_path / "new")


async def test_a_folder_with_data_or_a_server_is_refused_and_not_changed(opened: Open, tmp_path: Path) -> None:
    await filled(opened, tmp_path / "data")
    back_up(tmp_path / "data", tmp_path / "backup")
    before = state_of(tmp_path / "data")
    with pytest.raises(InputError, match=r"holds data already \(journal.db, segments/\)"):
        restore_backup(tmp_path / "backup", tmp_path / "data")
    assert state_of(tmp_path / "data") == before
    async with opened(tmp_path / "served"):
        with pytest.raises(DataFolderInUse):
            restore_backup(tmp_path / "backup", tmp_path / "served")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is no folder"):
        restore_backup(tmp_path / "backup", tmp_path / "file")


async def test_an_interrupted_restore_is_not_served_and_may_be_run_again(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await filled(opened, tmp_path / "data")
    back_up(tmp_path / "data", tmp_path / "backup")
    new = tmp_path / "new"

    def torn(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("vantage.storage.embedded.offline.restore._end", torn)
        with pytest.raises(StartupError, match="run it again"):
            restore_backup(tmp_path / "backup", new)
    with pytest.raises(StartupError, match="an interrupted restore: run vantage restore again"):
        async with opened(new):
            pass
    (new / "segments" / "2001-W01.samples.db").write_bytes(b"of another backup that was begun with")
    restore_backup(tmp_path / "backup", new)
    assert not (new / MARKER).exists()
    async with opened(new) as store:
        assert await everything(store) == stored


async def test_metadata_comes_along(opened: Open, tmp_path: Path) -> None:
    await filled(opened, tmp_path / "data")
    metadata = tmp_path / "data" / "metadata.db"
    with closing(sqlite3.connect(metadata)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t AS SELECT 42 AS a")
        db.commit()  # in the log: only a copy through SQLite sees it
        back_up(tmp_path / "data", tmp_path / "backup", metadata=metadata)
    restore_backup(tmp_path / "backup", tmp_path / "new")
    with closing(sqlite3.connect(tmp_path / "new" / "metadata.db")) as db:
        assert db.execute("SELECT a FROM t").fetchone() == (42,)
