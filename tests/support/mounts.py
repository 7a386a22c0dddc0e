"""Folders that cannot be written, or that have little space."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

_NEEDS_MOUNT = "needs to mount: run as root, in a container with --cap-add SYS_ADMIN"


@contextmanager
def tmpfs(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a file system in memory on a new folder."""
    folder.mkdir()
    _mount("-t", "tmpfs", *(part for option in options for part in ("-o", option)), "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, *, leave_nbytes: int = 0) -> Path:
    """Take the space that is left on the file system of a folder; return the file, whose deletion returns it."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while shutil.disk_usage(folder).free > leave_nbytes:
            file.write(bytes(1 << 16))
    return path


class ReadOnly:
    """Makes a folder read-only and writable again: by its modes, and by a mount over it for root, who ignores modes.

    A process that has files of the folder open keeps them, as when a file system is mounted read-only after an error.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._undo = ExitStack()

    def begin(self) -> None:
        for folder in (self._folder, *(path for path in self._folder.rglob("*") if path.is_dir())):
            mode = folder.stat().st_mode
            folder.chmod(0o555)
            self._undo.callback(folder.chmod, mode & 0o777)
        if not os.access(self._folder, os.W_OK):
            return
        _mount("--bind", str(self._folder), str(self._folder))
        # A server may still have files open: the mount goes when they are closed.
        self._undo.callback(subprocess.run, ["umount", "--lazy", str(self._folder)], check=True)
        _mount("-o", "remount,ro,bind", str(self._folder))

    def end(self) -> None:
        self._undo.close()


@contextmanager
def read_only(folder: Path) -> Iterator[ReadOnly]:
    """Make a folder read-only, until ``end`` is called or the context ends."""
    made = ReadOnly(folder)
    try:
        made.begin()
        yield made
    finally:
        made.end()


def _mount(*arguments: str) -> None:
    can = os.geteuid() == 0 and shutil.which("mount") is not None
    if not can or subprocess.run(["mount", *arguments], capture_output=True).returncode:
        pytest.skip(_NEEDS_MOUNT)
