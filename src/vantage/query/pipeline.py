"""The pipeline between ingest and the store, from what its processes report about themselves.

Every process publishes its own measurements every 15 seconds as metrics of the service ``vantage``
(``ingest.self_telemetry``). So a process without a consumer shows all of them, and three grouped queries read them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vantage.core.sample import TAG_INSTANCE
from vantage.query.catalogue import SELF
from vantage.query.context import QueryContext
from vantage.query.http_semconv import Buckets, select_items, time_filter
from vantage.query.red import BucketValues
from vantage.vql.tree import And, Call, Column, Expr, In, Literal, Select, TagValue, equals

INTERVAL_MS: Final = 15_000  # between two measurements of a process
SILENT_MS: Final = 60_000  # after that a process counts as silent
ROWS_MAX: Final = 50_000  # processes times metrics, and partitions times buckets
LAG: Final = "pipeline.lag"
MESSAGES: Final = "pipeline.messages"
STORED: Final = "pipeline.rows"
RANGES: Final = "pipeline.ranges"
DEAD_LETTERS: Final = "pipeline.dead_letters"
REBALANCES: Final = "pipeline.rebalances"
FAILING: Final = "pipeline.failing"
PUBLISH: Final = "pipeline.publish.duration"
WRITE: Final = "store.commit.duration"
ERRORS: Final = "pipeline.errors"
ERRORS_MAX: Final = 20  # that are shown
RECEIVED: Final = ("ingest.samples", "ingest.spans")
_NAMES: Final = (LAG, MESSAGES, STORED, RANGES, DEAD_LETTERS, REBALANCES, FAILING, PUBLISH, WRITE, *RECEIVED)


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A process that publishes or consumes. Counts are of the range, rates per second from its first measurement on,
    durations ms; None without data. ``range_rows``: samples and spans of an average range."""

    instance: str
    role: str
    last_ms: int
    is_silent: bool
    is_worker: bool
    is_failing: bool
    received_per_s: float | None
    stored_per_s: float | None
    range_rows: float | None
    publish_ms: float | None
    write_ms: float | None
    dead_letters: int
    rebalances: int


@dataclass(frozen=True, slots=True)
class PartitionRow:
    """The messages of a partition that were not stored yet when its worker measured last."""

    number: int
    lag: int
    instance: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """An error of a part of a process: its text, how often it occurred in the range, and when last."""

    instance: str
    role: str
    part: str
    text: str
    count: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Pipeline:
    """``dead_letters`` is by the kind of reason; ``errors`` are the latest. The tuples of numbers have one value per
    bucket, None without data."""

    processes: tuple[ProcessRow, ...]
    partitions: tuple[PartitionRow, ...]
    dead_letters: Mapping[str, int]
    errors: tuple[ErrorRow, ...]
    received_per_s: BucketValues
    stored_per_s: BucketValues
    lags: BucketValues
    write_ms: BucketValues
    publish_ms: BucketValues

    @property
    def workers(self) -> tuple[ProcessRow, ...]:
        return tuple(row for row in self.processes if row.is_worker)

    @property
    def lag(self) -> int | None:
        return sum(row.lag for row in self.partitions) if self.partitions else None


@dataclass(slots=True)
class _Measured:
    """What one process reported."""

    sums: Counter[str] = field(default_factory=Counter)
    means: dict[str, float] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    first_ms: int = 1 << 62
    last_ms: int = 0


async def read_pipeline(context: QueryContext, buckets: Buckets) -> Pipeline:
    """Return what the processes of the pipeline reported in the range. Raises what ``context.select`` raises."""
    value, at = Column("value"), Column("timestamp")
    bucket = Call("toStartOfInterval", (at, Literal(buckets.step_ms)))
    keys: tuple[Expr, ...] = (
        Column("metric_name"),
        Column("environment"),
        *(TagValue(name) for name in (TAG_INSTANCE, "partition", "reason")),
    )
    ours = (equals("service_name", SELF), *time_filter(buckets))
    by_process = await context.select(
        "pipeline",
        Select(
            "metrics",
            select_items(
                (
                    *keys,
                    Call("sum", (value,)),
                    Call("avg", (value,)),
                    Call("argMax", (value, at)),
                    Call("min", (at,)),
                    Call("max", (at,)),
                )
            ),
            where=And((In(Column("metric_name"), _NAMES), *ours)),
            group_by=keys,
        ),
        rows_max=ROWS_MAX,
    )
    by_bucket = await context.select(
        "pipeline_buckets",
        Select(
            "metrics",
            select_items((Column("metric_name"), bucket, Call("sum", (value,)), Call("avg", (value,)))),
            where=And((In(Column("metric_name"), (STORED, WRITE, PUBLISH, *RECEIVED)), *ours)),
            group_by=(Column("metric_name"), bucket),
        ),
        rows_max=ROWS_MAX,
    )
    by_partition = await context.select(
        "pipeline_lags",
        Select(
            "metrics",
            select_items((TagValue("partition"), bucket, Call("argMax", (value, at)))),
            where=And((equals("metric_name", LAG), *ours)),
            group_by=(TagValue("partition"), bucket),
        ),
        rows_max=ROWS_MAX,
    )
    errors = await _read_errors(context, buckets)
    measured: dict[tuple[str, str], _Measured] = defaultdict(_Measured)
    newest_lags: dict[int, tuple[int, int, str]] = {}
    reasons: Counter[str] = Counter()
    for metric, role, instance, partition, reason, total, mean, latest, first_ms, last_ms in by_process.rows():
        process = measured[instance, role]
        process.first_ms, process.last_ms = min(process.first_ms, first_ms), max(process.last_ms, last_ms)
        if metric == LAG:
            newest = (last_ms, int(latest), instance)
            if partition.isdigit() and newest > newest_lags.get(int(partition), (0, 0, "")):
                newest_lags[int(partition)] = newest  # the partition's last worker
            process.latest[LAG] = latest
            continue
        process.sums[metric] += total
        process.means[metric], process.latest[metric] = mean, latest
        if metric == DEAD_LETTERS and total:
            reasons[reason] += int(total)
    sums: dict[str, dict[int, float]] = defaultdict(dict)
    means: dict[str, dict[int, float]] = defaultdict(dict)
    for metric, start_ms, total, mean in by_bucket.rows():
        sums[metric][start_ms], means[metric][start_ms] = total, mean
    lags: dict[int, dict[int, float]] = defaultdict(dict)
    for partition, start_ms, lag in by_partition.rows():
        if partition.isdigit():
            lags[int(partition)][start_ms] = lag
    starts = buckets.starts_ms()
    return Pipeline(
        processes=tuple(_row(key, process, buckets) for key, process in sorted(measured.items())),
        partitions=tuple(
            PartitionRow(number, lag, instance, at_ms) for number, (at_ms, lag, instance) in sorted(newest_lags.items())
        ),
        dead_letters=dict(reasons.most_common()),
        errors=errors,
        received_per_s=_rates([sums[name] for name in RECEIVED], buckets),
        stored_per_s=_rates([sums[STORED]], buckets),
        lags=_total_lags(list(lags.values()), starts),
        write_ms=tuple(means[WRITE].get(start) for start in starts),
        publish_ms=tuple(means[PUBLISH].get(start) for start in starts),
    )


async def _read_errors(context: QueryContext, buckets: Buckets) -> tuple[ErrorRow, ...]:
    """Return the latest errors that processes reported, and those of this process that it could not report."""
    value, at = Column("value"), Column("timestamp")
    tags = (TagValue(TAG_INSTANCE), Column("environment"), TagValue("part"), TagValue("text"))
    reported = await context.select(
        "pipeline_errors",
        Select(
            "metrics",
            select_items((*tags, Call("sum", (value,)), Call("max", (at,)))),
            where=And((equals("metric_name", ERRORS), equals("service_name", SELF), *time_filter(buckets))),
            group_by=tags,
        ),
        rows_max=ROWS_MAX,
    )
    rows = [
        ErrorRow(instance, role, part, text, int(total), at_ms)
        for instance, role, part, text, total, at_ms in reported.rows()
    ]
    rows += [
        ErrorRow("this process", "", error.part, error.text, error.count, error.at_ms)
        for error in context.telemetry.errors.latest()
        if error.at_ms >= buckets.start_ms and not any((row.part, row.text) == (error.part, error.text) for row in rows)
    ]
    return tuple(sorted(rows, key=lambda row: -row.at_ms)[:ERRORS_MAX])


def _row(key: tuple[str, str], process: _Measured, buckets: Buckets) -> ProcessRow:
    seconds = (process.last_ms - process.first_ms + INTERVAL_MS) / 1000

    def per_s(*names: str) -> float | None:
        present = [process.sums[name] for name in names if name in process.sums]
        return sum(present) / seconds if present else None

    ranges = process.sums[RANGES]
    return ProcessRow(
        instance=key[0],
        role=key[1],
        last_ms=process.last_ms,
        is_silent=buckets.end_ms - process.last_ms > SILENT_MS,
        is_worker=MESSAGES in process.sums,
        is_failing=bool(process.latest.get(FAILING)),
        received_per_s=None if key[1] in ("worker", "api") else per_s(*RECEIVED),
        stored_per_s=per_s(STORED),
        range_rows=process.sums[STORED] / ranges if ranges else None,
        publish_ms=process.means.get(PUBLISH),
        write_ms=process.means.get(WRITE),
        dead_letters=int(process.sums[DEAD_LETTERS]),
        rebalances=int(process.sums[REBALANCES]),
    )


def _total_lags(lags: Sequence[Mapping[int, float]], starts: Sequence[int]) -> BucketValues:
    """Return the lag of all partitions by bucket. One that is not measured has its last lag: what waits there has not
    gone because its worker has."""
    totals: list[float | None] = []
    latest: dict[int, float] = {}
    for start in starts:
        latest |= {number: by_start[start] for number, by_start in enumerate(lags) if start in by_start}
        totals.append(sum(latest.values()) if latest else None)
    return tuple(totals)


def _rates(sums: list[dict[int, float]], buckets: Buckets) -> BucketValues:
    """Return rates per second. The newest bucket counts once half of it has passed: before that it is noise."""
    rates: list[float | None] = []
    for index, start in enumerate(buckets.starts_ms()):
        values = [by_start[start] for by_start in sums if start in by_start]
        seconds = buckets.seconds(index)
        rates.append(sum(values) / seconds if values and seconds * 2000 >= buckets.step_ms else None)
    return tuple(rates)
