"""Detectors of one's own: they run apart, are judged on history, and no fault of theirs is the server's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.query.test_anomalies import END_MS, STEP_MS, calm, context, write
from vantage.query import detector_runs
from vantage.query.anomalies import list_anomalies
from vantage.query.context import QueryContext
from vantage.query.detector_runs import DetectorRuns

__all__ = ["context"]
GOOD = """
from vantage.analysis.user_detectors import detector
import numpy as np

@detector
def high(time_ms, values):
    print("what it prints is no score")
    return values / 200
"""


async def run(context: QueryContext, folder: Path, **files: str) -> DetectorRuns:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    runs = DetectorRuns(context, context.metadata, folder)  # type: ignore[arg-type]
    await runs.run_all()
    return runs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "detectors"
    path.mkdir()
    return path


async def test_one_that_alarms_seldom_counts_and_its_alarms_are_stored(context: QueryContext, folder: Path) -> None:
    values = calm()
    values[500], values[-5] = 900, 400
    await write(context, "shop", "queue.depth", values, unit="jobs")
    runs = await run(context, folder, high=GOOD)
    (state,) = runs.states
    assert (state.name, state.refused) == ("high", "")
    assert state.rate == pytest.approx(0.5, abs=0.01)
    (anomaly,) = await list_anomalies(context)  # that of days ago is history
    assert (anomaly.mode, anomaly.value, anomaly.score) == ("high", 400, 2.0)
    assert anomaly.start_ms == END_MS - 5 * STEP_MS
    await runs.run_all()
    assert len(await list_anomalies(context)) == 1


FAULTS = {
    "no_function": ("x = 1", "no function detect"),
    "syntax": ("def detect(", "SyntaxError"),
    "raises": ("def detect(t, v): raise ValueError('<b>no</b>')", "ValueError: <b>no</b>"),
    "shape": ("def detect(t, v): return v[1:]", "shape"),
    "not_numbers": ("def detect(t, v): return ['a'] * len(v)", "ValueError"),
    "ends": ("import os\ndef detect(t, v): os._exit(0)", "something else than scores"),
    "crashes": ("import os, signal\ndef detect(t, v): os.kill(os.getpid(), signal.SIGSEGV)", "ended with -11"),
    "memory": ("def detect(t, v): return bytearray(4 << 30)", "MemoryError"),
    "too_often": ("def detect(t, v): return v * 0 + 2", "alarms a series-day"),
    "writes": ("import os\ndef detect(t, v):\n os.write(1, b'x' * 999)\n return v * 0 + 2", "alarms a series-day"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_one_that_fails_or_alarms_often_is_refused_with_the_reason(
    context: QueryContext, folder: Path, fault: str
) -> None:
    text, reason = FAULTS[fault]
    await write(context, "shop", "queue.depth", calm())
    runs = await run(context, folder, **{fault: text})
    (state,) = runs.states
    assert reason in state.refused
    assert await list_anomalies(context) == []


async def test_one_that_does_not_end_is_ended(
    context: QueryContext, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector_runs, "TIMEOUT_S", 0.5)
    await write(context, "shop", "queue.depth", calm(50))
    runs = await run(context, folder, sleeps="import time\ndef detect(t, v): time.sleep(999)")
    assert "longer than 0.5 seconds" in runs.states[0].refused


async def test_gaps_are_nan_and_other_files_go_on(context: QueryContext, folder: Path) -> None:
    values = calm(300)
    values[10:20] = np.nan
    await write(context, "shop", "queue.depth", values)
    text = "import numpy as np\ndef detect(t, v):\n assert np.isnan(v).sum() == 10\n return v * 0"
    runs = await run(context, folder, a_broken="raise SystemExit(3)", gaps=text)
    assert [(state.name, bool(state.refused)) for state in runs.states] == [("a_broken", True), ("gaps", False)]


async def test_without_files_or_data_nothing_runs(context: QueryContext, folder: Path) -> None:
    assert (await run(context, folder)).states == ()
    assert (await run(context, folder, high=GOOD)).states == ()
    assert (await run(context, folder / "not there")).states == ()
