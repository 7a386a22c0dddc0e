"""What one query may take: time and memory. Operations ask before they make a vector and every few thousand values."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from heapq import merge
from itertools import islice
from sys import getsizeof
from typing import Any, Final, TypeVar

from vantage.core.arrays import I64, Mask
from vantage.core.dict_column import TEXT_NBYTES, DictColumn
from vantage.core.errors import BusyError, InputError, StoreTimeout, StoreUnavailable

QUERY_NBYTES_MAX: Final = 1_000_000_000
VALUES_PER_CHECK: Final = 4096
CHECK_ALSO_EVERY_S: Final = 0.001
_SORTED_AT_ONCE: Final = 65_536
NUMBER_NBYTES: Final = 8
DISTINCT_NBYTES: Final = 150  # of a value in a dict or set that grows, beside the value
V = TypeVar("V")
W = TypeVar("W")


def _never() -> bool:
    return False


def _nothing() -> None:
    pass


class QueryMemory:
    """The memory of all queries that run, at most ``nbytes_max`` bytes. Any thread."""

    def __init__(self, nbytes_max: int) -> None:
        self._nbytes_max = nbytes_max
        self._lock = threading.Lock()
        self.nbytes = 0

    def take(self, nbytes: int) -> None:
        """Count memory of a query. Raises BusyError when other queries leave too little."""
        with self._lock:
            if self.nbytes + nbytes > self._nbytes_max:
                raise BusyError(
                    f"the query needs {nbytes} bytes of memory more, and the queries that run take {self.nbytes} of "
                    f"{self._nbytes_max} already: try again later"
                )
            self.nbytes += nbytes

    def give(self, nbytes: int) -> None:
        """Count memory that a query no longer uses."""
        with self._lock:
            self.nbytes -= nbytes


class QueryBudget:
    """The time and memory of one query: ``seconds``, and ``nbytes_max`` bytes, which are a part of ``memory`` until
    ``close``. ``stopping`` ends it before."""

    def __init__(
        self,
        seconds: float,
        *,
        nbytes_max: int = QUERY_NBYTES_MAX,
        memory: QueryMemory | None = None,
        stopping: Callable[[], bool] = _never,
        monotonic_s: Callable[[], float] = time.monotonic,
        pass_on: Callable[[], None] = _nothing,
    ) -> None:
        """``pass_on`` is called whenever the time is looked at: other threads may then compute first."""
        self._seconds = seconds
        self._pass_on = pass_on
        self.nbytes_max = nbytes_max
        self._memory = memory
        self._stopping = stopping
        self._monotonic_s = monotonic_s
        self._end_s = monotonic_s() + seconds
        self._nbytes = 0
        self._check_also: Callable[[], None] = _nothing
        self._check_also_s = float("-inf")

    def check_also(self, check: Callable[[], None]) -> None:
        """Call ``check`` as well when the time is looked at, a thousand times a second at most. It may raise a
        VantageError."""
        self._check_also = check

    def check(self) -> None:
        """Raise StoreTimeout once the time has passed, StoreUnavailable when the store closes."""
        if self._stopping():
            raise StoreUnavailable("the server is stopping")
        now_s = self._monotonic_s()
        if now_s > self._end_s:
            raise StoreTimeout(f"the query took longer than {self._seconds:g} s: narrow its time range or its filters")
        if now_s >= self._check_also_s:
            self._check_also_s = now_s + CHECK_ALSO_EVERY_S
            self._check_also()
        self._pass_on()

    def take(self, nbytes: int) -> None:
        """Count memory that the query is about to use. Raises InputError, with the figures, when it is too much, and
        BusyError when other queries leave too little."""
        self.check()
        if self._nbytes + nbytes > self.nbytes_max:
            raise InputError(
                f"the query needs {self._nbytes + nbytes} bytes of memory or more, at most {self.nbytes_max} are "
                "allowed (query_memory_max): narrow its time range or its filters, or ask for fewer columns"
            )
        if self._memory is not None:
            self._memory.take(nbytes)
        self._nbytes += nbytes

    def give(self, nbytes: int) -> None:
        """Count memory that the query no longer uses."""
        self._nbytes -= nbytes
        if self._memory is not None:
            self._memory.give(nbytes)

    def close(self) -> None:
        """Give back what the query has not, as it failed or kept it for its answer."""
        self.give(self._nbytes)
        self._check_also = _nothing  # it holds what the query had pinned

    @contextmanager
    def working(self, nbytes: int) -> Iterator[None]:
        """Count memory that one operation uses until it ends."""
        self.take(nbytes)
        try:
            yield
        finally:
            self.give(nbytes)

    # --- loops over values ---

    def pieces(self, values: Sequence[V]) -> Iterator[Sequence[V]]:
        """Yield the values in slices, and look at the time before each."""
        for start in range(0, len(values), VALUES_PER_CHECK):
            self.check()
            yield values[start : start + VALUES_PER_CHECK]

    def map(self, column: DictColumn[V], function: Callable[[V], W]) -> DictColumn[W]:
        """Apply a function to every distinct value. The memory of new texts is counted as they are made."""
        results: list[W] = []
        nbytes = 0
        try:
            for values in self.pieces(column.values):
                made = list(map(function, values))
                piece_nbytes = sum(map(getsizeof, made)) + NUMBER_NBYTES * len(made)
                self.take(piece_nbytes)
                nbytes += piece_nbytes
                results += made
        finally:
            self.give(nbytes)  # the frame counts the column
        return DictColumn(column.codes, results)

    def mask(self, column: DictColumn[V], condition: Callable[[V], bool]) -> Mask:
        """Return which rows meet a condition. It is evaluated once per distinct value."""
        matches = bytearray()
        for values in self.pieces(column.values):
            matches += bytes(map(condition, values))
        return column.mask_of(matches)

    def merge_equal_values(self, column: DictColumn[Any]) -> I64:
        """Return codes that are equal where values are, also after ``map``."""
        with self.working(DISTINCT_NBYTES * len(column.values)):
            return column.merge_equal_values()

    def sort(self, values: Sequence[Any]) -> list[Any]:
        """Return the values in ascending order."""
        if len(values) <= _SORTED_AT_ONCE:
            return sorted(values)
        runs = []
        for start in range(0, len(values), _SORTED_AT_ONCE):
            self.check()
            runs.append(sorted(values[start : start + _SORTED_AT_ONCE]))
        merged, ordered = merge(*runs), []
        while piece := list(islice(merged, VALUES_PER_CHECK)):
            self.check()
            ordered += piece
        return ordered


def vector_nbytes(vector: Any) -> int:
    """Return the memory of a vector, in bytes; for texts of which there are many it is an estimate."""
    if not isinstance(vector, DictColumn):
        return int(vector.nbytes)
    count = len(vector.values)
    sample = vector.values[:: max(1, count // VALUES_PER_CHECK)]
    nbytes = sum(len(value) if isinstance(value, str) else getsizeof(value) for value in sample)
    return int(vector.codes.nbytes) + nbytes * count // max(1, len(sample)) + (TEXT_NBYTES + NUMBER_NBYTES) * count
