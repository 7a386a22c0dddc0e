"""What the store asks of an engine that runs ClickHouse's SQL, and what the engine's errors mean."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from vantage.core.arrays import F64, I64, Array
from vantage.core.dict_column import TextColumn
from vantage.core.errors import InputError, StoreTimeout, StoreUnavailable, VantageError

Param = str | int | float
Column = Array | TextColumn | list[str] | list[dict[str, str]]
ROWS_MAX: Final = 2_000_000_000  # read to answer the questions of the port that have no limit of their own
QUERY_NBYTES_MAX: Final = 2 << 30


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with ``{name:Type}`` in the place of values, and the values by name."""

    text: str
    params: Mapping[str, Param] = field(default_factory=dict)


class Insert(msgspec.Struct, frozen=True, array_like=True):
    """Rows for one table, encoded for the engine. Of inserts into a table with the same token the engine keeps one,
    as long as it remembers the token."""

    table: str
    columns: tuple[str, ...]
    token: str
    payload: bytes


class QueryResult(Protocol):
    """The columns of an answer; each method gives one, by name, in the form the caller can use."""

    def __len__(self) -> int: ...

    def to_list(self, name: str) -> list[Any]:
        """Python values, None for NULL, a dict for a map."""
        ...

    def ints(self, name: str) -> I64:
        """Integers without NULL."""
        ...

    def floats(self, name: str) -> F64:
        """Floats without NULL."""
        ...

    def text_column(self, name: str) -> TextColumn:
        """Texts without NULL, coded."""
        ...


class Engine(Protocol):
    """Runs statements. The methods block: call them from a thread. Each thread may have one statement under way."""

    def run(self, statement: Statement, **settings: float) -> QueryResult:
        """Raises what ``meant`` makes of the engine's error."""
        ...

    def encode(self, table: str, columns: Mapping[str, Column], *, token: str) -> Insert:
        """Rows in the engine's form."""
        ...

    def insert(self, insert: Insert) -> None:
        """When it returns the rows are durable. Raises StoreUnavailable; whether anything was kept is not known."""
        ...

    def stream(self, statement: Statement, **settings: float) -> Iterator[QueryResult]:
        """An answer in pieces of bounded size, as of the moment the first one is asked for. Close it."""
        ...


def query_limits(deadline_s: float, *, rows_max: int = ROWS_MAX) -> dict[str, float]:
    """Settings that bound one query. Raises StoreTimeout when no time is left."""
    if deadline_s <= 0:
        raise StoreTimeout("the query waited for longer than it may take: try again, or ask for less")
    return {
        "max_execution_time": max(0.001, deadline_s),
        "max_rows_to_read": rows_max,
        "max_memory_usage": QUERY_NBYTES_MAX,
    }


_CODE: Final = re.compile(r"Code: (\d+)\.")
_TOO_MANY_ROWS: Final = (158, 396)
_CURRENT_ROWS: Final = re.compile(r"current rows: ([0-9]+(?:\.[0-9]+)?(?: [a-z]+)?)")
_TIMEOUT: Final = (159, 160)
_MEMORY: Final = 241
_SHOWN_MAX: Final = 300


def translate_error(error: Exception, settings: Mapping[str, float]) -> VantageError:
    """An engine's error as one of ours; ``settings`` are those of the statement. The codes are those of ClickHouse's
    ``ErrorCodes.cpp``."""
    text = str(error)
    found = _CODE.search(text)
    code = int(found[1]) if found else 0
    if code in _TIMEOUT:
        return StoreTimeout("the query took too long: narrow its time range or its filters")
    if code in _TOO_MANY_ROWS:
        figure = _CURRENT_ROWS.search(text)
        return InputError(
            f"the query would read {figure[1] if figure else 'too many'} rows, at most "
            f"{settings.get('max_rows_to_read')} are read: narrow its time range or filters"
        )
    if code == _MEMORY:
        return InputError(
            f"the query needs more than {QUERY_NBYTES_MAX >> 30} GB of memory: "
            "narrow its time range, its filters or what it groups by"
        )
    return StoreUnavailable(f"the ClickHouse engine failed: {text[:_SHOWN_MAX]}")
