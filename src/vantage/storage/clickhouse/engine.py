"""The port to an engine that runs ClickHouse's SQL, and the translation of its errors."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from vantage.core.arrays import F64, I64, Array
from vantage.core.dict_column import TextColumn
from vantage.core.errors import InputError, StoreTimeout, StoreUnavailable, VantageError

Param = str | int | float
Column = Array | TextColumn | list[str] | list[dict[str, str]] | list[dict[int, int]]
ROWS_MAX: Final = 2_000_000_000  # read by lookups that have no limit of their own
NO_SETTINGS: Final[Mapping[str, float]] = {}
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


# Each table recognises a repeated insert among so many. With twenty inserts a second, each of a month, it is an hour.
DEDUPLICATION_WINDOW: Final = 100_000
WINDOW: Final[Mapping[str, int]] = {"non_replicated_deduplication_window": DEDUPLICATION_WINDOW}
REPLICATED_WINDOW: Final[Mapping[str, int]] = {
    "replicated_deduplication_window": DEDUPLICATION_WINDOW,
    "replicated_deduplication_window_seconds": 7 * 24 * 3600,
}


class Engine(Protocol):
    """Runs statements. The methods block: call them from a thread. Each thread may run one statement at a time."""

    @property
    def name(self) -> str:
        """Return what the log calls it."""
        ...

    @property
    def shared(self) -> bool:
        """Return whether other processes may use the same tables."""
        ...

    @property
    def deduplication(self) -> Mapping[str, int]:
        """Return the settings by which a table recognises repeated inserts, and the least value of each."""
        ...

    def open(self) -> None:
        """Start, or log in. Raises ConfigError when a package is missing, or else StartupError."""
        ...

    def close(self) -> None:
        """Close every connection. No statement may be running."""
        ...

    def run(
        self,
        statement: Statement,
        settings: Mapping[str, float] = NO_SETTINGS,
        *,
        cancelled: threading.Event | None = None,
    ) -> QueryResult:
        """Run a statement. Once ``cancelled`` is set the statement is ended, if the engine can. Raises what
        ``translate_error`` returns for the engine's error."""
        ...

    def encode(self, table: str, columns: Mapping[str, Column], *, token: str) -> Insert:
        """Encode rows for the engine."""
        ...

    def insert(self, insert: Insert) -> None:
        """Insert rows, durable on return. Raises StoreUnavailable; then it is unknown whether anything was stored."""
        ...

    def stream(self, statement: Statement, settings: Mapping[str, float] = NO_SETTINGS) -> Iterator[QueryResult]:
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
_BUSY: Final = {
    202: "ClickHouse runs as many queries as it may",
    252: "ClickHouse has too many parts to merge, and takes no inserts until it has caught up",
}
_BROKEN: Final = {
    60: "a table is missing: run `vantage migrate`",
    81: "the database does not exist: run `vantage migrate`",
    164: "the ClickHouse account may only read",
    192: "ClickHouse does not know the user, or the password is wrong",
    193: "ClickHouse does not know the user, or the password is wrong",
    242: "the ClickHouse table is read-only",
    243: "the disk of ClickHouse is full",
    394: "the query was cancelled on the server",
    497: "the ClickHouse account lacks a right",
    516: "ClickHouse does not know the user, or the password is wrong",
}
_BUSY_RETRY_AFTER_S: Final = 10.0
_NOISE: Final = re.compile(r"^Code: \d+\.\s*(?:DB::Exception:\s*)?")
_SHOWN_MAX: Final = 300


def translate_error(error: Exception, settings: Mapping[str, float]) -> VantageError:
    """Translate an engine's error into Vantage's; ``settings`` are those of the statement. The codes are those of
    ClickHouse's ``ErrorCodes.cpp``."""
    text = str(error).partition("Stack trace:")[0]
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
    if code == _MEMORY and "max_memory_usage" in settings and "(total)" not in text:
        return InputError(
            f"the query needs more than {settings['max_memory_usage']} bytes of memory (query_memory_max): "
            "narrow its time range, its filters or what it groups by"
        )
    detail = " ".join(_NOISE.sub("", text).split())[:_SHOWN_MAX]
    if code == _MEMORY:
        return StoreUnavailable(f"ClickHouse has no memory left: {detail}", retry_after_s=_BUSY_RETRY_AFTER_S)
    if code in _BUSY:
        return StoreUnavailable(f"{_BUSY[code]} ({detail})", retry_after_s=_BUSY_RETRY_AFTER_S)
    if code in _BROKEN:
        return StoreUnavailable(f"{_BROKEN[code]} ({detail})")
    return StoreUnavailable(f"the ClickHouse engine failed: {detail}")
