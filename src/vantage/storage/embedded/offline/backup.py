"""A consistent copy of a data folder, whether a server is writing to it or not.

The lock on ``maintenance.lock`` keeps segments unchanged: meanwhile a server neither seals, merges nor deletes, and
ingest goes on into journal and head. Segments are copied first and the journal last, in one step: so everything sealed
is in the segments, and everything else up to that moment is in the journal.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vantage.core.errors import BusyError, InputError, StartupError
from vantage.storage.embedded.format.segment import (
    DAMAGED,
    SEGMENTS,
    SegmentDamaged,
    check_header,
    is_damage,
    named_segments,
    segment_paths,
)
from vantage.storage.embedded.offline.manifest import (
    NAME,
    Manifest,
    ManifestFile,
    ProgressCallback,
    hash_of,
    no_progress,
    sync_file,
    sync_folder,
    write_manifest,
)
from vantage.storage.embedded.write.journal import refuse_newer
from vantage.storage.lock import MAINTENANCE, FileLock
from vantage.storage.sqlite_reading import connect_beside

WAIT_S: Final = 120.0
PATIENCE_S: Final = 3.0  # before the user reads why it waits
PAGES_AT_ONCE: Final = 8192  # of a segment, which nobody changes meanwhile: between two steps one may interrupt
_JOURNAL: Final = "journal.db"
_METADATA: Final = "metadata.db"


@dataclass(frozen=True, slots=True)
class BackupResult:
    """The result of a backup.

    ``left_out`` maps unreadable segments to the reason; ``quarantined`` counts files that a server has quarantined
    earlier. Segments were locked for ``held_s`` seconds.
    """

    manifest: Manifest
    omitted: tuple[str, ...]
    quarantined: int
    locked_s: float


def make_backup(
    folder: Path,
    target: Path,
    *,
    metadata: Path | None,
    version: str,
    now_ms: Callable[[], int],
    on_progress: ProgressCallback = no_progress,
    on_wait: Callable[[str], None] = lambda _: None,
    wait_s: float = WAIT_S,
) -> BackupResult:
    """Copy the telemetry of ``folder`` and the ``metadata`` database into ``target``, which must be absent or empty.

    When it returns, the copy is on the disk; when it raises, nothing of it is left. ``waiting`` is called when the lock
    takes long. Raises InputError when there is nothing to copy or the target cannot be used, FormatTooNew, BusyError
    when the lock was not obtained in time, StartupError when something cannot be read or written.
    """
    journal = folder / _JOURNAL
    if not journal.is_file():
        raise InputError(f"there is nothing to back up: {folder} holds no {_JOURNAL}")
    refuse_newer(journal)
    with _copy_files(target), _failures(target):
        copies = _FileCopier(target, on_progress)
        with locked(folder, wait_s=wait_s, on_wait=on_wait):
            began_s = time.monotonic()
            segments = [path for path, _, _ in named_segments(folder / SEGMENTS)]
            copies.total = sum(_nbytes(path) for path in (*segments, journal, metadata) if path is not None)
            for path in segments:
                copies.segment(path)
            made_ms = now_ms()
            copies.database(journal, _JOURNAL)
            held_s = time.monotonic() - began_s
        if metadata is not None and metadata.is_file():
            copies.database(metadata, _METADATA)
        for name in (SEGMENTS, "."):
            if (target / name).is_dir():
                sync_folder(target / name)
        manifest = Manifest(
            vantage=version,
            made_ms=made_ms,
            sealed_generation=_sealed_generation(target / _JOURNAL),
            files=[ManifestFile(name, (target / name).stat().st_size, hash_of(target / name)) for name in copies.names],
        )
        write_manifest(target, manifest)
        sync_folder(target.parent)
    quarantined = len(list((folder / SEGMENTS / DAMAGED).glob("*.db")))
    return BackupResult(manifest, tuple(copies.left_out), quarantined, held_s)


@contextmanager
def locked(folder: Path, *, wait_s: float, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock that keeps segments unchanged. Raises BusyError when it is not obtained in time, StartupError."""
    lock = FileLock(folder, MAINTENANCE)
    state = threading.Lock()
    ready = threading.Event()
    failures: list[OSError] = []
    given_up = False

    def take() -> None:
        # Waiting in the kernel, for a server that merges one thing after the other lets go for moments only; in a
        # thread, for that wait has no end of its own.
        try:
            lock.take_or_share(wait=True)
        except OSError as error:
            failures.append(error)
        with state:
            if given_up:
                lock.release()
            ready.set()

    threading.Thread(target=take, name="vantage-backup-lock", daemon=True).start()
    try:
        if not ready.wait(min(PATIENCE_S, wait_s)):
            on_wait("the server is sealing or merging, or another backup is being made: waiting for it")
            ready.wait(max(0.0, wait_s - PATIENCE_S))
        if failures:
            raise StartupError(f"{lock.path} cannot be locked: {failures[0].strerror}")
        if not ready.is_set():
            raise BusyError(
                f"segments of {folder} were being written for {wait_s:g} s without a pause: try again later"
            )
        yield
    finally:
        with state:
            given_up = True
            if ready.is_set():
                lock.release()


class _FileCopier:
    """Copies databases into the target and lists them."""

    def __init__(self, target: Path, on_progress: ProgressCallback) -> None:
        self._target = target
        self._on_progress = on_progress
        self._done = 0
        self.total = 0
        self.names: list[str] = []
        self.left_out: list[str] = []

    def segment(self, path: Path) -> None:
        """Copy a segment; a file that is no segment, or disappears meanwhile (a server quarantines damaged ones), is
        left out."""
        name = f"{SEGMENTS}/{path.name}"
        (self._target / SEGMENTS).mkdir(mode=0o700, exist_ok=True)
        try:
            check_header(path)
            self._copy(path, name, pages=PAGES_AT_ONCE)
        except (SegmentDamaged, sqlite3.Error, FileNotFoundError) as error:
            if isinstance(error, sqlite3.Error) and not is_damage(error) and path.exists():
                raise
            for file in segment_paths(self._target / name):
                file.unlink(missing_ok=True)
            self.left_out.append(f"{path.name}: {error}")
            return
        self.names.append(name)

    def database(self, path: Path, name: str) -> None:
        """Copy a database in one step, so that the copy is of one moment even while others write."""
        self._copy(path, name, pages=-1)
        self.names.append(name)

    def _copy(self, path: Path, name: str, *, pages: int) -> None:
        target = self._target / name
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with (
            closing(connect_beside(path, timeout_s=30.0)) as source,
            closing(sqlite3.connect(target, isolation_level=None)) as copy,
        ):
            # Until backup.json is there the copy is worth nothing: it is flushed once, at the end.
            copy.execute("PRAGMA journal_mode=OFF")
            copy.execute("PRAGMA synchronous=OFF")
            (page_nbytes,) = source.execute("PRAGMA page_size").fetchone()

            def progress(_: int, left: int, total: int) -> None:
                self._on_progress(self._done + (total - left) * page_nbytes, self.total)

            source.backup(copy, pages=pages, progress=progress)
        sync_file(target)
        self._done += target.stat().st_size


@contextmanager
def _copy_files(target: Path) -> Iterator[None]:
    """Create the target as an empty folder of its owner alone; on failure its contents are removed again."""
    made = False
    try:
        if target.is_dir() and any(target.iterdir()):
            half = "" if (target / NAME).exists() else "; if that was a backup cut short, remove it"
            raise InputError(f"{target} is not empty: name a folder that is not there yet{half}")
        made = not target.exists()
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.chmod(0o700)
    except OSError as error:
        raise InputError(f"{target} cannot be made: {error.strerror}") from error
    try:
        yield
    except BaseException:
        shutil.rmtree(target / SEGMENTS, ignore_errors=True)
        for name in (_JOURNAL, _METADATA, NAME, f"{NAME}.part"):
            for file in segment_paths(target / name):
                file.unlink(missing_ok=True)
        if made:
            shutil.rmtree(target, ignore_errors=True)
        raise


@contextmanager
def _failures(target: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StartupError(f"the backup into {target} failed, and nothing is left of it: {error}") from error


def _nbytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sealed_generation(journal: Path) -> int:
    """Return the sealed generation that the copy records; a journal from before there were segments has none."""
    with closing(sqlite3.connect(f"{journal.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as db:
        if db.execute("PRAGMA user_version").fetchone()[0] < 2:
            return 0
        (generation,) = db.execute("SELECT value FROM progress WHERE name='sealed_generation'").fetchone()
        return int(generation)
