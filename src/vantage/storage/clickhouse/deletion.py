"""Delete data: by age, by rule, by size, and on request.

Complete months are dropped as partitions; in other months rows are deleted, which rewrites parts. Ages are counted in
days of UTC, so that a month is rewritten once a day at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeVar

from vantage.core.batch import BATCH_ID_MEMORY_MS
from vantage.core.red import METRIC_OF
from vantage.core.rollup import HOUR_MS
from vantage.core.timerange import TimeRange
from vantage.storage.clickhouse.engine import Engine, Param, Statement
from vantage.storage.clickhouse.expressions import Params
from vantage.storage.clickhouse.series_registry import SeriesRegistry
from vantage.storage.ports import DeletionResult, RetentionPolicy, Selector

DAY_MS: Final = 86_400_000
SPARE: Final = 0.02  # of the budget, freed in addition: otherwise the next sample would trigger another deletion
RAW: Final = ("samples", "exemplars", "spans", "span_times", "span_services")
SERIES_ROLLUPS: Final = ("rollups_5m", "rollups_1h")
RED_TABLES: Final = ("red_5m", "red_1h", "red_1m")
EDGE_TABLES: Final = ("edges_5m", "edge_buckets", "span_buckets")
ROLLUP_TABLES: Final = (*SERIES_ROLLUPS, "red_5m", "red_1h", *EDGE_TABLES)  # whose partitions are months
NAMES_MAX: Final = 1000
# Where other processes write, a series may be new and its first samples under way.
EMPTY_AGE_MS_MIN: Final = HOUR_MS
# Batches of a broker have the times of their messages, which a worker may be far behind.
SHARED_BATCH_ID_MS: Final = DAY_MS
T = TypeVar("T")
_IN_NS: Final = ("spans", "span_times")


@dataclass(frozen=True, slots=True)
class Partition:
    """A month of one table."""

    table: str
    month: str
    rows: int
    nbytes: int
    parts: int = field(default=0, compare=False)  # merges change it at any time


class Deleter:
    """Deletes data, one thread at a time. Its methods block. Where the tables are not shared they must not run beside a
    commit."""

    def __init__(self, engine: Engine, registry: SeriesRegistry) -> None:
        self._engine = engine
        self._registry = registry
        self.parts: dict[str, int] = {}  # active ones by table, when data expired last
        self.deletions = 0  # statements that deleted something

    def expire(self, policy: RetentionPolicy, now_ms: int, *, batch_now_ms: int) -> DeletionResult:
        """Delete what has expired by the policy, and batch ids that are too old at ``batch_now_ms``."""
        before = self._partitions()
        self.parts = _parts_by_table(before)
        samples = spans = 0
        if policy.days is not None:
            deleted = self._older_than(_day(now_ms) - policy.days * DAY_MS)
            samples, spans = samples + deleted[0], spans + deleted[1]
        for rule in policy.rules:
            limit_ms = _day(now_ms) - rule.days * DAY_MS
            names = sorted(
                key for key in self._registry.names() if rule.names_service(key[0]) and rule.names_metric(key[1])
            )
            samples += self._delete_metrics(names, limit_ms)
            if not rule.metric:
                spans += self._delete_spans(sorted(filter(rule.names_service, self._span_services())), limit_ms)
        if policy.budget_bytes is not None:
            deleted = self._expire_by_size(policy.budget_bytes)
            samples, spans = samples + deleted[0], spans + deleted[1]
        self._drop_batch_ids(batch_now_ms)
        after = self._partitions()
        if before == after:
            return DeletionResult()
        nbytes = _nbytes_of(before) - _nbytes_of(after)
        series = self._drop_empty_series(batch_now_ms) if samples or spans else 0
        return DeletionResult(samples, spans, series, max(0, nbytes))

    def delete(self, selector: Selector) -> DeletionResult:
        """Delete all data of a service or an environment."""
        params = Params()
        where = " AND ".join(
            f"{name} = {params.bind(text, 'String')}"
            for name, text in (("service_name", selector.service), ("environment", selector.environment))
            if text
        )
        counts = {table: self._count(table, where, params) for table in (*RAW, *SERIES_ROLLUPS, *RED_TABLES, "series")}
        before = _nbytes_of(self._partitions())
        sides = Params()
        self._delete_if_any("edges_5m", _has_side(selector, sides), sides)
        for table, rows in counts.items():  # the series last: a deletion that fails can be repeated
            if rows:
                self._delete(table, where, params)
        ids = [
            series.id
            for series in list(self._registry.by_id.values())
            if selector.service in ("", series.service) and selector.environment in ("", series.environment)
        ]
        after = _nbytes_of(self._partitions())
        return DeletionResult(counts["samples"], counts["spans"], self._registry.drop(ids), max(0, before - after))

    def delete_range(self, time_range: TimeRange) -> None:
        """Delete samples and spans of whole hours, and what is derived from them. The times of traces stay: they are
        where a trace is looked for, and its spans may be written again."""
        for table in ("samples", "exemplars", *SERIES_ROLLUPS, *RED_TABLES, "spans", "span_services", *EDGE_TABLES):
            params = Params()
            before = (_before(table, at_ms, params) for at_ms in (time_range.start_ms, time_range.end_ms))
            self._delete_if_any(table, "NOT ({}) AND {}".format(*before), params)

    # --- by age ---

    def _older_than(self, limit_ms: int) -> tuple[int, int]:
        samples = spans = 0
        for partition in self._partitions():
            if partition.month < _month(limit_ms) and partition.table in (*RAW, *ROLLUP_TABLES):
                self._drop(partition)
                samples += partition.rows if partition.table == "samples" else 0
                spans += partition.rows if partition.table == "spans" else 0
        return samples + self._delete_before("samples", limit_ms), spans + self._delete_before("spans", limit_ms)

    def _delete_before(self, table: str, limit_ms: int) -> int:
        """Delete older rows of ``samples`` or ``spans`` and of derived tables. Return the number of the former."""
        params = Params()
        deleted = 0
        tables = (
            ("samples", "exemplars", *SERIES_ROLLUPS, *RED_TABLES)
            if table == "samples"
            else ("spans", "span_times", "span_services", *EDGE_TABLES)
        )
        for name in tables:
            rows = self._delete_if_any(name, _before(name, limit_ms, params), params)
            deleted += rows if name == table else 0
        return deleted

    # --- by rule ---

    def _delete_metrics(self, names: Sequence[tuple[str, str]], limit_ms: int) -> int:
        deleted = 0
        for batch in _in_batches(names):
            params = Params()
            pairs = ", ".join(
                f"({params.bind(service, 'String')}, {params.bind(metric, 'String')})" for service, metric in batch
            )
            for table in ("samples", "exemplars", *SERIES_ROLLUPS):
                where = f"(service_name, metric_name) IN ({pairs}) AND {_before(table, limit_ms, params)}"
                rows = self._delete_if_any(table, where, params)
                deleted += rows if table == "samples" else 0
        sources = {metric: source for source, metric in METRIC_OF.items()}
        self._delete_red([(service, sources[metric]) for service, metric in names if metric in sources], limit_ms)
        return deleted

    def _delete_red(self, names: Sequence[tuple[str, str]], limit_ms: int) -> None:
        """Delete older rollups of requests of services, each with a source of them."""
        for batch in _in_batches(names):
            for table in RED_TABLES:
                params = Params()
                pairs = ", ".join(
                    f"({params.bind(service, 'String')}, {params.bind(source, 'String')})" for service, source in batch
                )
                where = f"(service_name, source) IN ({pairs}) AND {_before(table, limit_ms, params)}"
                self._delete_if_any(table, where, params)

    def _span_services(self) -> list[str]:
        return self._engine.run(Statement("SELECT DISTINCT service_name FROM span_times")).to_list("service_name")

    def _delete_spans(self, services: Sequence[str], limit_ms: int) -> int:
        deleted = 0
        for batch in _in_batches(services):
            params = Params()
            bound = ", ".join(params.bind(service, "String") for service in batch)
            for table in ("spans", "span_times", "span_services"):
                where = f"service_name IN ({bound}) AND {_before(table, limit_ms, params)}"
                rows = self._delete_if_any(table, where, params)
                deleted += rows if table == "spans" else 0
            params = Params()
            bound = ", ".join(params.bind(service, "String") for service in batch)
            sides = f"(caller IN ({bound}) OR (kind != 'external' AND callee IN ({bound})))"
            self._delete_if_any("edges_5m", f"{sides} AND {_before('edges_5m', limit_ms, params)}", params)
        self._delete_red([(service, "spans") for service in services], limit_ms)
        return deleted

    # --- by size ---

    def _expire_by_size(self, budget_nbytes: int) -> tuple[int, int]:
        """Drop the oldest samples and spans, then the oldest rollups, until the rest fits."""
        samples = spans = 0
        partitions = self._partitions()
        excess = _nbytes_of(partitions) - budget_nbytes
        if excess <= 0:
            return 0, 0
        excess += int(SPARE * budget_nbytes)
        for tables in (RAW, ROLLUP_TABLES):
            months = sorted({partition.month for partition in partitions if partition.table in tables})
            for month in months:
                in_month = [
                    partition for partition in partitions if partition.table in tables and partition.month == month
                ]
                nbytes = _nbytes_of(in_month)
                if excess <= 0:
                    break
                if nbytes > excess or month == months[-1]:
                    deleted = self._delete_oldest(in_month, min(1.0, excess / max(1, nbytes)))
                    excess = 0
                else:
                    for partition in in_month:
                        self._drop(partition)
                    deleted = (_rows_of(in_month, "samples"), _rows_of(in_month, "spans"))
                    excess -= nbytes
                    if tables is RAW:
                        self._note_raw_since(_next_month_ms(month))
                samples, spans = samples + deleted[0], spans + deleted[1]
        return samples, spans

    def _delete_oldest(self, partitions: Sequence[Partition], share: float) -> tuple[int, int]:
        """Delete the oldest hours of a month, about a share of its rows."""
        main = max(partitions, key=lambda partition: partition.nbytes).table
        hour = f"intDiv({_time_ms(main)}, {HOUR_MS})"
        result = self._engine.run(
            Statement(
                f"SELECT quantileExact({share:.6f})({hour}) AS hour, max({hour}) AS latest FROM {main} "
                "WHERE _partition_id = {month:String}",
                {"month": partitions[0].month},
            )
        )
        # The latest hour stays, even if it is larger than the budget.
        limit_ms = min(int(result.to_list("hour")[0]) + 1, int(result.to_list("latest")[0])) * HOUR_MS
        samples = spans = 0
        for partition in partitions:
            params = Params()
            rows = self._delete_if_any(partition.table, _before(partition.table, limit_ms, params), params)
            samples += rows if partition.table == "samples" else 0
            spans += rows if partition.table == "spans" else 0
        if samples:
            self._note_raw_since(limit_ms)
        return samples, spans

    def newest_ms(self) -> int:
        """Return the time of the newest sample or span, 0 where there is none."""
        result = self._engine.run(
            Statement(
                "SELECT greatest((SELECT toUnixTimestamp64Milli(max(timestamp)) FROM samples), "
                "(SELECT intDiv(max(start_ns), 1000000) FROM spans)) AS at_ms"
            )
        )
        return int(result.to_list("at_ms")[0])

    def raw_since_ms(self) -> int:
        """Return the time before which samples have expired by size."""
        result = self._engine.run(
            Statement("SELECT toUnixTimestamp64Milli(max(since)) AS since, count() AS times FROM raw_since")
        )
        return int(result.to_list("since")[0]) if result.to_list("times")[0] else 0

    def _note_raw_since(self, at_ms: int) -> None:
        self._engine.run(
            Statement("INSERT INTO raw_since SELECT fromUnixTimestamp64Milli({at:Int64}, 'UTC')", {"at": at_ms})
        )

    # --- shared ---

    def _partitions(self) -> list[Partition]:
        result = self._engine.run(
            Statement(
                "SELECT table, partition_id, toInt64(sum(rows)) AS row_count, toInt64(sum(bytes_on_disk)) AS nbytes, "
                "toInt64(count()) AS part_count FROM system.parts WHERE database = currentDatabase() AND active "
                "GROUP BY table, partition_id ORDER BY partition_id, table"
            )
        )
        columns = (result.to_list(name) for name in ("table", "partition_id", "row_count", "nbytes", "part_count"))
        return [Partition(*row) for row in zip(*columns, strict=True)]

    def _drop(self, partition: Partition) -> None:
        self.deletions += 1
        # A partition's id consists of digits, made by the engine, and cannot be a parameter of a statement.
        self._engine.run(Statement(f"ALTER TABLE {partition.table} DROP PARTITION ID '{partition.month}'"))

    def _drop_batch_ids(self, now_ms: int) -> None:
        result = self._engine.run(
            Statement(
                "SELECT DISTINCT _partition_id AS id FROM batch_ids GROUP BY _partition_id "
                "HAVING toUnixTimestamp64Milli(max(kept_at)) < {limit:Int64}",
                {"limit": now_ms - (SHARED_BATCH_ID_MS if self._engine.shared else BATCH_ID_MEMORY_MS)},
            )
        )
        for month in result.to_list("id"):
            self._drop(Partition("batch_ids", month, 0, 0))

    def _drop_empty_series(self, now_ms: int) -> int:
        """Delete series without data. Return their number."""
        params = Params()
        where = "series_id NOT IN (SELECT series_id FROM rollups_1h)"
        if self._engine.shared:
            where += f" AND {_earlier('first_seen', now_ms - EMPTY_AGE_MS_MIN, params)}"
        empty = self._engine.run(_bound(f"SELECT DISTINCT series_id FROM series WHERE {where}", params))
        ids = empty.to_list("series_id")
        if ids:
            self._delete("series", where, params)
        return self._registry.drop(ids)

    def _count(self, table: str, where: str, params: Params) -> int:
        result = self._engine.run(_bound(f"SELECT toInt64(count()) AS row_count FROM {table} WHERE {where}", params))
        return int(result.to_list("row_count")[0])

    def _delete_if_any(self, table: str, where: str, params: Params) -> int:
        """Delete rows, and return their number. Without any, run no deletion: the engine would record it."""
        rows = self._count(table, where, params)
        if rows:
            self._delete(table, where, params)
        return rows

    def _delete(self, table: str, where: str, params: Params) -> None:
        self.deletions += 1
        self._engine.run(_bound(f"ALTER TABLE {table} DELETE WHERE {where}", params), {"mutations_sync": 1})


def _in_batches(names: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield as many names as fit into a statement: the engine accepts 256 kB of text."""
    for start in range(0, len(names), NAMES_MAX):
        yield names[start : start + NAMES_MAX]


def _bound(text: str, params: Params) -> Statement:
    used: dict[str, Param] = {name: value for name, value in params.values.items() if f"{{{name}:" in text}
    return Statement(text, used)


def _has_side(selector: Selector, params: Params) -> str:
    """Return the condition that an edge has a deleted service or environment on one of its sides."""

    def side(name: str) -> str:
        columns = ((name, selector.service), (f"{name}_environment", selector.environment))
        return " AND ".join(f"{column} = {params.bind(text, 'String')}" for column, text in columns if text)

    return f"({side('caller')} OR (kind != 'external' AND {side('callee')}))"


def _before(table: str, limit_ms: int, params: Params) -> str:
    if table in _IN_NS:
        return f"start_ns < {params.bind(limit_ms * 1_000_000, 'Int64')}"
    return _earlier("timestamp", limit_ms, params)


def _earlier(column: str, limit_ms: int, params: Params) -> str:
    return f"{column} < fromUnixTimestamp64Milli({params.bind(max(0, limit_ms), 'Int64')}, 'UTC')"


def _time_ms(table: str) -> str:
    return "intDiv(start_ns, 1000000)" if table in _IN_NS else "toUnixTimestamp64Milli(timestamp)"


def _parts_by_table(partitions: Sequence[Partition]) -> dict[str, int]:
    parts = Counter[str]()
    for partition in partitions:
        parts[partition.table] += partition.parts
    return dict(parts)


def _rows_of(partitions: Sequence[Partition], table: str) -> int:
    return sum(partition.rows for partition in partitions if partition.table == table)


def _nbytes_of(partitions: Sequence[Partition]) -> int:
    return sum(partition.nbytes for partition in partitions)


def _day(now_ms: int) -> int:
    return now_ms // DAY_MS * DAY_MS


def _month(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(max(0, at_ms) / 1000, UTC):%Y%m}"


def _next_month_ms(partition: str) -> int:
    year, month = int(partition[:4]), int(partition[4:])
    return int(datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp() * 1000)
