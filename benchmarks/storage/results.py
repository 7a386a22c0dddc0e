"""What a run measured: each subject's load and queries."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.storage.data import Plan
from benchmarks.storage.subject import Loaded


@dataclass(frozen=True, slots=True)
class Subject:
    """A store to measure. ``slow`` ones are skipped in long runs; all columns of ``exact`` ones can be compared."""

    name: str
    title: str
    missing: Callable[[], str] = lambda: ""
    slow: bool = False
    exact: bool = True
    queries: tuple[str, ...] = ("hour", "day", "top", "trace")


@dataclass(slots=True)
class Result:
    """The figures of one subject. ``query_ms[query]``: the first run, followed by those of the rounds."""

    subject: Subject
    loaded: Loaded
    open_ms: float = 0.0
    query_ms: dict[str, list[float]] = field(default_factory=dict)

    def first_ms(self, query: str) -> float:
        return self.query_ms[query][0]

    def median_ms(self, query: str) -> float:
        return statistics.median(self.query_ms[query][1:])


@dataclass(slots=True)
class Run:
    plan: Plan
    results: dict[str, Result]
    not_measured: dict[str, str]
