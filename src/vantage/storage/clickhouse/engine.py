"""The port to an engine that runs ClickHouse's SQL, and the translation of its errors."""

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
ROWS_MAX: Final = 2_000_000_000  # read by lookups that have no limit of their own
LOOKUP_NBYTES_MAX: Final = 2 << 30  # memory of lookups, which have no limit of their own


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with placeholders ``{name:Type}``, and their values by name."""

    text: str
    params: Mapping[str, Param] = field(default_factory=dict)


class Insert(msgspec.Struct, frozen=True, array_like=True):
    """Rows for one table, encoded for the engine. Of several inserts into a table with the same token the engine stores
    one, as long as it remembers the token."""

    table: str
    columns: tuple[str, ...]
    token: str
    payload: bytes


class QueryResult(Protocol):
    """The columns of a result; each method returns one, by name, as a certain type."""

    def __len__(self) -> int: ...

    def to_list(self, name: str) -> list[Any]:
        """Return Python values, None for NULL, a dict for a map."""
        ...

    def ints(self, name: str) -> I64:
        """Return integers without NULL."""
        ...

    def floats(self, name: str) -> F64:
        """Return floats without NULL."""
        ...

    def text_column(self, name: str) -> TextColumn:
        """Return dictionary-encoded texts without NULL."""
        ...


class Engine(Protocol):
    """Runs statements. The methods block: call them from a thread. Each thread may run one statement at a time."""

    def run(self, statement: Statement, **settings: float) -> QueryResult:
        """Run a statement. Raises what ``translate_error`` returns for the engine's error."""
        ...

    def encode(self, table: str, columns: Mapping[str, Column], *, token: str) -> Insert:
        """Encode rows for the engine."""
        ...

    def insert(self, insert: Insert) -> None:
        """Insert rows, durable on return. Raises StoreUnavailable; then it is unknown whether anything was stored."""
        ...

    def stream(self, statement: Statement, **settings: float) -> Iterator[QueryResult]:
        """Yield a result in chunks of bounded size, as of the first request for one. The caller must close it."""
        ...


def query_limits(
    deadline_s: float, *, rows_max: int = ROWS_MAX, nbytes_max: int = LOOKUP_NBYTES_MAX
) -> dict[str, float]:
    """Return settings that limit one query. Raises StoreTimeout when no time is left."""
    if deadline_s <= 0:
        raise StoreTimeout("the query waited longer than its time limit: try again, or query less")
    return {
        "max_execution_time": max(0.001, deadline_s),
        "max_rows_to_read": rows_max,
        "max_memory_usage": nbytes_max,
    }


_CODE: Final = re.compile(r"Code: (\d+)\.")
_TOO_MANY_ROWS: Final = (158, 396)
_CURRENT_ROWS: Final = re.compile(r"current rows: ([0-9]+(?:\.[0-9]+)?(?: [a-z]+)?)")
_TIMEOUT: Final = (159, 160)
_MEMORY: Final = 241
_SHOWN_MAX: Final = 300


def translate_error(error: Exception, settings: Mapping[str, float]) -> VantageError:
    """Translate an engine's error into Vantage's; ``settings`` are those of the statement. The codes are those of
    ClickHouse's ``ErrorCodes.cpp``."""
    text = str(error)
    match = _CODE.search(text)
    code = int(match[1]) if match else 0
    if code in _TIMEOUT:
        return StoreTimeout("the query took too long: narrow its time range or its filters")
    if code in _TOO_MANY_ROWS:
        rows = _CURRENT_ROWS.search(text)
        return InputError(
            f"the query would read {rows[1] if rows else 'too many'} rows, at most "
            f"{settings.get('max_rows_to_read')} are allowed: narrow its time range or filters"
        )
    if code == _MEMORY:
        return InputError(
            f"the query needs more than {settings.get('max_memory_usage')} bytes of memory (query_memory_max): "
            "narrow its time range, its filters or what it groups by"
        )
    return StoreUnavailable(f"the ClickHouse engine failed: {text[:_SHOWN_MAX]}")
