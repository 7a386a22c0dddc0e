"""Restoring a backup into a data folder: whole, or marked as unfinished so that no server starts on half of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from vantage.core.errors import InputError, StartupError
from vantage.storage.embedded.format.segment import SEGMENTS, SegmentDamaged, check_header, segment_paths
from vantage.storage.embedded.offline.manifest import (
    READ_NBYTES,
    Manifest,
    ManifestFile,
    ProgressCallback,
    no_progress,
    read_manifest,
    sync_file,
    sync_folder,
    verify_manifest,
)
from vantage.storage.embedded.write.journal import refuse_newer
from vantage.storage.lock import FolderLock

MARKER: Final = "restoring"
_DATABASES: Final = ("journal.db", "metadata.db")


def refuse_unfinished(folder: Path) -> None:
    """Raise StartupError when a restore into the folder was begun and not finished."""
    if (folder / MARKER).exists():
        raise StartupError(f"{folder} holds an interrupted restore: run vantage restore again")


def restore_backup(
    source: Path, folder: Path, *, on_verify: ProgressCallback = no_progress, on_copy: ProgressCallback = no_progress
) -> Manifest:
    """Verify a backup and restore it into ``folder``, which must hold no data, but may hold an earlier attempt.

    When it returns, everything is on the disk. When it raises before the first file is written, nothing was changed;
    after that the marker stays, and the same command may be run again. Raises InputError when the backup is incomplete
    or damaged, or when the folder holds data, FormatTooNew, DataFolderInUse, StartupError when something cannot be read
    or written.
    """
    manifest = read_manifest(source)
    lock = FolderLock(folder)
    there = (folder / "lock").exists()
    try:
        if there:  # else nobody runs there, and to lock it would already make it
            lock.take()
        _refuse_data(folder)
        verify_manifest(source, manifest, on_verify)
        _refuse_newer(source, manifest)
        if not there:
            lock.take()
            _refuse_data(folder)
        with _failures(folder):
            _begin(folder)
            _copy_all(source, folder, manifest, on_copy)
            _end(folder)
    finally:
        lock.release()
    return manifest


def _refuse_data(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is no folder")
    if (folder / MARKER).exists():
        return  # whatever is there is an earlier attempt's
    present = [name for name in _DATABASES if (folder / name).exists()]
    if (folder / SEGMENTS).is_dir() and any((folder / SEGMENTS).iterdir()):
        present.append(f"{SEGMENTS}/")
    if present:
        raise InputError(
            f"{folder} holds data already ({', '.join(present)}): nothing was touched; name another folder with --data"
        )


def _refuse_newer(source: Path, manifest: Manifest) -> None:
    """Check the format of each file before anything is written. Raises FormatTooNew, InputError."""
    refuse_newer(source / "journal.db")
    for file in manifest.files:
        if file.path.startswith(SEGMENTS):
            try:
                check_header(source / file.path)
            except SegmentDamaged as error:
                raise InputError(f"the backup is damaged: {source / file.path}: {error}") from error


def _begin(folder: Path) -> None:
    """Mark the folder durably, and delete what an earlier attempt wrote."""
    marker = folder / MARKER
    os.close(os.open(marker, os.O_WRONLY | os.O_CREAT, 0o600))
    sync_file(marker)
    sync_folder(folder)
    sync_folder(folder.absolute().parent)  # the folder itself may be new
    for name in _DATABASES:
        for file in segment_paths(folder / name):
            file.unlink(missing_ok=True)
    segments = folder / SEGMENTS
    if segments.is_dir():
        for file in segments.iterdir():
            if file.is_file():
                file.unlink()


def _copy_all(source: Path, folder: Path, manifest: Manifest, on_copy: ProgressCallback) -> None:
    (folder / SEGMENTS).mkdir(mode=0o700, exist_ok=True)
    done = 0
    for file in manifest.files:
        _copy(source, folder, file)
        done += file.nbytes
        on_copy(done, manifest.nbytes)
    sync_folder(folder / SEGMENTS)
    sync_folder(folder)


def _copy(source: Path, folder: Path, entry: ManifestFile) -> None:
    """Copy a file and compare its hash once more: it may have changed since it was verified."""
    hashed = hashlib.sha256()
    target = os.open(folder / entry.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with (source / entry.path).open("rb") as source_file, os.fdopen(target, "wb") as file:
        while block := source_file.read(READ_NBYTES):
            hashed.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    if hashed.hexdigest() != entry.sha256:
        raise InputError(f"the backup is damaged: {source / entry.path} changed while it was copied")


def _end(folder: Path) -> None:
    (folder / MARKER).unlink()
    sync_folder(folder)


@contextmanager
def _failures(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartupError(
            f"the restore into {folder} failed ({error.strerror or error}): run it again, it starts over"
        ) from error
