"""Runs detectors of one's own: each on the points of the last 14 days, once an hour, in a process of its own.

A detector counts when its alarms on that history are few: those of the newest hours are then stored as anomalies. What
fails, takes too long or alarms too often is refused, with the reason, until its next run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from vantage.analysis.anomaly import SILENT_POINTS
from vantage.analysis.user_detectors import decode_scores, encode
from vantage.core.anomaly import Anomaly
from vantage.core.arrays import F64, I64
from vantage.core.number_format import quantity
from vantage.core.printable import printable
from vantage.core.rollup import FIVE_MINUTES_MS
from vantage.core.timerange import TimeRange
from vantage.query.anomaly_points import UNITS, MetricUnit, SeriesKey, read_points
from vantage.query.anomaly_watch import GRACE_MS, HISTORY_MS, RETENTION_MS, SLICE_MS, AnomalyWatch, WatchStatus
from vantage.query.context import QueryContext
from vantage.storage.metadata.ports import MetadataStore

FILES_MAX: Final = 8
SERIES_MAX: Final = 200
EVERY_S: Final = 3600.0
TIMEOUT_S: Final = 60.0
NEW_MS: Final = 2 * 3_600_000  # alarms of which are stored: of the run before, and those since
RATE_MAX: Final = 0.5  # alarms a series-day on history, beyond which a detector is refused
ERROR_LENGTH_MAX: Final = 300
_log = structlog.get_logger("vantage.query.detectors")


@dataclass(frozen=True, slots=True)
class DetectorState:
    """``name`` is that of its file. ``refused`` says why it does not count, '' when it does; ``rate`` is its alarms a
    series-day on history, None when it failed."""

    name: str
    refused: str
    rate: float | None = None
    at_ms: int = 0


class DetectorRuns:
    """Runs the files ``*.py`` of a folder, the first FILES_MAX by name. ``states`` are those of the latest runs."""

    name = "detectors"

    def __init__(self, context: QueryContext, metadata: MetadataStore, folder: Path) -> None:
        self._context = replace(context, cache_nbytes_max=0)
        self._metadata = metadata
        self._folder = folder
        self.states: tuple[DetectorState, ...] = ()

    async def run(self) -> None:
        """Run all once an hour until cancelled. Raises what the store raises."""
        while True:
            await self.run_all()
            await self._context.clock.sleep(EVERY_S)

    async def run_all(self) -> None:
        """Run each detector on the history, and store what those that count have noticed. Raises VantageError."""
        files = await asyncio.to_thread(lambda: sorted(self._folder.glob("*.py"))[:FILES_MAX])
        if not files:
            self.states = ()
            return
        keys, units, time_ms, values = await self._history()
        if not len(time_ms):
            return
        states = []
        for path in files:
            state, scores = await self._judge(path, time_ms, values)
            states.append(state)
            if scores is not None and not state.refused:
                noticed = _newest(path.stem, keys, units, time_ms, values, scores)
                since_ms = int(time_ms[-1]) - RETENTION_MS
                await self._metadata.record_anomalies(noticed, since_ms=since_ms)
        self.states = tuple(states)

    async def _history(self) -> tuple[list[SeriesKey], dict[str, MetricUnit], I64, F64]:
        infos = await self._context.store.services()
        services = {info.service: info.first_ms for info in infos}
        end_ms = (self._context.present().now_ms - GRACE_MS) // FIVE_MINUTES_MS * FIVE_MINUTES_MS
        start_ms = max(min(services.values(), default=end_ms), end_ms - HISTORY_MS) // FIVE_MINUTES_MS * FIVE_MINUTES_MS
        time_ms = np.arange(start_ms, end_ms, FIVE_MINUTES_MS)
        rows: dict[SeriesKey, F64] = {}
        units: dict[str, MetricUnit] = {}
        for first_ms in range(start_ms, end_ms, SLICE_MS):
            part = TimeRange(first_ms, min(first_ms + SLICE_MS, end_ms))
            points, of_metrics = await read_points(self._context, part, services=services)
            units |= of_metrics
            at = (first_ms - start_ms) // FIVE_MINUTES_MS
            for key, values in points.items():
                if key not in rows and len(rows) < SERIES_MAX:
                    rows[key] = np.full(len(time_ms), np.nan)
                if key in rows:
                    rows[key][at : at + len(values)] = values
        return list(rows), units, time_ms, np.array(list(rows.values())).reshape(len(rows), len(time_ms))

    async def _judge(self, path: Path, time_ms: I64, values: F64) -> tuple[DetectorState, F64 | None]:
        scores, problem = await run_detector(path, time_ms, values)
        at_ms = int(time_ms[-1])
        if scores is None:
            _log.warning("detector refused", file=path.name, reason=problem)
            return DetectorState(path.stem, problem, None, at_ms), None
        alarms = sum(len(_alarms(row)) for row in scores)
        rate = alarms / max(1.0, float(np.isfinite(values).sum()) * FIVE_MINUTES_MS / 86_400_000)
        refused = ""
        if rate > RATE_MAX:
            refused = f"it raised {rate:.2f} alarms a series-day on the last 14 days; {RATE_MAX} is the most"
        return DetectorState(path.stem, refused, rate, at_ms), scores


@dataclass(frozen=True, slots=True)
class Watched:
    """What this process watches and runs; None where other processes do, or none."""

    watch: AnomalyWatch | None = None
    runs: DetectorRuns | None = None

    @property
    def status(self) -> WatchStatus | None:
        return self.watch.status if self.watch is not None else None

    @property
    def detectors(self) -> tuple[DetectorState, ...]:
        return self.runs.states if self.runs is not None else ()


async def run_detector(path: Path, time_ms: I64, values: F64) -> tuple[F64 | None, str]:
    """Return the scores of a file's detector by series and point, or None and what is wrong with it."""
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "vantage.analysis.user_detectors",
        str(path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        body = await asyncio.to_thread(encode, time_ms, values)
        answer, errors = await asyncio.wait_for(_exchange(process, body, values.nbytes), TIMEOUT_S)
    except TimeoutError:
        return None, f"it took longer than {TIMEOUT_S:g} seconds"
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        reason = printable(lines[-1])[:ERROR_LENGTH_MAX] if lines else f"it ended with {process.returncode}"
        return None, reason
    scores = decode_scores(answer, (values.shape[0], values.shape[1]))
    return (scores, "") if scores is not None else (None, "it wrote something else than scores")


async def _exchange(process: asyncio.subprocess.Process, body: bytes, nbytes: int) -> tuple[bytes, bytes]:
    """Send the points, and return what comes back: of scores as many bytes as there are, of errors the last ones."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None

    async def send(stream: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            stream.write(body)
            await stream.drain()
            stream.close()

    async def receive(stream: asyncio.StreamReader, most: int) -> bytes:
        received = b""
        while part := await stream.read(1 << 16):
            received = (received + part)[-most:]
        return received

    _, answer, errors = await asyncio.gather(
        send(process.stdin), receive(process.stdout, nbytes + 8), receive(process.stderr, 1 << 14)
    )
    await process.wait()
    return answer, errors


def _alarms(scores: F64) -> list[int]:
    """Return the points of alarms: the first above 1, then none for SILENT_POINTS."""
    alarms: list[int] = []
    for point in np.flatnonzero(scores > 1.0).tolist():
        if not alarms or point - alarms[-1] > SILENT_POINTS:
            alarms.append(point)
    return alarms


def _newest(
    name: str, keys: Sequence[SeriesKey], units: Mapping[str, MetricUnit], time_ms: I64, values: F64, scores: F64
) -> list[Anomaly]:
    anomalies = []
    for key, row, of in zip(keys, values, scores, strict=True):
        unit = UNITS.get(key.figure, units.get(key.metric, MetricUnit()).unit)
        for point in _alarms(of):
            at_ms, value = int(time_ms[point]), float(row[point])
            if at_ms < time_ms[-1] - NEW_MS or not np.isfinite(value):
                continue
            shown = quantity(value * (100.0 if unit == "%" else 1.0), unit)
            score = float(min(of[point], 1e12))
            anomalies.append(
                Anomaly(
                    key.service, key.figure, key.metric, at_ms, at_ms + FIVE_MINUTES_MS, score, value, None, None, None,
                    name, unit, f"{key.metric or key.figure} was {shown}: unusual by the detector {name}.",
                    {"score": score, "kind": units.get(key.metric, MetricUnit()).kind},
                )
            )  # fmt: skip
    return anomalies
