"""Write a commit to disk before its inserts: a commit has rows for several tables, and the engine inserts into one at a
time.

A commit writes all its rows here, inserts them table by table, and removes the file. If the process is killed in
between, the next one inserts the same rows again with the same tokens: rows that had been inserted are not stored
twice, neither in the tables nor in those that views fill from them, and missing rows are added.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from vantage.core.errors import StartupError, StoreUnavailable
from vantage.storage.clickhouse.engine import Insert

NAME: Final = "unfinished.insert"
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[Insert]).decode


class IntentLog:
    """The intent of at most one commit, in a folder."""

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._fsync = fsync

    def write(self, inserts: Sequence[Insert]) -> None:
        """Write the intent. On return it survives a killed process, and with ``fsync`` a power cut. Raises
        StoreUnavailable, and then there is none."""
        partial = self._path.with_suffix(".part")
        try:
            with partial.open("wb") as file:
                file.write(_encode(list(inserts)))
                if self._fsync:
                    file.flush()
                    os.fsync(file.fileno())
            partial.replace(self._path)
            self._sync_folder()
        except OSError as error:
            partial.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)
            raise StoreUnavailable(f"{self._path} cannot be written: {error.strerror or error}") from error

    def read(self) -> list[Insert]:
        """Return the inserts of an unfinished commit; usually none. Raises StartupError when the file is unreadable."""
        try:
            return _decode(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            raise StartupError(
                f"{self._path} cannot be read ({error}): it contains the last batches of the previous process. "
                "Move it away to start without them"
            ) from error

    def remove(self) -> None:
        """Remove the intent, once all of it is in the tables. After a power cut it would merely be inserted again."""
        self._path.unlink(missing_ok=True)

    def _sync_folder(self) -> None:
        if self._fsync:
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
