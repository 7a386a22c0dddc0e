"""``backup.json``: the contents of a backup. It is written last, so a folder without it is not a complete backup."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from vantage.core.errors import FormatTooNew, InputError, StartupError

FORMAT: Final = 1
NAME: Final = "backup.json"
READ_NBYTES: Final = 1 << 20
_MANIFEST_NBYTES_MAX: Final = 16 << 20
_PATH: Final = re.compile(r"journal\.db|metadata\.db|segments/\d{4}-W\d{2}\.(samples|rollups)\.db")
ProgressCallback = Callable[[int, int], None]  # bytes done, bytes in all


def no_progress(done: int, total: int) -> None:
    """Ignore progress."""


class ManifestFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the backup. ``path`` is relative to its folder, ``sha256`` in hex."""

    path: str
    nbytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup contains.

    ``made_ms`` is when the journal was copied, ``sealed_generation`` what is in segments according to the journal.
    """

    format: int = FORMAT
    vantage: str
    made_ms: int
    sealed_generation: int
    files: list[ManifestFile]

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)

    @property
    def segments(self) -> int:
        return sum(file.path.startswith("segments/") for file in self.files)


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Manifest).decode


class _Format(msgspec.Struct):
    format: int
    vantage: str = "another version"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest durably, whole or not at all. Raises OSError."""
    half = folder / f"{NAME}.part"
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.format(_encode(manifest), indent=1) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    half.rename(folder / NAME)
    sync_folder(folder)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest. Raises InputError when there is no complete backup, FormatTooNew when a newer version wrote
    it."""
    path = folder / NAME
    try:
        if path.stat().st_size > _MANIFEST_NBYTES_MAX:
            raise InputError(f"{path} is damaged: it is far too large")
        text = path.read_bytes()
    except FileNotFoundError:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder: give one that `vantage backup` made") from None
        raise InputError(
            f"{folder} is no whole backup: it has no {NAME}, which is written last; make the backup again"
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        version = msgspec.json.decode(text, type=_Format)
        if version.format > FORMAT:
            raise FormatTooNew(
                f"{folder} is a backup of format {version.format}, made by Vantage {version.vantage}; this version "
                f"knows up to {FORMAT}: nothing was touched"
            )
        manifest = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    for file in manifest.files:
        if not _PATH.fullmatch(file.path):
            raise InputError(f"{path} is damaged: it names a file {file.path[:80]!r}")
    if "journal.db" not in {file.path for file in manifest.files}:
        raise InputError(f"{path} is damaged: it names no journal.db")
    return manifest


def verify_manifest(folder: Path, manifest: Manifest, on_progress: ProgressCallback = no_progress) -> None:
    """Compare every file's size and hash. Raises InputError naming the first that differs."""
    for file in manifest.files:  # sizes first: they are looked at without reading
        path = folder / file.path
        try:
            nbytes = path.stat().st_size
        except OSError as error:
            raise InputError(f"the backup is damaged: {path} cannot be read: {error.strerror}") from error
        if nbytes != file.nbytes:
            raise InputError(f"the backup is damaged: {path} has {nbytes} bytes, not {file.nbytes}")
    done = 0
    for file in manifest.files:
        progress = partial(_add_progress, on_progress, done, manifest.nbytes)
        if hash_of(folder / file.path, on_progress=progress) != file.sha256:
            raise InputError(f"the backup is damaged: {folder / file.path} is not what was written (SHA-256)")
        done += file.nbytes


def _add_progress(on_progress: ProgressCallback, base: int, total: int, done: int) -> None:
    on_progress(base + done, total)


def hash_of(path: Path, *, on_progress: Callable[[int], None] = lambda _: None) -> str:
    """Return the SHA-256 of a file in hex. Raises StartupError when it cannot be read."""
    hashed, done = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(READ_NBYTES):
                hashed.update(block)
                done += len(block)
                on_progress(done)
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {error.strerror}") from error
    return hashed.hexdigest()


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk. Raises OSError."""
    sync_file(path)
