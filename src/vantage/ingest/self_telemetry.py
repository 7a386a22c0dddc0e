"""Telemetry of Vantage itself, through the sink of its own role: exempt from keys and rates, capped, and dropped
first."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import psutil
import structlog

from vantage.core.batch import build_batch
from vantage.core.clock import Clock
from vantage.core.errors import VantageError
from vantage.core.sample import Kind
from vantage.core.series import Series, make_series
from vantage.recent_errors import RecentError
from vantage.stream.ports import Sink
from vantage.telemetry import Telemetry

SERVICE: Final = "vantage"
INTERVAL_S: Final = 15.0
FIRST_AFTER_S: Final = 1.0
SAMPLES_MAX: Final = 200
TEXTS_MAX: Final = 100  # of errors, each of which is a series
_LAG_PROBE_S: Final = 0.5
_log = structlog.get_logger("vantage.self")


def instance_name(port: int, *, sibling: int | None = None) -> str:
    """Return the name of this process among all that report: no two have it at a time, and it survives a restart. Where
    the port is any free one, it is only known later, and another one next time: the process id takes its place.
    ``sibling`` is the number of one of several processes that share the port."""
    name = f"{socket.gethostname()}:{port}" if port else f"{socket.gethostname()}-{os.getpid()}"
    return name if sibling is None else f"{name}-{sibling}"


class RouteCounts(Protocol):
    """Requests of one route since the last measurement."""

    count: int
    durations_ms: list[float]


class SelfTelemetry:
    """Publishes CPU, memory, event-loop lag, commit latency, ingest rate, queue depth and requests by route, every 15
    seconds; with a ``broker`` also what it publishes, and for a worker, which has ``failing``, what it consumes."""

    name = "self telemetry"

    def __init__(
        self,
        sink: Sink,
        *,
        clock: Clock,
        telemetry: Telemetry,
        requests: Callable[[], Mapping[tuple[str, str, int], RouteCounts]],
        queued_nbytes: Callable[[], int],
        broker: bool,
        failing: Callable[[], str] | None,
        role: str,
        version: str,
        instance: str,
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._telemetry = telemetry
        self._requests = requests
        self._queued_nbytes = queued_nbytes
        self._broker = broker
        self._failing = failing
        self._names = {"environment": role, "service_version": version, "instance": instance}
        self._series: dict[tuple[str, ...], Series] = {}
        self._process = psutil.Process(os.getpid())
        self._errors: Sequence[RecentError] = ()  # of the last round
        self._texts: set[str] = set()
        self._lag_ms_max = 0.0
        self._before = self._counts()
        self._measured_s = clock.monotonic_s()

    async def run(self) -> None:
        """Measure and publish until cancelled. A sink that is busy or unavailable costs one round of samples."""
        self._process.cpu_percent()
        await asyncio.gather(self._watch_lag(), self._publish())

    async def _publish(self) -> None:
        await self._clock.sleep(FIRST_AFTER_S)
        while True:
            rows = self.measure()
            try:
                await self._sink.publish(build_batch(rows[:SAMPLES_MAX]))
                self._telemetry.lost.labels("self_telemetry_capped").inc(max(0, len(rows) - SAMPLES_MAX))
            except VantageError as error:
                self._telemetry.lost.labels("self_telemetry_refused").inc(len(rows))
                self._telemetry.errors.give_back(self._errors)
                self._telemetry.errors.note("self telemetry", str(error))
                _log.debug("self telemetry dropped", reason=str(error))
            await self._clock.sleep(INTERVAL_S)

    async def _watch_lag(self) -> None:
        """Measure how much later than scheduled the event loop wakes: every request waits as long for the loop."""
        while True:
            slept_from_s = time.monotonic()
            await asyncio.sleep(_LAG_PROBE_S)
            self._lag_ms_max = max(self._lag_ms_max, (time.monotonic() - slept_from_s - _LAG_PROBE_S) * 1000)

    def measure(self) -> list[tuple[Series, int, float]]:
        """Return one round of samples, the most important first. Counts are of the round."""
        now_ms = self._clock.now_ms()
        now_s = self._clock.monotonic_s()
        took_s, self._measured_s = max(now_s - self._measured_s, 1e-3), now_s
        counts, before = self._counts(), self._before
        self._before = counts
        commits = counts["commits"] - before["commits"]
        with self._process.oneshot():
            cpu, memory = self._process.cpu_percent(), self._process.memory_info()
            threads, files = self._process.num_threads(), self._open_files()
        rows = [
            (self._own_series("process.cpu.percent", Kind.GAUGE, "%"), now_ms, cpu),
            (self._own_series("process.memory.rss", Kind.GAUGE, "By"), now_ms, float(memory.rss)),
            (self._own_series("process.threads", Kind.GAUGE, ""), now_ms, float(threads)),
            (self._own_series("process.open_files", Kind.GAUGE, ""), now_ms, float(files)),
            (self._own_series("process.event_loop.lag", Kind.GAUGE, "ms"), now_ms, self._lag_ms_max),
            (self._own_series("ingest.samples", Kind.COUNTER, ""), now_ms, counts["samples"] - before["samples"]),
            (self._own_series("ingest.spans", Kind.COUNTER, ""), now_ms, counts["spans"] - before["spans"]),
            (
                self._own_series("ingest.rate", Kind.GAUGE, "1/s"),
                now_ms,
                (counts["samples"] - before["samples"]) / took_s,
            ),
            (self._own_series("store.queue", Kind.GAUGE, "By"), now_ms, float(self._queued_nbytes())),
            (self._own_series("store.commits", Kind.COUNTER, ""), now_ms, commits),
        ]
        if commits:
            seconds = counts["commit_s"] - before["commit_s"]
            rows.append((self._own_series("store.commit.duration", Kind.GAUGE, "ms"), now_ms, seconds / commits * 1000))
        self._lag_ms_max = 0.0
        changes = {name: count - before.get(name, 0.0) for name, count in counts.items()}
        return rows + self._pipeline_rows(now_ms, changes) + self._error_rows() + self._request_rows(now_ms)

    def _error_rows(self) -> list[tuple[Series, int, float]]:
        """Return the errors of the round. Beyond TEXTS_MAX texts of a process they are counted together."""
        self._errors = self._telemetry.errors.take_unreported()
        rows = []
        for error in self._errors:
            self._texts |= {error.text} if len(self._texts) < TEXTS_MAX else set()
            tags = {"part": error.part, "text": error.text if error.text in self._texts else "other errors"}
            series = self._own_series("pipeline.errors", Kind.COUNTER, "", tags)
            rows.append((series, error.at_ms, float(error.count)))
        return rows

    def _pipeline_rows(self, now_ms: int, changes: Mapping[str, float]) -> list[tuple[Series, int, float]]:
        """Return what this process publishes to the broker, and what it consumes if it is a worker."""
        rows = []
        if self._broker and changes["publishes"]:
            mean_ms = changes["publish_s"] / changes["publishes"] * 1000
            rows.append((self._own_series("pipeline.publish.duration", Kind.GAUGE, "ms"), now_ms, mean_ms))
        if self._failing is None:
            return rows
        rows.append((self._own_series("pipeline.failing", Kind.GAUGE, ""), now_ms, float(bool(self._failing()))))
        rows += [
            (self._own_series(f"pipeline.{name}", Kind.COUNTER, ""), now_ms, changes[name])
            for name in ("messages", "rows", "ranges", "rebalances")
        ]
        for name, change in changes.items():
            kind, _, reason = name.partition("/")
            if kind == "dead_letters":
                series = self._own_series("pipeline.dead_letters", Kind.COUNTER, "", {"reason": reason})
                rows.append((series, now_ms, change))
        for partition, lag in self._telemetry.values("vantage_worker_kafka_lag", "partition").items():
            series = self._own_series("pipeline.lag", Kind.GAUGE, "", {"partition": partition})
            rows.append((series, now_ms, lag))
        return rows

    def _request_rows(self, now_ms: int) -> list[tuple[Series, int, float]]:
        counters, durations = [], []
        routes = sorted(self._requests().items(), key=lambda entry: -entry[1].count)
        for (route, method, status), requests in routes:
            tags = {"endpoint": route, "method": method, "status": str(status)}
            counters.append((self._own_series("http.requests", Kind.COUNTER, "", tags), now_ms, float(requests.count)))
            duration = self._own_series("http.request.duration", Kind.HISTOGRAM, "ms", tags)
            durations += [(duration, now_ms, took_ms) for took_ms in requests.durations_ms]
        return counters + durations

    def _counts(self) -> dict[str, float]:
        of = self._telemetry.value
        return {
            "samples": of("vantage_ingest_samples_accepted_total"),
            "spans": of("vantage_ingest_spans_accepted_total"),
            "commits": of("vantage_worker_db_write_duration_seconds_count"),
            "commit_s": of("vantage_worker_db_write_duration_seconds_sum"),
            "publishes": of("vantage_collector_kafka_publish_duration_seconds_count"),
            "publish_s": of("vantage_collector_kafka_publish_duration_seconds_sum"),
            "messages": of("vantage_worker_messages_processed_total"),
            "rows": of("vantage_worker_batch_rows_sum"),
            "ranges": of("vantage_worker_batch_rows_count"),
            "rebalances": of("vantage_worker_rebalances_total"),
            **{
                f"dead_letters/{reason}": count
                for reason, count in self._telemetry.values("vantage_worker_dead_letters_total", "reason").items()
            },
        }

    def _open_files(self) -> int:
        try:
            return self._process.num_fds()
        except psutil.Error:
            return 0

    def _own_series(self, metric: str, kind: Kind, unit: str, tags: Mapping[str, str] | None = None) -> Series:
        key = (metric, *(tags or {}).values())
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = make_series(
                service=SERVICE, metric=metric, kind=kind, unit=unit, tags=dict(tags or {}), **self._names
            )
        return series
