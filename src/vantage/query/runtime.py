"""How the processes of a service do: the figures that the agent sends of each, by instance and worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vantage.core.errors import InputError
from vantage.core.timerange import TimeRange, auto_step_ms
from vantage.query.context import QueryContext
from vantage.query.timeseries import timeseries
from vantage.query.timeseries_query import TimeseriesQuery

POINTS: Final = 60
STEP_MS_MIN: Final = 30_000  # two reports of the agent
PROCESSES_MAX: Final = 20
_KEYS: Final = ("instance", "worker")


@dataclass(frozen=True, slots=True)
class RuntimeMetric:
    """A metric of processes, its name for people, and how its samples of a bucket become one value."""

    name: str
    label: str
    agg: str


METRICS: Final = (
    RuntimeMetric("process.cpu.percent", "CPU", "avg"),
    RuntimeMetric("process.memory.rss", "Memory", "avg"),
    RuntimeMetric("process.threads", "Threads", "avg"),
    RuntimeMetric("process.open_files", "Files", "avg"),
    RuntimeMetric("process.gc.pause", "GC pause", "max"),
    RuntimeMetric("process.event_loop.lag", "Loop lag", "max"),
)


@dataclass(frozen=True, slots=True)
class Process:
    """A process by its instance and the number of its worker, '' where it has none. ``points`` are the values of each
    metric by name, None for a bucket without."""

    instance: str
    worker: str
    points: Mapping[str, tuple[float | None, ...]]

    def latest(self, name: str) -> float | None:
        """Return the newest value of a metric."""
        return next((value for value in reversed(self.points.get(name, ())) if value is not None), None)

    def largest(self, name: str) -> float | None:
        """Return the largest value of a metric."""
        return max((value for value in self.points.get(name, ()) if value is not None), default=None)


@dataclass(frozen=True, slots=True)
class Runtime:
    """``metrics`` are those that there are, with their units; ``processes`` by instance and worker, the rest of more
    than PROCESSES_MAX are ``omitted``."""

    metrics: tuple[tuple[RuntimeMetric, str], ...]
    processes: tuple[Process, ...]
    omitted: int


async def read_runtime(context: QueryContext, time_range: TimeRange, *, service: str) -> Runtime:
    """Return the figures of the processes in a range. Raises what the store raises."""
    known = {info.series.metric for info in await context.store.list_series(service=service)}
    step_ms = max(STEP_MS_MIN, auto_step_ms(time_range, points=POINTS))
    metrics: list[tuple[RuntimeMetric, str]] = []
    points: dict[tuple[str, str], dict[str, tuple[float | None, ...]]] = {}
    for metric in METRICS:
        if metric.name not in known:
            continue
        query = TimeseriesQuery(service, metric.name, time_range, metric.agg, step_ms, group_by=_KEYS)
        try:
            result = await timeseries(context, query)
        except InputError:  # too many samples for so long a range: the others are shown
            continue
        if result.groups:
            metrics.append((metric, result.unit))
        for group in result.groups:
            key = (group.tags.get("instance", ""), group.tags.get("worker", ""))
            points.setdefault(key, {})[metric.name] = tuple(group.points)
    ordered = sorted(points, key=lambda key: (key[0], len(key[1]), key[1]))
    processes = tuple(Process(*key, points[key]) for key in ordered[:PROCESSES_MAX])
    return Runtime(tuple(metrics), processes, max(0, len(ordered) - PROCESSES_MAX))
