"""Columns as numpy arrays, as the driver of the native protocol takes and returns them, and as bytes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec
import numpy as np

from vantage.core.arrays import F64, I64, Array
from vantage.core.dict_column import DictColumn, TextColumn, concat_dict_columns, dict_encode
from vantage.storage.clickhouse.engine import Column


class _PackedColumn(msgspec.Struct, frozen=True, array_like=True):
    """A column: numbers with their type; or values, and codes of rows when it is dictionary-encoded."""

    dtype: str = ""
    numbers: bytes = b""
    values: list[Any] | None = None


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[_PackedColumn]).decode


def pack_columns(columns: Mapping[str, Column]) -> bytes:
    """Return the columns as bytes, without their names."""
    return _encode([_pack(column) for column in columns.values()])


def _pack(column: Column) -> _PackedColumn:
    if isinstance(column, DictColumn):
        codes = column.codes.astype(np.uint32, copy=False)
        return _PackedColumn("<u4", codes.tobytes(), list(column.values))
    if isinstance(column, np.ndarray):
        numbers = column.view(np.int64) if column.dtype.kind == "M" else column  # DateTime64(3): milliseconds
        return _PackedColumn(numbers.dtype.str, numbers.tobytes())
    return _PackedColumn(values=list(column))


def unpack_columns(payload: bytes) -> list[Any]:
    """Return the columns as the driver takes them: arrays, and pandas' categories where they are dictionary-encoded."""
    return [_unpack(column) for column in _decode(payload)]


def _unpack(column: _PackedColumn) -> Any:
    if column.values is None:
        return np.frombuffer(column.numbers, column.dtype)
    values = np.empty(len(column.values), object)
    values[:] = column.values
    if not column.dtype:
        return values
    codes = np.frombuffer(column.numbers, column.dtype)
    categorical, categories = _pandas()
    return categorical.from_codes(codes, dtype=categories(values))


@cache
def _pandas() -> tuple[Any, Any]:
    """Return pandas' class of columns that are dictionary-encoded, and the type of such a column by its values.

    Of an array of objects the driver would look up the distinct values row by row, which was half of a worker's time;
    those of a categorical column are sent as they are. It wants them as an array of the column's own type, and numpy
    takes from any object the attribute ``dtype``.
    """
    pandas = importlib.import_module("pandas")

    class Categories(pandas.CategoricalDtype):  # type: ignore[misc,name-defined]
        dtype = np.dtype(object)

        def __init__(self, values: Array) -> None:
            super().__init__(pandas.Index(values, dtype=object))

    return pandas.Categorical, Categories


class NumpyResult:
    """A result: for each column its chunks, which are arrays, pandas' categories, or tuples."""

    def __init__(self, names: Sequence[str], chunks: Sequence[Sequence[Any]]) -> None:
        self._columns = dict(zip(names, zip(*chunks, strict=True), strict=True)) if chunks else {}

    def __len__(self) -> int:
        return sum(map(len, next(iter(self._columns.values()), ())))

    def to_list(self, name: str) -> list[Any]:
        return [value for chunk in self._columns.get(name, ()) for value in _plain(chunk)]

    def ints(self, name: str) -> I64:
        return self._numbers(name, np.int64)

    def floats(self, name: str) -> F64:
        return self._numbers(name, np.float64)

    def _numbers(self, name: str, dtype: type[Any]) -> Array:
        chunks = [np.asarray(chunk, dtype) for chunk in self._columns.get(name, ())]
        return np.concatenate(chunks) if chunks else np.empty(0, dtype)

    def text_column(self, name: str) -> TextColumn:
        return concat_dict_columns([_encoded(chunk) for chunk in self._columns.get(name, ())])


def _encoded(chunk: Any) -> TextColumn:
    if hasattr(chunk, "categories"):
        # A dictionary of the server has a default that no row needs to have.
        return DictColumn(np.asarray(chunk.codes, np.int64), tuple(chunk.categories.tolist())).compacted()
    return dict_encode(_plain(chunk))


def _plain(chunk: Any) -> list[Any]:
    return chunk.tolist() if hasattr(chunk, "tolist") else list(chunk)
