"""Vectors: columns of values during execution.

A vector is a numpy array (float64 with NaN for null, int64, bool) or a ``DictColumn`` of text or maps, so that a
condition on text is evaluated once per distinct value and not once per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from vantage.core.arrays import Array, Mask
from vantage.core.dict_column import DictColumn

Vector = Array | DictColumn[Any]
_TABLE_MAX: Final = 1 << 20  # entries of a look-up table that is cheaper than sorting


def dense_codes(codes: Array) -> tuple[Array, Array]:
    """Return codes without gaps, in the same order, and the first row of each."""
    size = int(codes.max()) + 1 if codes.size else 0
    if size > max(_TABLE_MAX, 2 * len(codes)):
        _, first, ids = np.unique(codes, return_index=True, return_inverse=True)
        return ids, first
    first_of = np.full(size, len(codes), np.int64)
    np.minimum.at(first_of, codes, np.arange(len(codes)))
    present = first_of < len(codes)
    return (np.cumsum(present) - 1)[codes], first_of[present]


def take(vector: Vector, rows: Array) -> Vector:
    """Return the given rows of a vector."""
    return vector.take(rows) if isinstance(vector, DictColumn) else vector[rows]


def constant(value: Any, rows: int) -> Vector:
    if value is None or isinstance(value, float):
        return np.full(rows, np.nan if value is None else value, np.float64)
    if isinstance(value, bool):
        return np.full(rows, value, np.bool_)
    if isinstance(value, int):
        return np.full(rows, value, np.int64)
    return DictColumn(np.zeros(rows, np.int64), [value])


def rank_texts(texts: DictColumn[Any], ranks: Mapping[str, int]) -> Array:
    return np.array([ranks.get(value, np.nan) for value in texts.values], np.float64)[texts.codes]


def finite(numbers: Array) -> Array:
    """Return the numbers with null for what is not finite."""
    return np.where(np.isfinite(numbers), numbers, np.nan)


def as_texts(vector: Vector) -> DictColumn[Any]:
    """Return a vector that stands beside texts as text: it is text, or null throughout."""
    return vector if isinstance(vector, DictColumn) else DictColumn(np.zeros(len(vector), np.int64), [None])


def pick(conditions: list[Mask], texts: list[DictColumn[Any]], rows_count: int) -> DictColumn[Any]:
    """Return each row's text from the first condition that is true, else the last text."""
    choice = np.select(conditions, list(range(len(conditions))), len(conditions))
    codes = np.zeros(rows_count, np.int64)
    values: list[Any] = []
    for which, text in enumerate(texts):
        rows = np.flatnonzero(choice == which)
        codes[rows] = text.codes[rows] + len(values)
        values.extend(text.values)
    return DictColumn(codes, values)
