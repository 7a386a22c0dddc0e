"""Anomalies: labelled series scored as the Numenta Anomaly Benchmark does, stationary noise, and what a detector costs.

The score is that of A. Lavin, S. Ahmad: Evaluating real-time anomaly detection algorithms (2015). The labelled series
are not part of this project: a folder with their CSV files (``timestamp,value``) and a ``windows.json`` with the
labelled windows of each file is named by BENCH_ANOMALIES.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, get_args

import numpy as np

from benchmarks.targets import Target, print_targets
from vantage.analysis.anomaly import SILENT_POINTS, Mode, new_detector
from vantage.core.arrays import F64, I64

FOLDER: Final = "BENCH_ANOMALIES"
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
STEP_MS: Final = 300_000
DAY: Final = 288
WEEK: Final = 7 * DAY
# Of a true positive, a false positive and a missed window.
PROFILES: Final = {"standard": (1.0, 0.11, 1.0), "low FP": (1.0, 0.22, 1.0), "low FN": (1.0, 0.11, 2.0)}
WARM_UP: Final = 0.15  # of a file is not scored, of 5000 points at most
PHIS: Final = (0.0, 0.5, 0.9, 0.99, 0.999)
BOOTSTRAPS: Final = 2000
GAUSSIAN_WINDOW: Final = 2016
Alarms = list[list[int]]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A series and its labelled windows: first and last point."""

    name: str
    time_ms: I64
    value: F64
    windows: tuple[tuple[int, int], ...]

    @property
    def warm_up(self) -> int:
        return int(min(math.floor(WARM_UP * len(self.value)), WARM_UP * 5000))


def load(folder: Path) -> list[Labelled]:
    """Return the labelled series of a folder, by name."""
    series = []
    for name, windows in sorted(json.loads((folder / "windows.json").read_text()).items()):
        with (folder / Path(name).name).open(newline="") as file:
            rows = list(csv.reader(file))[1:]
        at = np.array([_moment_ms(row[0]) for row in rows], np.int64)
        spans = tuple(
            (
                int(np.searchsorted(at, _moment_ms(first))),
                int(np.searchsorted(at, _moment_ms(last), side="right")) - 1,
            )
            for first, last in windows
        )
        series.append(Labelled(Path(name).stem, at, np.array([float(row[1]) for row in rows]), spans))
    return series


def _moment_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def sigmoid(position: float) -> float:
    """Return the value of a detection: -1 is the first point of a window, 0 its last, and beyond it falls to -1."""
    return -1.0 if position > 3 else 2 / (1 + math.exp(5 * position)) - 1


def raw_score(series: Labelled, alarms: Sequence[int], profile: str) -> float:
    """Return the score of a file: of each window the first alarm, and every alarm outside; earlier ones count more."""
    hit, false, missed = PROFILES[profile]
    score, hits = 0.0, set[tuple[int, int]]()
    for at in alarms:
        if at < series.warm_up:
            continue
        window = next((window for window in series.windows if window[0] <= at <= window[1]), None)
        if window is not None:
            if window not in hits:
                hits.add(window)
                length = window[1] - window[0] + 1
                score += hit * sigmoid(-(window[1] - at + 1) / length) / sigmoid(-1.0)
            continue
        before = [window for window in series.windows if window[1] < at]
        score += false * (sigmoid((at - before[-1][1]) / (before[-1][1] - before[-1][0])) if before else -1.0)
    return score - missed * (len(series.windows) - len(hits))


def nab_score(data: Sequence[Labelled], alarms: Alarms, profile: str) -> float:
    """Return the score: 100 is perfect, 0 that of no alarm at all."""
    return _normalised(*_parts(data, alarms, profile), profile)


def _parts(data: Sequence[Labelled], alarms: Alarms, profile: str) -> tuple[F64, F64]:
    raw = np.array([raw_score(series, of, profile) for series, of in zip(data, alarms, strict=True)])
    return raw, np.array([len(series.windows) for series in data], np.float64)


def _normalised(raw: F64, windows: F64, profile: str) -> float:
    hit, _, missed = PROFILES[profile]
    count = float(windows.sum())
    return 100 * (float(raw.sum()) + missed * count) / ((hit + missed) * count) if count else 0.0


def spread(data: Sequence[Labelled], alarms: Alarms) -> float:
    """Return the standard deviation of the standard score over files drawn again, with replacement."""
    rng = np.random.default_rng(1)
    raw, windows = _parts(data, alarms, "standard")
    draws = [rng.integers(0, len(data), len(data)) for _ in range(BOOTSTRAPS)]
    return float(np.std([_normalised(raw[draw], windows[draw], "standard") for draw in draws]))


def false_alarms_a_day(data: Sequence[Labelled], alarms: Alarms) -> float:
    """Return the alarms outside of windows and after the warm-up, a series-day of 288 points."""
    false = sum(
        at >= series.warm_up and not any(first <= at <= last for first, last in series.windows)
        for series, of in zip(data, alarms, strict=True)
        for at in of
    )
    return false / (sum(len(series.value) - series.warm_up for series in data) / DAY)


def detect(data: Sequence[Labelled], mode: Mode) -> Alarms:
    """Return the alarms of a mode with its default settings, a list for each series; all series advance together."""
    detector = new_detector(mode, len(data))
    alarms: Alarms = [[] for _ in data]
    for point in range(max(len(series.value) for series in data)):
        here = [point < len(series.value) for series in data]
        at = np.array([series.time_ms[point] if has else 0 for series, has in zip(data, here, strict=True)], np.int64)
        value = np.array([series.value[point] if has else np.nan for series, has in zip(data, here, strict=True)])
        for index in np.flatnonzero(detector.step(at, value).alarm).tolist():
            alarms[index].append(point)
    return alarms


def clock(data: Sequence[Labelled]) -> Alarms:
    """Return an alarm every 5 % of a file: what anybody can score without reading it."""
    return [list(range(0, len(series.value), max(1, len(series.value) // 20))) for series in data]


def windowed_gaussian(data: Sequence[Labelled]) -> Alarms:
    """Return alarms beyond four standard deviations of the mean of the window before, with the same silence."""
    alarms: Alarms = []
    for series in data:
        of: list[int] = []
        for point in range(DAY, len(series.value)):
            window = series.value[max(0, point - GAUSSIAN_WINDOW) : point]
            is_far = abs(series.value[point] - window.mean()) > 4 * max(window.std(), 1e-12)
            if is_far and (not of or point - of[-1] > SILENT_POINTS):
                of.append(point)
        alarms.append(of)
    return alarms


def noise_rates(mode: Mode, *, series: int, seed: int) -> dict[float, float]:
    """Return false alarms a series-day after a week, in three weeks of stationary first-order autoregressive noise."""
    rates = {}
    for phi in PHIS:
        rng = np.random.default_rng(seed)
        value = rng.normal(size=series) / np.sqrt(1 - phi * phi)
        detector = new_detector(mode, series)
        count = 0
        for point in range(3 * WEEK):
            value = phi * value + rng.normal(size=series)
            alarm = detector.step(np.full(series, point * STEP_MS), value).alarm
            count += int(alarm.sum()) if point >= WEEK else 0
        rates[phi] = count / (series * 14)
    return rates


def cost(mode: Mode, series: int, steps: int) -> tuple[float, float]:
    """Return the processor time in seconds of an update of so many series by a point, and bytes a series."""
    detector = new_detector(mode, series)
    rng = np.random.default_rng(2)
    for point in range(30):
        detector.step(np.full(series, point * STEP_MS), rng.normal(size=series))
    values = rng.normal(size=(steps, series))
    began_s = time.process_time()
    for point, value in enumerate(values):
        detector.step(np.full(series, (30 + point) * STEP_MS), value)
    return (time.process_time() - began_s) / steps, detector.nbytes / series


def bench_anomalies(*, quick: bool) -> None:
    """Print scores, rates of false alarms, costs and the targets."""
    targets: list[Target] = []
    _print_scores(targets)
    series = 8 if quick else 40
    print(
        "\n| false alarms a series-day on stationary noise, after a week |", *(f" φ = {phi} |" for phi in PHIS), sep=""
    )
    print("| --- |", " --- |" * len(PHIS), sep="")
    for mode in MODES:
        rates = noise_rates(mode, series=series, seed=7)
        print(f"| {mode} |", *(f" {rate:.2f} |" for rate in rates.values()), sep="")
        if mode == "seasonal":
            targets.append(
                Target(23, "false alarms a series-day on noise, the worst φ", max(rates.values()), 0.2, None, "")
            )
    print("\n| | 1000 series, a point: ms of a processor | µs a point of a series | bytes a series |")
    print("| --- | --- | --- | --- |")
    for mode in MODES:
        seconds, nbytes = cost(mode, 1000, 24 if quick else 288)
        print(f"| {mode} | {seconds * 1000:.1f} | {seconds * 1000:.1f} | {nbytes:.0f} |")
        if mode == "seasonal":
            targets.append(Target(24, "an update of 1000 series", seconds, 2.0, None, "s"))
    print_targets(targets)


def _print_scores(targets: list[Target]) -> None:
    folder = os.environ.get(FOLDER, "")
    if not folder or not (Path(folder) / "windows.json").is_file():
        print(f"Labelled series are not scored: {FOLDER} names no folder with windows.json and its CSV files.")
        return
    data = load(Path(folder))
    subjects: list[tuple[str, Callable[[], Alarms]]] = [
        (f"Vantage, {mode}", lambda mode=mode: detect(data, mode)) for mode in MODES
    ]
    subjects += [("an alarm every 5 % of the file", lambda: clock(data))]
    subjects += [("windowed Gaussian, 4σ, the same silence", lambda: windowed_gaussian(data))]
    print(f"| {len(data)} labelled series | standard | ± | low FP | low FN | false alarms a series-day |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, run in subjects:
        alarms = run()
        scores = {profile: nab_score(data, alarms, profile) for profile in PROFILES}
        rate = false_alarms_a_day(data, alarms)
        print(
            f"| {name} | {scores['standard']:.1f} | {spread(data, alarms):.1f} | {scores['low FP']:.1f} "
            f"| {scores['low FN']:.1f} | {rate:.2f} |"
        )
        if name == "Vantage, seasonal":
            targets.append(Target(21, "standard score", scores["standard"], 70, 77, "", at_least=True))
            targets.append(Target(21, "low-FP score", scores["low FP"], 60, 70, "", at_least=True))
            targets.append(Target(22, "false alarms a series-day", rate, 0.3, 0.15, ""))
