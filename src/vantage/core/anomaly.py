"""Anomalies that were noticed in a series of 5-minute points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Figure = Literal["rate", "errors", "p95", "metric"]


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Values that are unusual for their series, from ``start_ms`` until ``end_ms`` (epoch milliseconds).

    The series is a ``figure`` of a service: requests a second, the share of failed requests from 0 to 1, the p95 in ms,
    or the mean of a ``metric``, which is '' for the others. ``score`` is the highest, above 1; ``value`` the one at
    ``at_ms`` that raised the alarm, where ``expected``, ``low`` and ``high`` were expected (None: nothing was known).
    ``text`` is a sentence about it; ``evidence`` has what the score was computed from, as ``docs/analysis.md`` lists.
    """

    service: str
    figure: Figure
    metric: str
    start_ms: int
    end_ms: int
    score: float
    value: float
    expected: float | None
    low: float | None
    high: float | None
    mode: str
    unit: str
    text: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    id: int = 0  # given by the store

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Return what tells it from others."""
        return self.service, self.figure, self.metric, self.start_ms
