"""The loop that watches series for anomalies, and stores those it notices.

It advances by the data's own clock, a bucket of 5 minutes at a time, a minute after the bucket ended. After a start it
learns from the rollups of at most 14 days, half a day at a time and in turns with others, so that nothing waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
import structlog

from vantage.analysis.anomaly import (
    WARM_POINTS,
    Detector,
    Mode,
    SeasonalDetector,
    Step,
    as_dict,
    new_detector,
)
from vantage.core.anomaly import Anomaly
from vantage.core.arrays import F64
from vantage.core.errors import InputError, VantageError
from vantage.core.number_format import quantity
from vantage.core.rollup import FIVE_MINUTES_MS
from vantage.core.sample import OVERFLOW
from vantage.core.timerange import TimeRange
from vantage.core.turns import Turns
from vantage.query.anomaly_points import RANGES_MIN, UNITS, MetricUnit, SeriesKey, read_points
from vantage.query.catalogue import SELF
from vantage.query.context import QueryContext

HISTORY_MS: Final = 14 * 86_400_000
SLICE_MS: Final = 12 * 3_600_000
GRACE_MS: Final = 60_000  # after a bucket, for samples that arrive late
POLL_S: Final = 15.0
QUIET_POINTS: Final = 12  # an hour without anything unusual ends an anomaly
SAME_MS: Final = 6 * 3_600_000  # an alarm so near to a stored anomaly of its series belongs to that
STOPPED_MS: Final = 86_400_000  # a service without requests has a rate of 0 for so long, and then none
GROW_BY: Final = 64
RETENTION_MS: Final = 90 * 86_400_000  # of stored anomalies
AGAIN_MS: Final = 3_600_000  # everything is learnt again at most once in this time
OMITTED_MAX: Final = 10_000  # series beyond the limit that are counted
_log = structlog.get_logger("vantage.query.anomalies")


@dataclass(frozen=True, slots=True)
class WatchStatus:
    """What is watched: the number of series, of those that have warmed up, and of those beyond the limit; ``until_ms``
    is the end of the newest bucket, 0 before the first; ``behind_ms`` how much is still to be learnt."""

    series: int = 0
    ready: int = 0
    omitted: int = 0
    series_max: int = 0
    until_ms: int = 0
    behind_ms: int = 0
    mode: Mode = "seasonal"


@dataclass(slots=True)
class _Open:
    """An anomaly that goes on, and for how many points nothing was unusual."""

    anomaly: Anomaly
    quiet: int = 0


class _Series:
    """The watched series, and their detector."""

    def __init__(self, mode: Mode) -> None:
        self.detector: Detector = new_detector(mode, 0)
        self.keys: list[SeriesKey] = []
        self.index: dict[SeriesKey, int] = {}
        self.points = np.zeros(0, np.int64)
        self.is_rate = np.zeros(0, np.bool_)
        self.last_ms = np.zeros(0, np.int64)  # of the newest value that is not 0 for want of requests

    def add(self, key: SeriesKey) -> None:
        index = self.index[key] = len(self.keys)
        self.keys.append(key)
        if len(self.keys) > len(self.points):
            size = len(self.points) + max(GROW_BY, len(self.points) // 4)
            self.detector.grow(size)
            more = np.zeros(size - len(self.points), np.int64)
            self.points, self.last_ms = np.append(self.points, more), np.append(self.last_ms, more)
            self.is_rate = np.append(self.is_rate, more > 0)
        self.is_rate[index] = key.figure == "rate"
        self.detector.set_range_min(index, RANGES_MIN[key.figure])

    def forget_deleted(self, services: Mapping[str, int]) -> None:
        """Let no service that is not stored any more count as one that has stopped receiving requests."""
        for key, index in self.index.items():
            if key.service not in services:
                self.last_ms[index] = 0

    def fill_stopped(self, row: F64, at_ms: int) -> None:
        """Give services that have stopped receiving requests a rate of 0, as far as others send data."""
        present = np.isfinite(row)
        self.last_ms[present] = at_ms
        row[~present & self.is_rate & (self.last_ms > 0) & (at_ms - self.last_ms <= STOPPED_MS)] = 0.0


class AnomalyRows(Protocol):
    """Where anomalies are stored: the two methods of a metadata store."""

    async def record_anomalies(self, anomalies: Sequence[Anomaly], *, since_ms: int) -> int: ...

    async def anomalies(
        self, *, service: str = "", time_range: TimeRange | None = None, limit: int = 100
    ) -> Sequence[Anomaly]: ...


class AnomalyWatch:
    """Watches at most ``series_max`` series, the first that it sees. ``status`` may be read by any thread."""

    name = "anomalies"

    def __init__(
        self,
        context: QueryContext,
        metadata: AnomalyRows,
        *,
        turns: Turns,
        mode: Mode = "seasonal",
        series_max: int = 1000,
        has_gauges: bool = True,
    ) -> None:
        self._context = replace(context, cache_nbytes_max=0)  # what is read once must not evict what pages show
        self._metadata = metadata
        self._clock = context.clock
        self._telemetry = telemetry = context.telemetry
        self._turns = turns
        self._mode = mode
        self._series_max = series_max
        self.status = WatchStatus(series_max=series_max, mode=mode)
        if has_gauges:
            telemetry.add_gauge(
                "vantage_anomaly_series", "Series watched for anomalies.", lambda: float(self.status.series)
            )
            telemetry.add_gauge(
                "vantage_anomaly_series_omitted",
                "Series beyond anomaly_series_max, which are not watched.",
                lambda: float(self.status.omitted),
            )
        self._clear()

    def _clear(self) -> None:
        self._series = _Series(self._mode)
        self._omitted: set[SeriesKey] = set()
        self._units: dict[str, MetricUnit] = {}
        self._open: dict[SeriesKey, _Open] = {}
        self._stored: dict[SeriesKey, list[Anomaly]] = {}
        self._waiting: dict[tuple[str, str, str, int], Anomaly] = {}
        self._next_ms = 0
        self._begun_ms = -AGAIN_MS
        self._services: set[str] = set()

    async def run(self) -> None:
        """Watch until cancelled. Raises what the stores raise: it then begins again."""
        self._clear()
        while True:
            await self.advance()
            await self._clock.sleep(POLL_S)

    async def advance(self) -> None:
        """Learn the buckets that have ended since the last call, and store what was noticed. Raises VantageError."""
        infos = await self._context.store.services()
        services: dict[str, int] = {}
        for info in infos:
            services[info.service] = min(services.get(info.service, info.first_ms), info.first_ms)
        end_ms = (self._context.present().now_ms - GRACE_MS) // FIVE_MINUTES_MS * FIVE_MINUTES_MS
        if not services.keys() - {SELF, OVERFLOW}:
            return  # an idle server takes nothing for it
        # What a new service sent of the past, an import perhaps, is learnt by learning everything again.
        has_past = any(
            first_ms < self._next_ms - AGAIN_MS
            for name, first_ms in services.items()
            if name not in self._services and name not in (SELF, OVERFLOW)
        )
        if self._next_ms and has_past and end_ms - self._begun_ms >= AGAIN_MS:
            self._clear()
        self._services |= services.keys()
        if not self._next_ms:
            first_ms = max(min(services.values()), end_ms - HISTORY_MS)
            self._next_ms = first_ms // FIVE_MINUTES_MS * FIVE_MINUTES_MS
            self._begun_ms = end_ms
            for anomaly in await self._metadata.anomalies(time_range=TimeRange(self._next_ms, 1 << 62), limit=20_000):
                key = SeriesKey(anomaly.service, anomaly.figure, anomaly.metric)
                self._stored.setdefault(key, []).append(anomaly)
        self._series.forget_deleted(services)
        while self._next_ms < end_ms:
            part = TimeRange(self._next_ms, min(self._next_ms + SLICE_MS, end_ms))
            points, units = await read_points(self._context, part, services=services)
            self._units |= units
            await asyncio.to_thread(self._learn, points, part, end_ms)
            self._next_ms = part.end_ms
            await self._store(end_ms)

    async def _store(self, end_ms: int) -> None:
        """Store what was noticed; what cannot be stored now is stored later."""
        if not self._waiting:
            return
        waiting = list(self._waiting.values())
        since_ms = end_ms - RETENTION_MS
        try:
            try:
                removed = await self._metadata.record_anomalies(waiting, since_ms=since_ms)
            except InputError:  # a name that PostgreSQL cannot store: the others can be
                removed = 0
                for anomaly in waiting:
                    removed += await self._record_alone(anomaly, since_ms)
        except VantageError as error:
            _log.warning("anomalies not stored yet", count=len(waiting), reason=str(error))
            return
        self._telemetry.anomalies_expired.inc(removed)
        for anomaly in waiting:
            if self._waiting.get(anomaly.key) is anomaly:
                del self._waiting[anomaly.key]

    async def _record_alone(self, anomaly: Anomaly, since_ms: int) -> int:
        try:
            return await self._metadata.record_anomalies([anomaly], since_ms=since_ms)
        except InputError:
            self._telemetry.lost.labels("anomaly_refused").inc()
            return 0

    def _learn(self, points: Mapping[SeriesKey, F64], part: TimeRange, end_ms: int) -> None:
        """Advance the detectors over a range of buckets, in turns with other threads."""
        with self._turns.turn():
            count = part.length_ms // FIVE_MINUTES_MS
            for key in points:
                self._admit(key)
            series = self._series
            anything = np.zeros(count, np.bool_)
            matrix = np.full((count, len(series.points)), np.nan)
            for key, values in points.items():
                anything |= np.isfinite(values)
                if (index := series.index.get(key)) is not None:
                    matrix[:, index] = values
            for position, row in enumerate(matrix):
                at_ms = part.start_ms + position * FIVE_MINUTES_MS
                if anything[position]:
                    series.fill_stopped(row, at_ms)
                step = series.detector.step(np.full(len(row), at_ms), row)
                series.points += np.isfinite(row)
                self._notice(step, row, at_ms)
                self._turns.pass_on()
            self.status = WatchStatus(
                len(series.keys),
                int((series.points >= WARM_POINTS).sum()),
                len(self._omitted),
                self._series_max,
                part.end_ms,
                max(0, end_ms - part.end_ms),
                self._mode,
            )

    def _admit(self, key: SeriesKey) -> None:
        if key in self._series.index:
            return
        if len(self._series.keys) < self._series_max:
            self._series.add(key)
        elif len(self._omitted) < OMITTED_MAX:
            self._omitted.add(key)

    def _notice(self, step: Step, row: F64, at_ms: int) -> None:
        for index in np.flatnonzero(step.alarm).tolist():
            key, value = self._series.keys[index], float(row[index])
            if key.figure == "errors" and value <= _number(step.expected[index], 0.0):
                continue  # fewer errors than expected
            if key not in self._open:
                self._open[key] = _Open(self._begin(key, index, step, value, at_ms))
        for key in list(self._open):
            self._go_on(key, step, float(row[self._series.index[key]]), at_ms)

    def _begin(self, key: SeriesKey, index: int, step: Step, value: float, at_ms: int) -> Anomaly:
        for stored in self._stored.get(key, ()):
            if stored.start_ms - SAME_MS <= at_ms <= stored.end_ms + SAME_MS:
                return stored
        unit = UNITS.get(key.figure, self._units.get(key.metric, MetricUnit()).unit)
        expected, low, high = (
            None if np.isnan(values[index]) else float(values[index]) for values in (step.expected, step.low, step.high)
        )
        if key.figure == "metric":
            of = key.metric
        else:
            of = {"rate": "Requests", "errors": "Errors", "p95": "p95"}[key.figure]
        score = float(step.score[index])
        return Anomaly(
            key.service,
            key.figure,
            key.metric,
            at_ms,
            at_ms + FIVE_MINUTES_MS,
            score,
            value,
            expected,
            low,
            high,
            self._mode,
            unit,
            sentence(of, value, low, high, unit),
            self._evidence(key, index, score),
        )

    def _evidence(self, key: SeriesKey, index: int, score: float) -> dict[str, Any]:
        kind = self._units.get(key.metric, MetricUnit()).kind
        evidence: dict[str, Any] = {"score": score, "points": int(self._series.points[index]), "kind": kind}
        detector = self._series.detector
        if isinstance(detector, SeasonalDetector):
            period, same_hours, trend, apart = detector.profile.basis(index)
            evidence |= {
                "pairs": [as_dict(pair) for pair in detector.evidence(index)],
                "anchor": detector.anchor(index),
                "period": period,
                "same_hours": same_hours,
                "trend": trend,
                "apart": apart,
            }
        return evidence

    def _go_on(self, key: SeriesKey, step: Step, value: float, at_ms: int) -> None:
        """Extend an anomaly while its values are unusual, and end it an hour after: while they are outside of what is
        expected, where it began so, since means of points stay unusual for a while."""
        index, opened = self._series.index[key], self._open[key]
        score = float(step.score[index])
        first = opened.anomaly
        began_outside = first.low is not None and first.high is not None and not first.low <= first.value <= first.high
        is_outside = bool(value < step.low[index] or value > step.high[index])
        if at_ms == first.start_ms or (is_outside if began_outside else score > 1.0):
            opened.quiet = 0
            opened.anomaly = replace(
                opened.anomaly,
                end_ms=max(opened.anomaly.end_ms, at_ms + FIVE_MINUTES_MS),
                score=max(opened.anomaly.score, score),
            )
            self._waiting[opened.anomaly.key] = opened.anomaly
        else:
            opened.quiet += 1
        if opened.quiet > QUIET_POINTS or at_ms - opened.anomaly.start_ms > STOPPED_MS:
            del self._open[key]


def sentence(of: str, value: float, low: float | None, high: float | None, unit: str) -> str:
    """Return what happened, for people."""
    scale = 100.0 if unit == "%" else 1.0
    text = f"{of} {_verb(of)} {quantity(value * scale, unit)}"
    if low is None or high is None:
        return f"{text}, unlike anything before."
    least = max(low, 0.0) if value >= 0 else low
    expected = f"{quantity(least * scale, unit)} to {quantity(high * scale, unit)}"
    if low <= value <= high:
        return f"{text}, within the expected {expected}, but not in this way: it moves as it has not before."
    return f"{text}; {expected} were expected."


def _verb(of: str) -> str:
    return "were" if of in ("Requests", "Errors") else "was"


def _number(value: float, default: float) -> float:
    return default if np.isnan(value) else float(value)
