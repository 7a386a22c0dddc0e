"""Advisory locks on files of a data folder, gone with the process that holds them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from vantage.core.errors import DataFolderInUse, StartupError

MAINTENANCE: Final = "maintenance.lock"  # held by whoever changes segments, and by a backup while it copies them


class FileLock:
    """A lock on a file of the folder; not taken yet."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self._fd = -1

    def take(self, *, wait: bool) -> bool:
        """Take the lock; False when another holds it and it should not be waited for. Raises OSError."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def release(self) -> None:
        """Give it free; nothing happens when it was not taken."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FolderLock:
    """Taken while a store is open: one process a data folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder, "lock")

    def take(self) -> None:
        """Make the folder if it is not there, and lock it. Raises DataFolderInUse, or StartupError when it cannot be
        written."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            taken = self._lock.take(wait=False)
        except OSError as error:
            raise StartupError(f"the data folder {self._folder} cannot be written: {error.strerror}") from error
        if not taken:
            raise DataFolderInUse(
                f"the data folder {self._folder} is in use by another Vantage process: "
                "stop that one, or give another folder with --data"
            )

    def release(self) -> None:
        """Give the folder free; nothing happens when it was not taken."""
        self._lock.release()
