"""Reading segments to the last row, for ``vantage doctor --deep``."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from vantage.storage.embedded.format.chunk import ChunkCodec, checksum
from vantage.storage.embedded.format.part_writer import read_identities
from vantage.storage.embedded.format.segment import FORMAT, Segment
from vantage.storage.embedded.offline.folder_reader import FolderContents, ReadOnlyFolder
from vantage.storage.embedded.offline.manifest import ProgressCallback, no_progress
from vantage.storage.embedded.offline.verify_part import PartVerifier


@dataclass(frozen=True, slots=True)
class Fault:
    """A difference from what was written. ``row`` is the row's id, None for a whole table or file."""

    file: str
    table: str
    row: int | None
    reason: str

    def __str__(self) -> str:
        row = "" if self.row is None else f" {self.row}"
        return f"{self.file}: {self.table}{row}: {self.reason}"


def verify_segments(
    reader: ReadOnlyFolder, contents: FolderContents, on_progress: ProgressCallback = no_progress
) -> Iterator[Fault]:
    """Yield every fault in any row of any segment. Changes nothing; a server may run."""
    total = sum(segment.path.stat().st_size for segment in contents.segments if segment.path.exists())
    done = 0

    def took(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        on_progress(min(done, total), total)

    for segment in contents.segments:
        try:
            with closing(reader.connect(segment.path)) as db:
                db.execute("BEGIN")  # one state of the file while others write
                yield from _of_file(db, segment, took)
        except sqlite3.Error as error:
            if segment.path.exists():  # else it has just left
                yield Fault(segment.name, "file", None, str(error))


def _of_file(db: sqlite3.Connection, segment: Segment, took: Callable[[int], None]) -> Iterator[Fault]:
    for (result,) in db.execute("PRAGMA integrity_check(20)"):
        if result != "ok":
            yield Fault(segment.name, "integrity_check", None, result)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version < FORMAT:
        yield Fault(segment.name, "file", None, f"has format {version}: start the server once, then verify again")
        return
    codec = ChunkCodec()
    part_ids = {row[0] for row in db.execute("SELECT id FROM part")}  # parts may have been merged meanwhile
    for part in segment.parts:
        if part.id not in part_ids:
            continue
        try:
            for table, row, reason in PartVerifier(db, codec, part, segment.tier, took).faults():
                yield Fault(segment.name, table, row, reason)
        except sqlite3.DatabaseError as error:
            yield Fault(segment.name, f"rows of part {part.id}", None, str(error))
    for row_id, crc, body in db.execute("SELECT id, crc, body FROM series"):
        try:
            if checksum(body) != crc:
                raise ValueError("its checksum does not fit")
            read_identities(body)
        except ValueError as error:
            yield Fault(segment.name, "series", row_id, str(error))
