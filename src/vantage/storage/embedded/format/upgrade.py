"""Segments of earlier formats become ones of the present format when the store is opened.

Format 1 stored exemplars chunk by chunk (``link``, with their positions in the chunk) and an index of their trace ids.
Format 2 stored them by trace id, with their samples, in ``trace_link``; format 3 calls that table ``exemplar``.
Format 4 adds rollups of requests, format 5 edges: ``red_since`` and ``edge_since`` note which parts were written before
and lack them, until ``maintain/red_rollups.py`` and ``maintain/edge_rollups.py`` have filled them in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import structlog

from vantage.core.exemplars import Exemplars
from vantage.core.sample_columns import SampleColumns, concat_samples
from vantage.storage.embedded.format import span_column_codec
from vantage.storage.embedded.format.chunk import CHUNK_SAMPLES_MAX, ChunkCodec, checksum
from vantage.storage.embedded.format.exemplars import exemplar_blocks, exemplar_samples, sort_by_trace
from vantage.storage.embedded.format.segment import EDGE, EDGE_SINCE, EXEMPLAR, FORMAT, RED, RED_SINCE, SAMPLES

_decode_links: Final = msgspec.msgpack.Decoder(
    tuple[bytes, span_column_codec.PackedIds, span_column_codec.PackedIds]
).decode
_LINKED: Final = (
    "SELECT c.id, c.crc, c.runs, c.times, c.vals, l.body"
    " FROM chunk c JOIN link l ON l.chunk_id = c.id WHERE c.part_id=?"
)

_RENAMES_FROM_2: Final = (
    "ALTER TABLE trace_link RENAME TO exemplar",
    "ALTER TABLE exemplar RENAME COLUMN links TO exemplars",
    "DROP INDEX trace_link_place",
    "CREATE INDEX exemplar_hash ON exemplar (part_id, low, high)",
)

_log = structlog.get_logger("vantage.storage.upgrade")


def upgrade(path: Path, tier: str) -> None:
    """Migrate a segment to the present format, in one transaction.

    Exemplars that cannot be read are dropped, which is logged. Raises sqlite3.Error.
    """
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30.0)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version >= FORMAT:
            return
        db.execute("BEGIN IMMEDIATE")
        if tier == SAMPLES and version == 1:
            _sort_exemplars(db)
        elif tier == SAMPLES and version == 2:
            for sql in _RENAMES_FROM_2:
                db.execute(sql)
        added = [("red_since", RED_SINCE, RED)] if version < 4 else []
        for since, of_samples, of_rollups in (*added, ("edge_since", EDGE_SINCE, EDGE)):
            for sql in filter(str.strip, (of_samples if tier == SAMPLES else of_rollups).split(";")):
                db.execute(sql)
            if tier == SAMPLES:
                db.execute(f"INSERT INTO {since} SELECT max(id) + 1 FROM part HAVING count(*)")  # noqa: S608 - of ours
        db.execute(f"PRAGMA user_version={FORMAT}")
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    _log.info("segment brought to the present format", file=path.name, was=version, now=FORMAT)


def _sort_exemplars(db: sqlite3.Connection) -> None:
    codec = ChunkCodec()
    for sql in filter(str.strip, EXEMPLAR.split(";")):
        db.execute(sql)
    for (part,) in db.execute("SELECT id FROM part").fetchall():
        samples = list(_links(db, codec, part))
        if not samples:
            continue
        before = _nbytes(db, "SELECT length(body) FROM link WHERE part_id=?", part)
        before += _nbytes(db, "SELECT length(body) FROM id_index WHERE part_id=? AND kind='link'", part)
        after = 0
        (highest,) = db.execute("SELECT max(id) FROM chunk WHERE part_id=?", (part,)).fetchone()
        for number, (_, block) in enumerate(
            exemplar_blocks(codec, sort_by_trace(concat_samples(samples))), highest + 1
        ):
            db.execute("INSERT INTO exemplar VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (number, part, *block.columns))
            after += block.nbytes
        db.execute("UPDATE part SET nbytes = nbytes + ? WHERE id=?", (after - before, part))
    db.execute("DELETE FROM id_index WHERE kind='link'")
    db.execute("DROP TABLE link")


def _nbytes(db: sqlite3.Connection, sql: str, part: int) -> int:
    return sum(size for (size,) in db.execute(sql, (part,)))


def _links(db: sqlite3.Connection, codec: ChunkCodec, part: int) -> Iterator[SampleColumns]:
    for chunk_id, crc, directory, times, vals, body in db.execute(_LINKED, (part,)):
        try:
            if checksum(directory, times, vals) != crc:
                raise ValueError("checksum mismatch")
            runs = codec.unpack_runs(directory)
            samples = SampleColumns(
                np.repeat(runs.slot, runs.count),
                codec.unpack_times(times, runs),
                codec.unpack_values(vals, runs),
                _unpack_exemplars(codec, body),
            )
            yield exemplar_samples(samples)
        except ValueError as error:
            _log.error("trace links unreadable, left behind", chunk=chunk_id, reason=str(error))


def _unpack_exemplars(codec: ChunkCodec, stored: bytes) -> Exemplars:
    """Unpack format 1: the CRC-32 of what follows, positions in the chunk as differences, trace ids, span ids."""
    body = stored[4:]
    if checksum(body) != int.from_bytes(stored[:4], "little"):
        raise ValueError("checksum mismatch")
    try:
        position, trace_id, span_id = _decode_links(body)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    return Exemplars(
        np.cumsum(codec.packer.unpack_ints(position)),
        codec.ids.unpack_ids(trace_id, count_max=CHUNK_SAMPLES_MAX),
        codec.ids.unpack_ids(span_id, count_max=CHUNK_SAMPLES_MAX),
    )
