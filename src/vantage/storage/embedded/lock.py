"""One process a data folder: an advisory lock on a file in it, gone with the process that holds it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from vantage.core.errors import DataFolderInUse, StartupError


class FolderLock:
    """Taken while a store is open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = -1

    def take(self) -> None:
        """Make the folder if it is not there, and lock it. Raises DataFolderInUse, or StartupError when it cannot be
        written."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartupError(f"the data folder {self._folder} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            raise DataFolderInUse(
                f"the data folder {self._folder} is in use by another Vantage process: "
                "stop that one, or give another folder with --data"
            ) from error

    def release(self) -> None:
        """Give the folder free; nothing happens when it was not taken."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
