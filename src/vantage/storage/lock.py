"""Advisory locks on files of a data folder, released at the end of their process at the latest."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from vantage.core.errors import DataFolderInUse, StartupError

MAINTENANCE: Final = "maintenance.lock"  # locked while segments change, and while a backup copies them


class FileLock:
    """A lock on a file of the folder, initially unlocked."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self._fd = -1

    def take(self, *, wait: bool) -> bool:
        """Lock. Return False when another process has locked it and ``wait`` is False. Raises OSError."""
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
        """Unlock; does nothing when it is not locked."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FolderLock:
    """The lock of an open store: one process per data folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder, "lock")

    def take(self) -> None:
        """Create the folder if needed, and lock it. Raises DataFolderInUse, or StartupError when it is not writable."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            is_locked = self._lock.take(wait=False)
        except OSError as error:
            raise StartupError(f"the data folder {self._folder} cannot be written: {error.strerror}") from error
        if not is_locked:
            raise DataFolderInUse(
                f"the data folder {self._folder} is in use by another Vantage process: "
                "stop that one, or use another folder with --data"
            )

    def release(self) -> None:
        """Unlock the folder; does nothing when it is not locked."""
        self._lock.release()
