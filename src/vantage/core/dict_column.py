"""Dictionary-encoded columns: each row is a code into the few distinct values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from vantage.core.arrays import I64, Array, Mask

V = TypeVar("V")
H = TypeVar("H", bound=Hashable)
W = TypeVar("W")
Codes = NDArray[np.integer[Any]]
TEXT_NBYTES: Final = 64  # of a str beside its characters and its pointer in a tuple; measured on CPython 3.11


@dataclass(frozen=True, slots=True, eq=False)
class DictColumn(Generic[V]):
    """Row ``i`` has the value ``values[codes[i]]``. Codes are uint32 or int64."""

    codes: Codes
    values: Sequence[V]

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        """Estimate the memory of a column of text, in bytes."""
        characters = sum(len(value) for value in self.values if isinstance(value, str))
        return self.codes.nbytes + characters + TEXT_NBYTES * len(self.values)

    def take(self, rows: Array) -> DictColumn[V]:
        """Return the given rows, with the same dictionary."""
        return DictColumn(self.codes[rows], self.values)

    def take_compact(self, rows: Array) -> DictColumn[V]:
        """Return the given rows, with a dictionary of at most one value a row."""
        column = self.take(rows)
        return column.compacted() if len(self.values) > len(rows) else column

    def compacted(self) -> DictColumn[V]:
        """Return the same rows, without the values that no row has."""
        used = np.zeros(len(self.values), np.bool_)
        used[self.codes] = True
        used_codes = np.flatnonzero(used)
        if len(used_codes) == len(self.values):
            return self
        codes = (np.cumsum(used, dtype=np.uint32) - np.uint32(1))[self.codes]
        return DictColumn(codes, tuple(map(self.values.__getitem__, used_codes.tolist())))

    def code_of(self, value: V) -> int:
        """Return the code of a value, -1 when the dictionary lacks it."""
        try:
            return self.values.index(value)
        except ValueError:
            return -1

    def mask(self, condition: Callable[[V], bool]) -> Mask:
        """Return which rows meet a condition. It is evaluated once per distinct value."""
        return self.mask_of(bytes(map(condition, self.values)))

    def mask_of(self, matches: bytes | bytearray) -> Mask:
        """Return which rows have a value that matches; ``matches[code]`` is 1 for those."""
        if not self.values:
            return np.zeros(len(self.codes), np.bool_)
        mask: Mask = np.frombuffer(matches, np.bool_)[self.codes]
        return mask

    def value(self, row: int) -> V:
        """Return the value of one row."""
        return self.values[int(self.codes[row])]

    def to_list(self) -> list[V]:
        """Return one value per row."""
        return list(map(self.values.__getitem__, self.codes.tolist()))

    def map(self, function: Callable[[V], W]) -> DictColumn[W]:
        """Apply a function to every value. Several codes may then have the same value."""
        return DictColumn(self.codes, [function(value) for value in self.values])

    def merge_equal_values(self) -> I64:
        """Return codes that are equal where values are, also after ``map``."""
        numbers = _counter()
        keys = map(_hashable, self.values)
        return np.fromiter(map(numbers.__getitem__, keys), np.int64, len(self.values))[self.codes]


TextColumn: TypeAlias = DictColumn[str]


def dict_encode(values: Iterable[H]) -> DictColumn[H]:
    """Give each distinct value a code, in order of first appearance."""
    numbers = _counter()
    size = len(values) if isinstance(values, Sequence) else -1
    codes = np.fromiter(map(numbers.__getitem__, values), np.uint32, size)
    return DictColumn(codes, tuple(numbers))


def concat_dict_columns(columns: Sequence[DictColumn[H]]) -> DictColumn[H]:
    """Concatenate columns under one dictionary."""
    if len(columns) == 1:
        return columns[0]
    if not columns:
        return DictColumn(np.empty(0, np.uint32), ())
    codes = np.concatenate([column.codes for column in columns])
    if all(column.values is columns[0].values for column in columns):
        return DictColumn(codes, columns[0].values)
    numbers = _counter()
    start = 0
    for column in columns:
        new_codes = np.fromiter(map(numbers.__getitem__, column.values), np.uint32, len(column.values))
        codes[start : start + len(column)] = new_codes[column.codes]
        start += len(column)
    return DictColumn(codes, tuple(numbers))


def _hashable(value: Any) -> Hashable:
    """Return something hashable that is equal where values are."""
    return value if isinstance(value, str) else repr(value)


def _counter() -> defaultdict[Any, int]:
    """Return a dict that numbers its keys as they are first looked up: one look-up a value, and no step in Python."""
    return defaultdict(count().__next__)
