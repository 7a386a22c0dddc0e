"""A small pool of connections for reading segment files, shared by the query threads; a deleted file's are closed at
once."""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from vantage.storage.sqlite_reading import FrozenConnection, connect_to_read

IDLE_MAX: Final = 32


class ConnectionPool:
    """Idle connections by file, least recently used closed first. Any thread."""

    def __init__(self, connect: Callable[[Path], sqlite3.Connection] = connect_to_read) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._idle: OrderedDict[int, tuple[Path, sqlite3.Connection]] = OrderedDict()
        self._dropped: set[Path] = set()
        self._open = True

    @contextmanager
    def reading(self, path: Path) -> Iterator[sqlite3.Connection]:
        """Lend a connection to one thread. Raises sqlite3.Error, also when the file was deleted."""
        db = self._acquire(path) or self._connect(path)
        sound = False
        try:
            yield db
            sound = True
        finally:
            self._release(path, db, sound=sound)

    def _acquire(self, path: Path) -> sqlite3.Connection | None:
        with self._lock:
            for key, (idle_path, db) in reversed(self._idle.items()):
                if idle_path == path:
                    del self._idle[key]
                    return db
        return None

    def _release(self, path: Path, db: sqlite3.Connection, *, sound: bool) -> None:
        closing = [db]
        with self._lock:
            if sound and self._open and path not in self._dropped and not isinstance(db, FrozenConnection):
                self._idle[id(db)] = (path, db)
                closing = []
                while len(self._idle) > IDLE_MAX:
                    closing.append(self._idle.popitem(last=False)[1][1])
        for connection in closing:
            connection.close()

    def evict(self, path: Path) -> None:
        """Close a deleted file's connections: an open one would keep its space on the disk."""
        with self._lock:
            self._dropped.add(path)
            keys = [key for key, (idle_path, _) in self._idle.items() if idle_path == path]
            closing = [self._idle.pop(key)[1] for key in keys]
        for db in closing:
            db.close()

    def readmit(self, path: Path) -> None:
        """Allow connections to a file again."""
        with self._lock:
            self._dropped.discard(path)

    def close(self) -> None:
        with self._lock:
            self._open = False
            closing = [db for _, db in self._idle.values()]
            self._idle.clear()
        for db in closing:
            db.close()
