"""What is about to be inserted, on the disk before it is: one commit reaches several tables, and the engine inserts
into one at a time.

A commit writes all its rows here, inserts them table by table, and removes the file. If the process is killed in
between, the next one inserts the same once more, under the same tokens: what had been inserted is not kept twice, in
the tables and in those that views fill from them, and what was missing is added.
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
    """At most one intent, in a folder."""

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._fsync = fsync

    def write(self, inserts: Sequence[Insert]) -> None:
        """When it returns it survives a killed process, and with ``fsync`` a power cut. Raises StoreUnavailable, and
        then there is none."""
        half = self._path.with_suffix(".part")
        try:
            with half.open("wb") as file:
                file.write(_encode(list(inserts)))
                if self._fsync:
                    file.flush()
                    os.fsync(file.fileno())
            half.replace(self._path)
            self._settle()
        except OSError as error:
            half.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)
            raise StoreUnavailable(f"{self._path} cannot be written: {error.strerror or error}") from error

    def read(self) -> list[Insert]:
        """What was left unfinished; usually nothing. Raises StartupError when it cannot be read."""
        try:
            return _decode(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            raise StartupError(
                f"{self._path} cannot be read ({error}): it holds the last batches of the process before. "
                "Move it away to start without them"
            ) from error

    def remove(self) -> None:
        """Everything in it is in the tables. Left behind by a power cut, it would only be inserted in vain."""
        self._path.unlink(missing_ok=True)

    def _settle(self) -> None:
        if self._fsync:
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
