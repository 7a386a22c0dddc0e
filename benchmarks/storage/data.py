"""The data: 1000 series of 20 services, made anew and alike by every process from a seed, in the order of time.

The density is constant, one sample a series every 10 seconds, and the time span grows with the count: 10 million are
27.8 hours. Gauges and counters come on a beat of their own with a jitter of 50 ms, durations whenever a request ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final, Self

import numpy as np

from vantage.core.arrays import F64, I64, U32
from vantage.core.sample import Kind
from vantage.core.series import Series, make_series

SERVICES: Final = 20
COMBINATIONS: Final = 10
ROUTES: Final = ("/api/users", "/api/orders", "/api/orders/{id}", "/api/search", "/checkout")
METHODS: Final = ("GET", "GET", "GET", "GET", "POST")
DURATION, REQUESTS, CPU, MEMORY, QUEUE = METRICS = (
    "http.request.duration",
    "http.requests",
    "cpu.utilization",
    "memory.rss",
    "queue.depth",
)
SERIES: Final = SERVICES * COMBINATIONS * len(METRICS)
BATCH_SAMPLES: Final = 10_000
WINDOW_MS: Final = 1_000_000
WINDOW_SAMPLES: Final = SERIES * 100
BEAT_MS: Final = 10_000
JITTER_MS: Final = 50
TRACE_SAMPLES: Final = 4  # of one trace
PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """Which data: ``samples`` (in whole windows), those ending at ``end_ms``, a share of them ``traced``."""

    samples: int
    end_ms: int
    traced: float = 0.05
    seed: int = 1

    @property
    def windows(self) -> int:
        return self.samples // WINDOW_SAMPLES

    @property
    def start_ms(self) -> int:
        return self.end_ms - self.windows * WINDOW_MS

    def json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Self:
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Columns:
    """Samples in the order of time. ``linked[i]`` is the row of the i-th sample that is part of a trace."""

    index: U32
    time_ms: I64
    value: F64
    linked: I64
    trace_id: list[str]
    span_id: list[str]

    def __len__(self) -> int:
        return len(self.index)

    def batches(self) -> Iterator[Columns]:
        for start in range(0, len(self), BATCH_SAMPLES):
            rows = slice(start, start + BATCH_SAMPLES)
            low, high = np.searchsorted(self.linked, (start, start + BATCH_SAMPLES)).tolist()
            yield Columns(
                self.index[rows],
                self.time_ms[rows],
                self.value[rows],
                self.linked[low:high] - start,
                self.trace_id[low:high],
                self.span_id[low:high],
            )

    def links(self) -> Iterator[tuple[str, str]]:
        """Trace id and span id of each row, empty where there is none."""
        traces, spans = [""] * len(self), [""] * len(self)
        for row, trace_id, span_id in zip(self.linked.tolist(), self.trace_id, self.span_id, strict=True):
            traces[row], spans[row] = trace_id, span_id
        return zip(traces, spans, strict=True)


def all_series() -> tuple[Series, ...]:
    """The 1000 series: service by service, metric by metric."""
    return tuple(
        _series(service, metric, combination)
        for service in range(SERVICES)
        for metric in METRICS
        for combination in range(COMBINATIONS)
    )


def _series(service: int, metric: str, combination: int) -> Series:
    name = f"service-{service:02d}"
    tags = {"pod": f"{name}-{combination}"}
    if metric in (DURATION, REQUESTS):
        route = combination % len(ROUTES)
        tags |= {"route": ROUTES[route], "method": METHODS[route]}
    kind = {DURATION: Kind.HISTOGRAM, REQUESTS: Kind.COUNTER}.get(metric, Kind.GAUGE)
    unit = {DURATION: "ms", CPU: "%", MEMORY: "By"}.get(metric, "")
    return make_series(service=name, environment="production", metric=metric, kind=kind, unit=unit, tags=tags)


def windows(plan: Plan) -> Iterator[Columns]:
    """All of the plan's data, 1000 seconds at a time."""
    walks = _Walks(plan.seed)
    for number in range(plan.windows):
        yield _window(plan, number, walks)


def _window(plan: Plan, number: int, walks: _Walks) -> Columns:
    random = np.random.default_rng((plan.seed, number))
    per_series = WINDOW_SAMPLES // SERIES
    values = np.empty((SERVICES, len(METRICS), COMBINATIONS, per_series))
    times = np.empty((SERVICES, len(METRICS), COMBINATIONS, per_series), np.int64)
    shape = (SERVICES, COMBINATIONS, per_series)
    values[:, 0] = np.round(walks.typical_ms * random.lognormal(0, 0.6, shape), 2)
    values[:, 1] = random.poisson(walks.requests, shape)
    values[:, 2] = walks.cpu(random, shape)
    values[:, 3] = walks.memory(random, shape)
    values[:, 4] = random.poisson(walks.queued, shape)
    times[:, 1:] = np.arange(per_series) * BEAT_MS + walks.phase_ms
    times[:, 1:] += random.integers(-JITTER_MS, JITTER_MS + 1, (SERVICES, len(METRICS) - 1, COMBINATIONS, per_series))
    # Sorted, and then set apart by a millisecond: one series has no two samples at once, which Prometheus would refuse.
    times[:, 0] = np.sort(random.integers(0, WINDOW_MS - per_series, shape)) + np.arange(per_series)
    at_ms = times.ravel()
    order = np.argsort(at_ms, kind="stable")
    index = np.repeat(np.arange(SERIES, dtype=np.uint32), per_series)[order]
    start_ms = plan.start_ms + number * WINDOW_MS
    return Columns(index, at_ms[order] + start_ms, values.ravel()[order], *_links(plan, number))


def _links(plan: Plan, number: int) -> tuple[I64, list[str], list[str]]:
    """A random choice of rows; as many neighbours among them as TRACE_SAMPLES are one trace."""
    random = np.random.default_rng((plan.seed, number, 1))
    linked = np.flatnonzero(random.random(WINDOW_SAMPLES) < plan.traced)
    traces = -(-len(linked) // TRACE_SAMPLES)
    trace_ids = _hex(random.bytes(16 * traces), 32)
    return (
        linked,
        [trace_id for trace_id in trace_ids for _ in range(TRACE_SAMPLES)][: len(linked)],
        _hex(random.bytes(8 * len(linked)), 16),
    )


def _hex(data: bytes, length: int) -> list[str]:
    text = data.hex()
    return [text[i : i + length] for i in range(0, len(text), length)]


class _Walks:
    """What carries over from one window to the next: where each random walk stands, and each series' character."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng((seed, 0, 0))
        each = (SERVICES, COMBINATIONS, 1)
        self.typical_ms = random.uniform(10, 200, each)
        self.requests = random.uniform(1, 12, each)
        self.queued = random.uniform(0.2, 5, each)
        self.phase_ms = random.integers(JITTER_MS, BEAT_MS - JITTER_MS, (SERVICES, 1, COMBINATIONS, 1))
        self._cpu = random.uniform(5, 95, each)
        self._pages = random.integers(20_000, 120_000, each)

    def cpu(self, random: np.random.Generator, shape: tuple[int, ...]) -> F64:
        walk = self._cpu + np.cumsum(random.normal(0, 0.7, shape), axis=-1)
        self._cpu = walk[..., -1:]
        return np.round(100 - np.abs(walk % 200 - 100), 1)  # thrown back at 0 and at 100

    def memory(self, random: np.random.Generator, shape: tuple[int, ...]) -> F64:
        steps = np.where(random.random(shape) < 0.5, 0, random.normal(0, 60, shape)).astype(np.int64)
        walk = self._pages + np.cumsum(steps, axis=-1)
        self._pages = walk[..., -1:]
        return ((150_000 - np.abs(walk % 300_000 - 150_000)) * PAGE).astype(np.float64)


def trace_ids(plan: Plan, count: int) -> list[str]:
    """Some of the traces, spread evenly over the time."""
    numbers = np.linspace(0, plan.windows - 1, count).astype(int).tolist()
    return [_links(plan, number)[1][TRACE_SAMPLES * i] for i, number in enumerate(numbers)]
