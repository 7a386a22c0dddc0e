"""What leaves the store: by age, by rule, by size, and what is to be forgotten.

Whole months are dropped as partitions; of a month that stays, rows are deleted by rewriting its parts. Ages are counted
in whole days of UTC, so that a month is rewritten once a day at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from vantage.core.batch import BATCH_ID_MEMORY_MS
from vantage.core.rollup import HOUR_MS
from vantage.storage.clickhouse.engine import Engine, Param, Statement
from vantage.storage.clickhouse.expressions import Params
from vantage.storage.clickhouse.series_registry import SeriesRegistry
from vantage.storage.ports import DeletionResult, RetentionPolicy, Selector

DAY_MS: Final = 86_400_000
SPARE: Final = 0.02  # of the budget, freed beyond need: or the next sample would drop something again
RAW: Final = ("samples", "exemplars", "spans", "span_times")
ROLLUP_TABLES: Final = ("rollups_5m", "rollups_1h")
NAMES_MAX: Final = 1000
T = TypeVar("T")
_IN_NS: Final = ("spans", "span_times")


@dataclass(frozen=True, slots=True)
class Partition:
    """A month of one table."""

    table: str
    month: str
    rows: int
    nbytes: int


class Deleter:
    """Its methods block, and must not run beside a commit."""

    def __init__(self, engine: Engine, known: SeriesRegistry) -> None:
        self._engine = engine
        self._known = known

    def expire(self, policy: RetentionPolicy, now_ms: int) -> DeletionResult:
        """Drop what the policy no longer keeps."""
        before = self._partitions()
        samples = spans = 0
        if policy.days is not None:
            gone = self._older_than(_day(now_ms) - policy.days * DAY_MS)
            samples, spans = samples + gone[0], spans + gone[1]
        for rule in policy.rules:
            limit_ms = _day(now_ms) - rule.days * DAY_MS
            names = sorted(
                key for key in self._known.names() if rule.names_service(key[0]) and rule.names_metric(key[1])
            )
            samples += self._delete_metrics(names, limit_ms)
            if not rule.metric:
                spans += self._delete_spans(sorted(filter(rule.names_service, self._span_services())), limit_ms)
        if policy.budget_bytes is not None:
            gone = self._expire_by_size(policy.budget_bytes)
            samples, spans = samples + gone[0], spans + gone[1]
        self._drop_batch_ids(now_ms)
        after = self._partitions()
        if before == after:
            return DeletionResult()
        nbytes = sum(one.nbytes for one in before) - sum(one.nbytes for one in after)
        return DeletionResult(samples, spans, self._drop_empty_series() if samples or spans else 0, max(0, nbytes))

    def delete(self, selector: Selector) -> DeletionResult:
        """Drop everything of a service or an environment."""
        params = Params()
        where = " AND ".join(
            f"{name} = {params.bind(text, 'String')}"
            for name, text in (("service_name", selector.service), ("environment", selector.environment))
            if text
        )
        counts = {
            table: self._count(table, where, params)
            for table in ("samples", "exemplars", "spans", "span_times", "rollups_5m", "rollups_1h", "series")
        }
        before = sum(one.nbytes for one in self._partitions())
        for table, rows in counts.items():  # the series last: a deletion that is broken off can be asked for again
            if rows:
                self._delete(table, where, params)
        gone = [
            one.id
            for one in list(self._known.by_id.values())
            if selector.service in ("", one.service) and selector.environment in ("", one.environment)
        ]
        after = sum(one.nbytes for one in self._partitions())
        return DeletionResult(counts["samples"], counts["spans"], self._known.drop(gone), max(0, before - after))

    # --- by age ---

    def _older_than(self, limit_ms: int) -> tuple[int, int]:
        samples = spans = 0
        for one in self._partitions():
            if one.month < _month(limit_ms) and one.table in (*RAW, *ROLLUP_TABLES):
                self._drop(one)
                samples += one.rows if one.table == "samples" else 0
                spans += one.rows if one.table == "spans" else 0
        return samples + self._delete_before("samples", limit_ms), spans + self._delete_before("spans", limit_ms)

    def _delete_before(self, table: str, limit_ms: int) -> int:
        """Delete older rows of samples or spans and of what belongs to them; how many."""
        params = Params()
        gone = 0
        tables = ("samples", "exemplars", *ROLLUP_TABLES) if table == "samples" else ("spans", "span_times")
        for each in tables:
            rows = self._delete_in_batches(each, _before(each, limit_ms, params), params)
            gone += rows if each == table else 0
        return gone

    # --- by rule ---

    def _delete_metrics(self, names: Sequence[tuple[str, str]], limit_ms: int) -> int:
        gone = 0
        for some in _at_once(names):
            params = Params()
            pairs = ", ".join(
                f"({params.bind(one, 'String')}, {params.bind(metric, 'String')})" for one, metric in some
            )
            for table in ("samples", "exemplars", *ROLLUP_TABLES):
                where = f"(service_name, metric_name) IN ({pairs}) AND {_before(table, limit_ms, params)}"
                rows = self._delete_in_batches(table, where, params)
                gone += rows if table == "samples" else 0
        return gone

    def _span_services(self) -> list[str]:
        found = self._engine.run(Statement("SELECT DISTINCT service_name FROM span_times"))
        return found.to_list("service_name")

    def _delete_spans(self, services: Sequence[str], limit_ms: int) -> int:
        gone = 0
        for some in _at_once(services):
            params = Params()
            bound = ", ".join(params.bind(one, "String") for one in some)
            for table in ("spans", "span_times"):
                where = f"service_name IN ({bound}) AND {_before(table, limit_ms, params)}"
                rows = self._delete_in_batches(table, where, params)
                gone += rows if table == "spans" else 0
        return gone

    # --- by size ---

    def _expire_by_size(self, budget_nbytes: int) -> tuple[int, int]:
        """Drop the oldest samples and spans, then the oldest rollups, until the rest fits."""
        samples = spans = 0
        held = self._partitions()
        excess = sum(one.nbytes for one in held) - budget_nbytes
        if excess <= 0:
            return 0, 0
        excess += int(SPARE * budget_nbytes)
        for tables in (RAW, ROLLUP_TABLES):
            months = sorted({one.month for one in held if one.table in tables})
            for month in months:
                those = [one for one in held if one.table in tables and one.month == month]
                nbytes = sum(one.nbytes for one in those)
                if excess <= 0:
                    break
                if nbytes > excess or month == months[-1]:
                    gone = self._oldest_of(those, min(1.0, excess / max(1, nbytes)))
                    excess = 0
                else:
                    for one in those:
                        self._drop(one)
                    gone = (_rows_of(those, "samples"), _rows_of(those, "spans"))
                    excess -= nbytes
                    if tables is RAW:
                        self._note_raw_since(_next_month_ms(month))
                samples, spans = samples + gone[0], spans + gone[1]
        return samples, spans

    def _oldest_of(self, partitions: Sequence[Partition], share: float) -> tuple[int, int]:
        """Delete the oldest hours of a month, about a share of its rows."""
        main = max(partitions, key=lambda one: one.nbytes).table
        hour = f"intDiv({_time_ms(main)}, {HOUR_MS})"
        found = self._engine.run(
            Statement(
                f"SELECT quantileExact({share:.6f})({hour}) AS hour, max({hour}) AS latest FROM {main} "
                "WHERE _partition_id = {month:String}",
                {"month": partitions[0].month},
            )
        )
        # The latest hour stays: a budget that does not hold an hour is answered by keeping that one.
        limit_ms = min(int(found.to_list("hour")[0]) + 1, int(found.to_list("latest")[0])) * HOUR_MS
        samples = spans = 0
        for one in partitions:
            params = Params()
            rows = self._delete_in_batches(one.table, _before(one.table, limit_ms, params), params)
            samples += rows if one.table == "samples" else 0
            spans += rows if one.table == "spans" else 0
        if samples:
            self._note_raw_since(limit_ms)
        return samples, spans

    def raw_since_ms(self) -> int:
        """Up to when samples were dropped by size."""
        found = self._engine.run(
            Statement("SELECT toUnixTimestamp64Milli(max(since)) AS since, count() AS times FROM raw_since")
        )
        return int(found.to_list("since")[0]) if found.to_list("times")[0] else 0

    def _note_raw_since(self, at_ms: int) -> None:
        self._engine.run(
            Statement("INSERT INTO raw_since SELECT fromUnixTimestamp64Milli({at:Int64}, 'UTC')", {"at": at_ms})
        )

    # --- what all of them do ---

    def _partitions(self) -> list[Partition]:
        found = self._engine.run(
            Statement(
                "SELECT table, partition_id, toInt64(sum(rows)) AS held, toInt64(sum(bytes_on_disk)) AS nbytes "
                "FROM system.parts WHERE database = currentDatabase() AND active "
                "GROUP BY table, partition_id ORDER BY partition_id, table"
            )
        )
        columns = (found.to_list(name) for name in ("table", "partition_id", "held", "nbytes"))
        return [Partition(*row) for row in zip(*columns, strict=True)]

    def _drop(self, one: Partition) -> None:
        # A partition's id is made by the engine of digits, and a statement takes no parameter in its place.
        self._engine.run(Statement(f"ALTER TABLE {one.table} DROP PARTITION ID '{one.month}'"))

    def _drop_batch_ids(self, now_ms: int) -> None:
        found = self._engine.run(
            Statement(
                "SELECT DISTINCT _partition_id AS id FROM batch_ids GROUP BY _partition_id "
                "HAVING toUnixTimestamp64Milli(max(kept_at)) < {limit:Int64}",
                {"limit": now_ms - BATCH_ID_MEMORY_MS},
            )
        )
        for month in found.to_list("id"):
            self._drop(Partition("batch_ids", month, 0, 0))

    def _drop_empty_series(self) -> int:
        """Series of which nothing is left."""
        held = set(self._engine.run(Statement("SELECT DISTINCT series_id FROM rollups_1h")).to_list("series_id"))
        gone = [one for one in list(self._known.by_id) if one not in held]
        if gone:
            self._delete("series", "series_id NOT IN (SELECT series_id FROM rollups_1h)", Params())
        return self._known.drop(gone)

    def _count(self, table: str, where: str, params: Params) -> int:
        found = self._engine.run(_bound(f"SELECT toInt64(count()) AS held FROM {table} WHERE {where}", params))
        return int(found.to_list("held")[0])

    def _delete_in_batches(self, table: str, where: str, params: Params) -> int:
        """Delete rows where there are any: a deletion that finds none would still be written down; how many."""
        rows = self._count(table, where, params)
        if rows:
            self._delete(table, where, params)
        return rows

    def _delete(self, table: str, where: str, params: Params) -> None:
        self._engine.run(_bound(f"ALTER TABLE {table} DELETE WHERE {where}", params), mutations_sync=1)


def _at_once(names: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many as a statement can name: the engine takes 256 kB of text."""
    for start in range(0, len(names), NAMES_MAX):
        yield names[start : start + NAMES_MAX]


def _bound(text: str, params: Params) -> Statement:
    used: dict[str, Param] = {name: value for name, value in params.values.items() if f"{{{name}:" in text}
    return Statement(text, used)


def _before(table: str, limit_ms: int, params: Params) -> str:
    if table in _IN_NS:
        return f"start_ns < {params.bind(limit_ms * 1_000_000, 'Int64')}"
    return f"timestamp < fromUnixTimestamp64Milli({params.bind(max(0, limit_ms), 'Int64')}, 'UTC')"


def _time_ms(table: str) -> str:
    return "intDiv(start_ns, 1000000)" if table in _IN_NS else "toUnixTimestamp64Milli(timestamp)"


def _rows_of(partitions: Sequence[Partition], table: str) -> int:
    return sum(one.rows for one in partitions if one.table == table)


def _day(now_ms: int) -> int:
    return now_ms // DAY_MS * DAY_MS


def _month(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(max(0, at_ms) / 1000, UTC):%Y%m}"


def _next_month_ms(partition: str) -> int:
    year, month = int(partition[:4]), int(partition[4:])
    return int(datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp() * 1000)
