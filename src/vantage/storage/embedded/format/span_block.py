"""Blocks of spans as bytes: a few dozen bytes a span.

``version (1 byte), CRC-32 of the rest (4, little-endian), MessagePack array`` (``_Block``), its columns as in
``span_column_codec``.

- Codes of texts are in the order of first appearance, so that a first appearance needs no number: it is written as 0, a
repetition as its code plus 1. All texts are one run, in that order, with NUL between them.

- A trace id is stored once. A parent is a distance in rows when it is in the block: 0 none, 1 an id stored separately,
else 2 plus the distance.

- Attributes are sorted by key, within a key by row: values of one key resemble each other.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgspec
import numpy as np
import zstandard

from vantage.core.arrays import I64, U32, Array, Rows
from vantage.core.dict_column import DictColumn, TextColumn
from vantage.core.idhash import Ids, hash_ids
from vantage.core.int_packing import unzigzag, zigzag
from vantage.core.span import ATTRIBUTES_MAX, SpanKind, SpanStatus
from vantage.core.span_table import TEXTS, SpanTable
from vantage.storage.embedded.format.span_column_codec import (
    PackedBytes,
    PackedIds,
    PackedNumbers,
    SpanColumnCodec,
    require,
)

VERSION: Final = 1
ROWS_MAX: Final = 1 << 16
TEXT_NBYTES_MAX: Final = 1 << 28  # of all distinct texts of a block, in UTF-8
_HEADER_NBYTES: Final = 5
_EXISTING: Final = {"kind": frozenset(SpanKind), "status": frozenset(SpanStatus)}
_COLUMNS: Final = (*TEXTS, "attr_key", "attr_value")


class _Block(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """``text_counts`` and ``codes`` are of the columns TEXTS, the attributes' keys and their values, in this order."""

    rows: int
    entries: int
    start_ns: PackedNumbers
    duration_ns: PackedNumbers
    traces: PackedIds
    trace_code: PackedNumbers
    span_id: PackedIds
    parent: PackedNumbers
    parents_elsewhere: PackedIds
    attr_count: PackedNumbers
    text_counts: list[int]
    codes: list[PackedNumbers]
    texts: PackedBytes


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Block)


def encode(table: SpanTable) -> bytes:
    """Return the table as bytes. Raises ValueError beyond ROWS_MAX rows or TEXT_NBYTES_MAX bytes of text."""
    if len(table) > ROWS_MAX:
        raise ValueError(f"more than {ROWS_MAX} spans in a block")
    body = _encoder.encode(_block_of(table, SpanColumnCodec()))
    return bytes([VERSION]) + zlib.crc32(body).to_bytes(4, "little") + body


def decode(body: bytes) -> SpanTable:
    """Return the table of a block. Raises ValueError for anything ``encode`` did not write, before it takes much
    memory."""
    if len(body) < _HEADER_NBYTES or body[0] != VERSION:
        raise ValueError("no block of spans of a known version")
    rest = memoryview(body)[_HEADER_NBYTES:]
    if zlib.crc32(rest) != int.from_bytes(body[1:_HEADER_NBYTES], "little"):
        raise ValueError("a block of spans is damaged: its checksum does not fit")
    try:
        return _table_of(_decoder.decode(rest), SpanColumnCodec())
    except (msgspec.DecodeError, zstandard.ZstdError, OverflowError) as error:
        raise ValueError(f"a block of spans that cannot be read: {error}") from error


def _block_of(table: SpanTable, packer: SpanColumnCodec) -> _Block:
    # By the codes that the keys get here: a table that was taken from another has those of the other.
    order = _order_by_key(DictColumn(*_by_appearance(table.attr_key)))
    by_key = DictColumn(table.attr_value.codes[order], table.attr_value.values)
    columns = [*(getattr(table, name) for name in TEXTS), table.attr_key, by_key]
    codes, values = zip(*map(_by_appearance, columns), strict=True)
    trace_code, first = _distinct(table.trace_id)
    parent = _parents(table)
    return _Block(
        rows=len(table),
        entries=len(table.attr_key),
        start_ns=packer.pack_deltas(table.start_ns),
        duration_ns=packer.pack_numbers(table.duration_ns),
        traces=packer.pack_ids(table.trace_id[first]),
        trace_code=packer.pack_numbers(_first_as_0(trace_code)),
        span_id=packer.pack_ids(table.span_id),
        parent=packer.pack_numbers(parent),
        parents_elsewhere=packer.pack_ids(table.parent_span_id[parent == 1]),
        attr_count=packer.pack_numbers(np.diff(table.attr_start)),
        text_counts=[len(column) for column in values],
        codes=[packer.pack_numbers(_first_as_0(column)) for column in codes],
        texts=packer.pack(_plain_texts([text for column in values for text in column])),
    )


def _table_of(block: _Block, packer: SpanColumnCodec) -> SpanTable:
    rows, entries = block.rows, block.entries
    require(0 <= rows <= ROWS_MAX and 0 <= entries <= rows * ATTRIBUTES_MAX, "has an impossible size")
    require(len(block.codes) == len(block.text_counts) == len(_COLUMNS), "lacks a column")
    counts = packer.unpack_numbers(block.attr_count, rows)
    require(bool(((counts >= 0) & (counts <= ATTRIBUTES_MAX)).all()), "miscounts its attributes")
    attr_start = np.zeros(rows + 1, np.int64)
    np.cumsum(counts, out=attr_start[1:])
    require(int(attr_start[-1]) == entries, "miscounts its attributes")
    values = _texts(block, packer)
    columns: dict[str, TextColumn] = {}
    for name, numbers, texts in zip(_COLUMNS, block.codes, values, strict=True):
        require(len(set(texts)) == len(texts), "gives a text two codes")
        require(name not in _EXISTING or _EXISTING[name].issuperset(texts), "has a kind or status that does not exist")
        codes = packer.unpack_numbers(numbers, rows if name in TEXTS else entries)
        columns[name] = DictColumn(_codes(codes, len(texts)), texts)
    traces = packer.unpack_ids(block.traces, count_max=rows)
    trace_code = _codes(packer.unpack_numbers(block.trace_code, rows), len(traces))
    span_id = packer.unpack_ids(block.span_id, count_max=rows)
    require(len(span_id) == rows, "has spans without id")
    parent = packer.unpack_numbers(block.parent, rows)
    columns["attr_value"] = _by_row(columns["attr_key"], columns["attr_value"], attr_start)
    return SpanTable(
        trace_id=traces[trace_code],
        span_id=span_id,
        parent_span_id=_parent_ids(parent, span_id, packer.unpack_ids(block.parents_elsewhere, count_max=rows)),
        start_ns=packer.unpack_deltas(block.start_ns, rows),
        duration_ns=packer.unpack_numbers(block.duration_ns, rows),
        attr_start=attr_start,
        **columns,
    )


def _plain_texts(texts: list[str]) -> bytes:
    data = "\0".join(texts).encode()
    if len(data) > TEXT_NBYTES_MAX:
        raise ValueError(f"more than {TEXT_NBYTES_MAX} bytes of text in a block of spans")
    if data.count(0) != max(0, len(texts) - 1):
        raise ValueError("a text of a span holds NUL")
    return data


def _texts(block: _Block, packer: SpanColumnCodec) -> Iterator[tuple[str, ...]]:
    """Return the distinct texts of each column."""
    require(0 <= block.texts.nbytes <= TEXT_NBYTES_MAX, "has too much text")
    data = packer.unpack(block.texts, block.texts.nbytes)
    require(all(0 <= count <= block.rows + block.entries for count in block.text_counts), "miscounts its texts")
    total = sum(block.text_counts)
    require(data.count(0) == max(0, total - 1) and (total > 0 or not data), "miscounts its texts")
    rest = iter(data.decode().split("\0"))
    return (tuple(islice(rest, count)) for count in block.text_counts)


def _by_appearance(texts: TextColumn) -> tuple[I64, list[str]]:
    """Return codes in the order of first appearance, and their texts without unused ones."""
    first = np.full(len(texts.values), len(texts), np.int64)
    first[texts.codes[::-1]] = np.arange(len(texts) - 1, -1, -1)  # of repeated targets numpy keeps the last
    order = np.argsort(first, kind="stable")[: int(np.count_nonzero(first < len(texts)))]
    return _renamed(order, len(texts.values))[texts.codes], list(map(texts.values.__getitem__, order.tolist()))


def _renamed(order: Array, size: int) -> I64:
    """Return for each of ``size`` codes its index in ``order``."""
    renamed = np.zeros(size, np.int64)
    renamed[order] = np.arange(len(order))
    return renamed


def _first_as_0(codes: I64) -> I64:
    """Return codes in the order of first appearance, as they are written."""
    is_first = np.diff(np.maximum.accumulate(codes), prepend=-1) > 0
    return np.where(is_first, 0, codes + 1)


def _codes(written: I64, distinct: int) -> U32:
    """Undo ``_first_as_0``. Raises ValueError for a code that has not appeared."""
    is_first = written == 0
    known = np.cumsum(is_first)
    require(int(np.count_nonzero(is_first)) == distinct, "has codes without a text")
    require(bool(((written >= 0) & (written <= known)).all()), "has codes without a text")
    return np.where(is_first, known - 1, written - 1).astype(np.uint32)


def _distinct(ids: Ids) -> tuple[I64, I64]:
    """Return a code for each id in the order of first appearance, and the row of each code."""
    _, first, codes = np.unique(hash_ids(ids), return_index=True, return_inverse=True)
    if (ids[first][codes] != ids).any():  # two ids with one hash
        _, first, codes = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return _renamed(order, len(order))[codes], first[order]


def _parents(table: SpanTable) -> I64:
    """Return the parent of each row: 0 none, 1 not in the table, else 2 and the distance with its sign."""
    rows = np.flatnonzero(table.parent_span_id != b"")
    coded = np.zeros(len(table), np.int64)
    coded[rows] = 1
    hashes = hash_ids(table.span_id)
    order = np.argsort(hashes, kind="stable")
    index = np.searchsorted(hashes, hash_ids(table.parent_span_id[rows]), sorter=order)
    index = order[np.minimum(index, len(order) - 1)]
    same = table.span_id[index] == table.parent_span_id[rows]
    coded[rows[same]] = zigzag(rows[same] - index[same]).view(np.int64) + 2
    return coded


def _parent_ids(coded: I64, span_id: Ids, elsewhere: Ids) -> Ids:
    """Undo ``_parents``."""
    require(int(np.count_nonzero(coded == 1)) == len(elsewhere), "miscounts parents")
    ids = np.zeros(len(coded), f"S{max(span_id.dtype.itemsize, elsewhere.dtype.itemsize)}")
    ids[coded == 1] = elsewhere
    rows = np.flatnonzero((coded != 0) & (coded != 1))
    parent_rows = rows - unzigzag((coded[rows] - 2).view(np.uint64))
    require(bool(((parent_rows >= 0) & (parent_rows < len(coded))).all()), "has parents that are nowhere")
    ids[rows] = span_id[parent_rows]
    return ids


def _order_by_key(keys: TextColumn) -> Rows:
    codes = keys.codes.astype(np.uint16) if len(keys.values) < 1 << 16 else keys.codes  # 16 bits are sorted by radix
    return np.argsort(codes, kind="stable")


def _by_row(keys: TextColumn, values: TextColumn, attr_start: I64) -> TextColumn:
    """Return attribute values span by span from values key by key. Raises ValueError when a span has a key twice."""
    order = _order_by_key(keys)
    row = np.repeat(np.arange(len(attr_start) - 1), np.diff(attr_start))[order]
    require(not ((np.diff(row) == 0) & (np.diff(keys.codes[order]) == 0)).any(), "gives a span an attribute twice")
    codes = np.empty_like(values.codes)
    codes[order] = values.codes
    return DictColumn(codes, values.values)
