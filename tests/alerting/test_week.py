"""A week of three services with a daily rhythm, as it happens, through the complete path: samples, rollups, detectors,
default rules, alerts. Two services have nothing wrong; the third has five incidents. ``make test`` lives through a day
with three of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.samples import NOW_MS, MovedClock, a_series
from vantage.alerting.evaluate import AlertEvaluator
from vantage.core.alert import Alert, State
from vantage.core.arrays import F64
from vantage.core.batch import Batch, build_batch
from vantage.core.sample import Kind
from vantage.core.series import Series
from vantage.core.turns import Turns
from vantage.query.anomaly_watch import AnomalyWatch
from vantage.query.context import QueryContext
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry

STEP_MS = 300_000
DAY = 288  # steps
WEEK = 7 * DAY
START_MS = NOW_MS // 86_400_000 * 86_400_000 - 14 * 86_400_000
DURATIONS = 40  # samples of durations in a step
AFTER = 24  # steps after an incident in which an alert is still its own


@dataclass(frozen=True)
class Incident:
    """``first`` and ``length`` in steps of the second week; ``change`` of the rate, the share of errors and the ms."""

    name: str
    first: int
    length: int
    change: Callable[[float, float, float], tuple[float, float, float]]
    rules: frozenset[str]


INCIDENTS = (
    Incident("errors at night", 1 * DAY + 36, 6, lambda rate, errors, ms: (rate, 0.3, ms),
             frozenset({"Unusually many requests fail"})),
    Incident("most requests fail", 2 * DAY + 150, 4, lambda rate, errors, ms: (rate, 0.8, ms),
             frozenset({"Most requests fail", "Unusually many requests fail"})),
    Incident("three times as slow", 3 * DAY + 140, 12, lambda rate, errors, ms: (rate, errors, 3 * ms),
             frozenset({"Unusually slow"})),
    Incident("a tenth of the requests", 4 * DAY + 160, 12, lambda rate, errors, ms: (rate / 10, errors, ms),
             frozenset({"Unusually few requests"})),
    Incident("an outage", 5 * DAY + 170, 8, lambda rate, errors, ms: (0.0, 0.0, ms),
             frozenset({"A service sends nothing", "Unusually few requests"})),
)  # fmt: skip


DAY_OF_THREE = tuple(replace(INCIDENTS[number], first=first) for number, first in ((0, 36), (2, 140), (4, 220)))


@dataclass(frozen=True)
class Figures:
    """What a service does in each step of a fortnight."""

    rate: F64  # requests a second
    errors: F64
    ms: F64


def figures(rng: np.random.Generator, *, level: float, incidents: Iterable[Incident] = ()) -> Figures:
    time = np.arange(2 * WEEK)
    day = np.sin((time % DAY) / DAY * 2 * np.pi - np.pi / 2)
    drift = np.cumsum(rng.normal(0, 0.004, 2 * WEEK))
    rate = level * np.exp(0.8 * day + rng.normal(0, 0.06, 2 * WEEK) + 0.1 * np.tanh(drift))
    errors = np.clip(rng.gamma(2.0, 0.003, 2 * WEEK), 0, 0.05)
    ms = 80 * np.exp(0.25 * day + rng.normal(0, 0.05, 2 * WEEK) + 0.1 * np.tanh(drift))
    for incident in incidents:
        for at in range(WEEK + incident.first, WEEK + incident.first + incident.length):
            rate[at], errors[at], ms[at] = incident.change(rate[at], errors[at], ms[at])
    return Figures(rate, errors, ms)


def step_rows(service: str, of: Figures, step: int, rng: np.random.Generator) -> list[tuple[Series, int, float]]:
    """Return the samples that a service sends in a step: a counter of requests by status, and durations."""
    count = round(of.rate[step] * STEP_MS / 1000)
    if not count:
        return []
    end_ms = START_MS + (step + 1) * STEP_MS
    failed = int(rng.binomial(count, of.errors[step]))
    rows = []
    for status, number in (("200", count - failed), ("500", failed)):
        for minute in range(5):  # a counter is sent more often than once in a window
            series = a_series(service, "http.requests", Kind.COUNTER, tags={"status": status})
            rows.append((series, end_ms - 60_000 * minute - 1000, number / 5))
    durations = a_series(service, "http.request.duration", Kind.HISTOGRAM, unit="ms")
    values = of.ms[step] * rng.lognormal(0, 0.5, DURATIONS)
    rows += [(durations, end_ms - 1000 - 7000 * n, float(round(v, 1))) for n, v in enumerate(values)]
    return rows


def plain_alerts(values: F64) -> list[int]:
    """Return the steps of the second week at which a plain rule begins to alert: above mean + 2 sigma of the seven
    days before."""
    alerts, before = [], False
    for at in range(WEEK, 2 * WEEK):
        history = values[at - WEEK : at]
        now = bool(values[at] > history.mean() + 2 * history.std())
        if now and not before:
            alerts.append(at - WEEK)
        before = now
    return alerts


def is_of(at: int, incident: Incident) -> bool:
    return incident.first <= at <= incident.first + incident.length + AFTER


def step_of(alert: Alert) -> int:
    assert alert.fired_ms is not None
    return (alert.fired_ms - START_MS) // STEP_MS - WEEK


async def lived(
    folder: Path, seed: int, *, days: int, incidents: tuple[Incident, ...]
) -> tuple[list[Alert], dict[str, Figures]]:
    """Return the alerts that fired in the second week, and what the services did."""
    rng = np.random.default_rng(seed)
    services = {
        "shop": figures(rng, level=20, incidents=incidents),
        "pay": figures(rng, level=6),
        "mail": figures(rng, level=1),
    }

    def batch(steps: Iterable[int]) -> Batch:
        rows = [row for step in steps for name, of in services.items() for row in step_rows(name, of, step, rng)]
        return build_batch(rows)

    clock, telemetry = MovedClock(START_MS + WEEK * STEP_MS), Telemetry()
    async with (
        EmbeddedStore(folder, clock=clock, telemetry=telemetry, synchronous="OFF") as store,
        MemoryMetadataStore(clock) as metadata,
    ):
        for day in range(7):
            await store.write(batch(range(day * DAY, (day + 1) * DAY)))
        context = QueryContext(store, metadata, clock, telemetry, cache_nbytes_max=8 << 20)
        watch = AnomalyWatch(context, metadata, turns=Turns())
        evaluator = AlertEvaluator(context, metadata, turns=Turns())
        await metadata.alerts.add_default_rules(evaluator.default_rules)
        for step in range(WEEK, WEEK + days * DAY):
            clock.now = START_MS + (step + 1) * STEP_MS
            written = batch([step])
            await store.write(written)
            context.on_written(written)
            clock.now += 61_000  # a bucket is judged a minute after its end
            await watch.advance()
            await evaluator.evaluate()
        alerts = await metadata.alerts.alerts(limit=10_000)
        return [alert for alert in alerts if alert.fired_ms is not None], services


def false_alerts(alerts: Iterable[Alert], incidents: Iterable[Incident]) -> list[str]:
    return [
        f"{alert.service}: {alert.rule} at {step_of(alert) / DAY:.2f} d"
        for alert in alerts
        if alert.service != "shop"
        or not any(is_of(step_of(alert), incident) and alert.rule in incident.rules for incident in incidents)
    ]


WEEKS = [pytest.param(seed, 7, INCIDENTS, marks=pytest.mark.long, id=f"week {seed}") for seed in (31, 32, 33)]


@pytest.mark.parametrize(("seed", "days", "incidents"), [pytest.param(30, 1, DAY_OF_THREE, id="day"), *WEEKS])
async def test_incidents_fire_and_nothing_else(
    tmp_path: Path, seed: int, days: int, incidents: tuple[Incident, ...]
) -> None:
    alerts, services = await lived(tmp_path / "data", seed, days=days, incidents=incidents)
    delays = {}
    for incident in incidents:
        of = [step_of(alert) for alert in alerts if alert.service == "shop" and is_of(step_of(alert), incident)
              and alert.rule in incident.rules]  # fmt: skip
        delays[incident.name] = min(of) - incident.first if of else None
    false = false_alerts(alerts, incidents)
    plain = {
        name: sum(
            at < days * DAY and not any(name == "shop" and is_of(at, incident) for incident in incidents)
            for values in (of.errors, of.ms)
            for at in plain_alerts(values)
        )
        for name, of in services.items()
    }
    print(f"seed {seed}: steps until each incident fired {delays}; false alerts {false}; of the plain rule {plain}")
    assert None not in delays.values(), delays
    assert max(delay or 0 for delay in delays.values()) <= 8  # of 5 minutes
    for service in services:
        assert sum(text.startswith(service) for text in false) <= (1 if days == 7 else 0), false
    assert sum(plain.values()) > 5 * days
    assert {alert.state for alert in alerts} <= {State.RESOLVED}
