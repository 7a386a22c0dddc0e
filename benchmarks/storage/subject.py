"""The protocol of the stores to measure: load data, report sizes, run four queries."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from types import TracebackType
from typing import Any, Final, Protocol, Self

from benchmarks.storage.data import CPU, DURATION, Plan

HOUR_MS: Final = 3_600_000
SERVICE: Final = "service-07"
TOP: Final = 10

ResultRows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Query:
    """``hour``: DURATION of SERVICE in the last hour, rows of (minute, avg, p95). ``day``: CPU of the last 24 hours,
    rows of (service, 5 minutes, avg). ``top``: the TOP (service, route, p95) of DURATION in the last hour, slowest
    first. ``trace``: (metric, time, value, span id) of the samples of a trace, by time."""

    name: str
    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class Range:
    """The two ranges of the queries; the end is exclusive."""

    end_ms: int

    @property
    def hour_ms(self) -> int:
        return self.end_ms - HOUR_MS

    @property
    def day_ms(self) -> int:
        return self.end_ms - 24 * HOUR_MS


METRIC_OF: Final = {"hour": DURATION, "day": CPU, "top": DURATION}


@dataclass(slots=True)
class Loaded:
    """The result of loading. ``finish_s`` is the time of sealing, merging or compacting after or between inserts."""

    insert_s: float
    insert_cpu_s: float
    finish_s: float
    finish_cpu_s: float
    sizes: dict[str, int]
    note: str = ""
    peak_nbytes: int = 0  # of the loading process, including its data


class Store(Protocol):
    """A store in a process of its own: ``load``, and in another process ``open``, ``run_query`` and ``close``."""

    def load(self, plan: Plan) -> Loaded: ...

    def open(self, plan: Plan) -> None: ...

    def run_query(self, query: Query) -> Any:
        """Run a query until the complete result has arrived. Measured."""
        ...

    def result_rows(self, query: Query, raw: Any) -> ResultRows:
        """Return the result of ``run_query`` as rows, as ``Query`` defines them. Not measured."""
        ...

    def close(self) -> None: ...


class Stopwatch:
    """Adds up the wall and CPU seconds of the measured parts; ``cpu_s`` returns those of the measured process."""

    def __init__(self, cpu_s: Callable[[], float] = time.process_time) -> None:
        self._cpu_s = cpu_s
        self._began = (0.0, 0.0)
        self.wall_s = 0.0
        self.cpu_s = 0.0

    def __enter__(self) -> Self:
        self._began = (time.perf_counter(), self._cpu_s())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wall_s += time.perf_counter() - self._began[0]
        self.cpu_s += self._cpu_s() - self._began[1]


def nbytes(folder: Path, pattern: str = "**/*") -> int:
    """Return the bytes of files, each file once even if it has several links."""
    sizes = {}
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):  # merged away in the meantime
            stat = path.lstat()
            if S_ISREG(stat.st_mode):
                sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())
