"""Whether a data folder can be written: a process may lose that right while it runs, and get it back."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import structlog

from vantage.core.errors import StoreUnavailable
from vantage.storage.lock import FolderLock

READ_ONLY: Final = "the data folder is read-only"
_log = structlog.get_logger("vantage.storage")


def why_read_only(paths: Iterable[Path]) -> str:
    """Return in one sentence why the first of the existing paths that cannot be written cannot, '' when all can.

    Costs one system call a path. A full disk can be written as far as this is concerned.
    """
    for path in paths:
        if os.access(path, os.W_OK) or not path.exists():
            continue
        try:
            is_mounted_so = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
        except OSError:
            is_mounted_so = False
        if is_mounted_so:
            return f"{READ_ONLY}: its file system is mounted read-only"
        return f"{READ_ONLY}: the server may not write {path.name if path.is_file() else 'the folder ' + path.name}"
    return ""


class WriteAccess:
    """The lock of a data folder, and whether the folder can be written. Any thread may ask.

    A folder that cannot be written is locked for reading: others may read it too, and nobody may write it. The lock
    becomes exclusive once the folder can be written. ``latest`` is what ``refusal`` last returned: the maintenance of a
    store calls that twice a second, so that requests only look at ``latest``. A change of it is logged.
    """

    def __init__(self, folder: Path, *, names: Iterable[str]) -> None:
        """``names`` are the files and folders inside that must be writable where they exist."""
        self.latest = ""
        self._folder = folder
        self._paths = (folder, *(folder / name for name in names))
        self._lock = FolderLock(folder)
        self._changing = threading.Lock()

    def take(self) -> None:
        """Create the folder if needed, and lock it. Raises DataFolderInUse, StartupError."""
        self._lock.take_or_share()

    def release(self) -> None:
        """Unlock the folder."""
        self._lock.release()

    def refusal(self) -> str:
        """Return why the folder cannot be written now, '' when it can."""
        with self._changing:
            reason, before = self._reason(), self.latest
            self.latest = reason
        if reason and reason != before:
            _log.warning(reason, folder=str(self._folder), consequence="data is read; ingest and changes answer 503")
        elif before and not reason:
            _log.info("the data folder can be written again", folder=str(self._folder))
        return reason

    def _reason(self) -> str:
        if reason := why_read_only(self._paths):
            return reason
        if not self._lock.can_be_written():  # a file system after an error says so only to those that open a file
            return f"{READ_ONLY}: its file system refuses writes"
        if not self._lock.own():
            return f"{READ_ONLY}: another Vantage process uses it"
        return ""

    def check(self) -> None:
        """Raise StoreUnavailable unless the folder can be written."""
        if reason := self.refusal():
            raise StoreUnavailable(reason)
