"""A file that keeps a little of the disk free for the next start: SQLite needs some to open a database."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

RESERVE_NBYTES: Final = 1 << 20
SPARE_NBYTES: Final = 4 << 20  # that a disk must have beside the reserve while the server runs


class DiskReserve:
    """A file of ``nbytes`` beside the databases that it is for."""

    def __init__(self, path: Path, *, nbytes: int = RESERVE_NBYTES) -> None:
        self._path = path
        self._nbytes = nbytes

    def release(self) -> None:
        """Give the space back, at start."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def keep(self, *, spare_nbytes: int = SPARE_NBYTES) -> None:
        """Take the space, unless it is taken or the disk would have less than ``spare_nbytes`` left."""
        with suppress(OSError):
            free_nbytes = shutil.disk_usage(self._path.parent).free
            if self._path.exists() or free_nbytes < self._nbytes + spare_nbytes:
                return
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self._nbytes)
            finally:
                os.close(fd)
