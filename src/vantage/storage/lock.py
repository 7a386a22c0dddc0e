"""Advisory locks on files of a data folder, released at the end of their process at the latest."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from vantage.core.errors import DataFolderInUse, StartupError

MAINTENANCE: Final = "maintenance.lock"  # locked while segments change, and while a backup copies them
_UNWRITABLE: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class FileLock:
    """A lock on a file of the folder, initially unlocked."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self._fd = -1

    def take(self, *, wait: bool) -> bool:
        """Lock. Return False when another process has locked it and ``wait`` is False. Raises OSError."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._lock(fd, fcntl.LOCK_EX, wait=wait)

    def share(self, *, wait: bool) -> bool:
        """Lock for reading, together with others that read, without writing the file. As ``take``; raises
        FileNotFoundError where there is no file."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._lock(fd, fcntl.LOCK_SH, wait=wait)

    def take_or_share(self, *, wait: bool) -> bool:
        """Lock, or lock for reading where the file cannot be written. Where there is no file either, nobody who could
        lock it writes there, and nothing is locked. As ``take``."""
        try:
            return self.take(wait=wait)
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
        try:
            return self.share(wait=wait)
        except FileNotFoundError:
            return True

    def _lock(self, fd: int, operation: int, *, wait: bool) -> bool:
        try:
            fcntl.flock(fd, operation | (0 if wait else fcntl.LOCK_NB))
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
    """The lock of an open store: one process per data folder that writes, or any number that only read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder, "lock")
        self._exclusive = False

    def take(self) -> None:
        """Create the folder if needed, and lock it. Raises DataFolderInUse, or StartupError when it is not writable."""
        try:
            self._make_folder()
            self._exclusive = self._lock.take(wait=False)
        except OSError as error:
            raise StartupError(f"the data folder {self._folder} cannot be written: {error.strerror}") from error
        if not self._exclusive:
            raise self._in_use()

    def take_or_share(self) -> None:
        """As ``take``; a folder that is not writable is locked for reading."""
        try:
            self._make_folder()
            self._exclusive = self._lock.take(wait=False)
            if not self._exclusive:
                raise self._in_use()
        except OSError as error:
            if error.errno not in _UNWRITABLE or not self._folder.is_dir():
                raise StartupError(f"the data folder {self._folder} cannot be written: {error.strerror}") from error
            self._share()

    def _make_folder(self) -> None:
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _share(self) -> None:
        try:
            is_locked = self._lock.share(wait=False)
        except FileNotFoundError:
            return  # nobody who writes has it: such a one would have made the file
        except OSError as error:
            raise StartupError(f"the data folder {self._folder} cannot be read: {error.strerror}") from error
        if not is_locked:
            raise self._in_use()

    def own(self) -> bool:
        """Make a lock for reading one for writing; False where that cannot be, because others read or write."""
        if self._exclusive:
            return True
        self._lock.release()
        try:
            self._exclusive = self._lock.take(wait=False)
        except OSError:
            self._exclusive = False
        if not self._exclusive:
            with suppress(StartupError):  # another process was faster
                self._share()
        return self._exclusive

    def can_be_written(self) -> bool:
        """Return whether the file of the lock can be opened for writing. One that is absent counts as one that can."""
        try:
            os.close(os.open(self._lock.path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            return error.errno not in _UNWRITABLE
        return True

    def _in_use(self) -> DataFolderInUse:
        return DataFolderInUse(
            f"the data folder {self._folder} is in use by another Vantage process: "
            "stop that one, or use another folder with --data"
        )

    def release(self) -> None:
        """Unlock the folder; does nothing when it is not locked."""
        self._lock.release()
        self._exclusive = False
