"""Tables: the answer of every query."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

ColumnType = Literal["string", "float", "int", "time", "bool", "map"]


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column's name and type. ``time`` is epoch milliseconds; ``map`` a dict of strings."""

    name: str
    type: ColumnType


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of equal length; ``data[i]`` has Python values, None for null. ``truncated``: rows were cut off."""

    columns: tuple[TableColumn, ...]
    data: tuple[list[Any], ...]
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.data[0]) if self.data else 0

    def rows(self) -> Iterator[tuple[Any, ...]]:
        return zip(*self.data, strict=True)

    def column(self, name: str) -> list[Any]:
        """Return the values of a column by name. Raises KeyError."""
        for column, values in zip(self.columns, self.data, strict=True):
            if column.name == name:
                return values
        raise KeyError(name)


def null_if_nan(values: list[float]) -> list[float | None]:
    """NaN is how null travels inside numpy columns; outside it is None. Infinities (overflow) are null too."""
    return [value if math.isfinite(value) else None for value in values]
