"""Columns in Arrow's format, which the engine reads and writes. The package chdb depends on pyarrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from vantage.core.arrays import F64, I64, Array
from vantage.core.dict_column import DictColumn, TextColumn
from vantage.storage.clickhouse.engine import Column

FORMAT: Final = "ArrowStream"
_MAP: Final = pa.map_(pa.string(), pa.string())
_COUNTS: Final = pa.map_(pa.int32(), pa.uint64())


def encode(columns: Mapping[str, Column]) -> bytes:
    """Encode a stream of one batch, of which the engine makes one block."""
    arrays = [_array(column) for column in columns.values()]
    batch = pa.RecordBatch.from_arrays(arrays, names=list(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _array(column: Column) -> Any:
    if isinstance(column, DictColumn):
        return pa.DictionaryArray.from_arrays(
            pa.array(column.codes.astype(np.int32)), pa.array(column.values, pa.string())
        )
    if isinstance(column, np.ndarray):
        return pa.array(column)
    if column and isinstance(column[0], dict):
        keys = next((key for pairs in column for key in pairs), "")
        return pa.array([list(pairs.items()) for pairs in column], _COUNTS if isinstance(keys, int) else _MAP)
    return pa.array(column, pa.string())


class ArrowResult:
    """A result of the engine; empty when ``payload`` is."""

    def __init__(self, payload: bytes) -> None:
        self._table = pa.ipc.open_stream(payload).read_all() if payload else None

    def __len__(self) -> int:
        return 0 if self._table is None else int(self._table.num_rows)

    def _column(self, name: str) -> Any:
        return pa.array([], pa.string()) if self._table is None else self._table.column(name)

    def to_list(self, name: str) -> list[Any]:
        column = self._column(name)
        values: list[Any] = column.to_pylist()
        return [dict(pairs) for pairs in values] if pa.types.is_map(column.type) else values

    def ints(self, name: str) -> I64:
        return self._numbers(name, np.int64)

    def floats(self, name: str) -> F64:
        return self._numbers(name, np.float64)

    def _numbers(self, name: str, dtype: type[Any]) -> Array:
        if not len(self):
            return np.empty(0, dtype)
        numbers: Array = self._column(name).to_numpy().astype(dtype, copy=False)
        return numbers

    def text_column(self, name: str) -> TextColumn:
        if not len(self):
            return DictColumn(np.empty(0, np.uint32), ())
        column = self._column(name).combine_chunks()
        encoded = column.dictionary_encode() if not pa.types.is_dictionary(column.type) else column
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        values: Sequence[str] = encoded.dictionary.to_pylist()
        return DictColumn(encoded.indices.to_numpy().astype(np.uint32), tuple(values))
