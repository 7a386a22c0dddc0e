"""Edges on ClickHouse: counted bucket by bucket once the spans have come, and again when later ones came.

A view counts the spans of every 5 minutes and adds up their hashes. A bucket whose spans, and those of the minutes
around it, are the ones that its edges were counted from is read from ``edges_5m``; of any other the spans are joined.
So late spans are seen at once, whichever process stored them, and counting twice at the same time does no harm: each
count has a version, and one is valid.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import structlog

from vantage.core.clock import Clock
from vantage.core.dict_column import dict_encode
from vantage.core.errors import InputError
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS, Partials
from vantage.core.timerange import TimeRange
from vantage.storage.clickhouse.engine import Column, Engine, QueryResult, Statement, query_limits
from vantage.storage.clickhouse.expressions import Params
from vantage.storage.clickhouse.rows import read_spans
from vantage.storage.clickhouse.sql import bounds
from vantage.storage.edge_join import (
    NO_EDGE_SPANS,
    PARENT_REACH_MS,
    PEER_ATTRIBUTES,
    EdgeKey,
    EdgeKeys,
    added_edges,
    edge_spans,
)
from vantage.storage.ports import ServiceEdges
from vantage.storage.service_edges import SPANS_MAX, edge_width, sum_edges, whole_buckets

TIMEOUT_S: Final = 30.0
SETTLE_MS: Final = PARENT_REACH_MS + 60_000  # after its end a bucket is counted
BUCKETS_AT_ONCE: Final = 12  # that are counted together, an hour
_AROUND: Final = PARENT_REACH_MS // FIVE_MINUTES_MS  # buckets before and after one that its edges depend on
_RANDOM_BITS: Final = 20
_PEERS: Final = ", ".join(f"'{name}'" for name in PEER_ATTRIBUTES)
_SPANS_SELECTED: Final = (
    "trace_id, span_id, parent_span_id, service_name, environment, '' AS service_version, '' AS instance, '' AS name, "
    f"kind, status, start_ns, duration_ns, mapFilter((name, text) -> name IN ({_PEERS}), attributes) AS attributes"
)
_SERVICE_NAMES: Final = ("service_name", "environment", "service_version", "instance")
# What edges are of, without a version.
_NAMES: Final = ("caller", "caller_environment", "callee", "callee_environment", "kind")

_log = structlog.get_logger("vantage.storage.clickhouse")


@dataclass(frozen=True, slots=True)
class _Bucket:
    """What is known of 5 minutes: how many spans start in them, the fingerprint of those and of what lies around, and
    which count is the latest, of which fingerprint."""

    at_ms: int
    spans: int
    fingerprint: int
    version: int = 0
    counted: int | None = None

    @property
    def is_counted(self) -> bool:
        return self.counted == self.fingerprint


class EdgeTable:
    """Reads and counts edges. Its methods block; any thread may call them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self, time_range: TimeRange, *, now_ms: int, since_ms: int, raw_since_ms: int) -> ServiceEdges:
        """Return the edges of a range. Those of buckets up to ``since_ms``, which an earlier version wrote, are
        computed from spans; buckets before ``raw_since_ms`` have lost their spans, and keep the edges they have. Raises
        InputError when too many spans would be read."""
        in_buckets = whole_buckets(time_range, width_ms=edge_width(time_range, now_ms=now_ms))
        counted_since_ms = since_ms // FIVE_MINUTES_MS * FIVE_MINUTES_MS + FIVE_MINUTES_MS if since_ms else 0
        start_ms = min(max(in_buckets.start_ms, counted_since_ms), in_buckets.end_ms)
        keys = EdgeKeys()
        parts: list[Partials] = []
        stale: list[TimeRange] = []
        if in_buckets.start_ms < start_ms:
            stale.append(TimeRange(in_buckets.start_ms, start_ms))
        if start_ms < in_buckets.end_ms:
            buckets = self._buckets(TimeRange(start_ms, in_buckets.end_ms))
            is_stale = [not bucket.is_counted and bucket.at_ms >= raw_since_ms for bucket in buckets]
            runs = [bucket.at_ms for bucket, old in zip(buckets, is_stale, strict=True) if old]
            stale += _ranges(runs)
            parts.append(self._counted(TimeRange(start_ms, in_buckets.end_ms), stale, keys))
        spans = 0
        for run in stale:
            spans += self._count_spans(run)
            if spans > SPANS_MAX:
                raise InputError(f"the range has more than {SPANS_MAX} spans: narrow it")
        parts += [self._join(run, keys) for run in stale]
        return sum_edges(parts, keys, in_buckets)

    def count_again(
        self, time_range: TimeRange, *, clock: Clock, ended_ms: int | None = None, buckets_max: int = BUCKETS_AT_ONCE
    ) -> int:
        """Count the latest buckets that have to be counted, among those that are over; return how many were."""
        ended_ms = time_range.end_ms if ended_ms is None else ended_ms
        waiting = [
            bucket
            for bucket in self._buckets(time_range)
            if not bucket.is_counted and bucket.at_ms + FIVE_MINUTES_MS <= ended_ms
        ][-buckets_max:]
        for run in _ranges([bucket.at_ms for bucket in waiting]):
            of_run = [bucket for bucket in waiting if run.start_ms <= bucket.at_ms < run.end_ms]
            # Above the version of every count there is, also where a clock was ahead.
            version = max(clock.now_ms() << _RANDOM_BITS, *(bucket.version for bucket in of_run)) + 1
            version += secrets.randbelow(1 << _RANDOM_BITS)
            keys = EdgeKeys()
            rows = self._join(run, keys)
            if len(rows):
                self._insert("edges_5m", _edge_columns(rows, keys.keys, version))
            self._insert("edge_buckets", _bucket_columns(of_run, version))
        return len(waiting)

    def add_buckets(self, time_range: TimeRange) -> None:
        """Count the spans that the views did not, since they came before them, of a range of whole hours. May be
        repeated."""
        self._add_services(time_range)
        params = Params()
        of_spans = " AND ".join(bounds(time_range, params, spans=True))
        of_buckets = " AND ".join(bounds(time_range, params, spans=False))
        result = self._query(
            "SELECT toUnixTimestamp64Milli(at) AS at_ms, sum(number) AS spans, sum(hashes) AS fingerprint FROM ("
            "SELECT fromUnixTimestamp64Milli(intDiv(start_ns, 300000000000) * 300000, 'UTC') AS at, "
            "toInt64(count()) AS number, "
            "sum(reinterpretAsInt64(cityHash64(trace_id, span_id, service_name, kind, start_ns))) AS hashes "
            f"FROM spans WHERE {of_spans} GROUP BY at UNION ALL "
            f"SELECT timestamp AS at, -spans AS number, -fingerprint AS hashes FROM span_buckets WHERE {of_buckets}"
            ") GROUP BY at HAVING spans != 0 OR fingerprint != 0",
            params,
        )
        if len(result):
            columns: dict[str, Column] = {
                "timestamp": result.ints("at_ms").view("datetime64[ms]"),
                "spans": result.ints("spans"),
                "fingerprint": result.ints("fingerprint"),
            }
            self._insert("span_buckets", columns)

    def _add_services(self, time_range: TimeRange) -> None:
        params = Params()
        of_spans = " AND ".join(bounds(time_range, params, spans=True))
        of_hours = " AND ".join(bounds(time_range, params, spans=False))
        names = ", ".join(_SERVICE_NAMES)
        result = self._query(
            f"SELECT {names}, toUnixTimestamp64Milli(at) AS at_ms, sum(number) AS missing, min(began_ns) AS first_ns, "
            f"max(ended_ns) AS last_ns FROM (SELECT {names}, "
            "fromUnixTimestamp64Milli(intDiv(start_ns, 3600000000000) * 3600000, 'UTC') AS at, "
            "toInt64(count()) AS number, min(start_ns) AS began_ns, max(start_ns) AS ended_ns "
            f"FROM spans WHERE {of_spans} GROUP BY {names}, at UNION ALL "
            f"SELECT {names}, timestamp AS at, -spans AS number, first_ns AS began_ns, last_ns AS ended_ns "
            f"FROM span_services WHERE {of_hours}) GROUP BY {names}, at HAVING missing > 0",
            params,
        )
        if len(result):
            columns: dict[str, Column] = {
                "timestamp": result.ints("at_ms").view("datetime64[ms]"),
                **{name: result.text_column(name) for name in _SERVICE_NAMES},
                "spans": result.ints("missing"),
                "first_ns": result.ints("first_ns"),
                "last_ns": result.ints("last_ns"),
            }
            self._insert("span_services", columns)

    def _buckets(self, time_range: TimeRange) -> list[_Bucket]:
        """Return the buckets of a range that have spans, in order."""
        reach_ms = _AROUND * FIVE_MINUTES_MS
        around = TimeRange(time_range.start_ms - reach_ms, time_range.end_ms + reach_ms)
        params = Params()
        where = " AND ".join(bounds(around, params, spans=False))
        stored = self._query(
            "SELECT toUnixTimestamp64Milli(timestamp) AS at_ms, sum(spans) AS spans_in, sum(fingerprint) AS hashes "
            f"FROM span_buckets WHERE {where} GROUP BY timestamp ORDER BY timestamp",
            params,
        )
        spans = {
            at_ms: (number, hashes)
            for at_ms, number, hashes in zip(*(stored.to_list(name) for name in ("at_ms", "spans_in", "hashes")),
                                             strict=True)
            if number > 0
        }  # fmt: skip
        counts = self._query(
            "SELECT toUnixTimestamp64Milli(timestamp) AS at_ms, max(version) AS newest, "
            f"argMax(fingerprint, version) AS counted FROM edge_buckets WHERE {where} GROUP BY timestamp",
            params,
        )
        versions = {
            at_ms: (newest, counted)
            for at_ms, newest, counted in zip(
                *(counts.to_list(name) for name in ("at_ms", "newest", "counted")), strict=True
            )
        }
        return [
            _Bucket(at_ms, spans[at_ms][0], _fingerprint(at_ms, spans), *versions.get(at_ms, (0, None)))
            for at_ms in spans
            if time_range.start_ms <= at_ms < time_range.end_ms
        ]

    def _counted(self, time_range: TimeRange, stale: Sequence[TimeRange], keys: EdgeKeys) -> Partials:
        """Return the edges of the buckets that are not stale, all as of the start of the range."""
        params = Params()
        within = " AND ".join(bounds(time_range, params, spans=False))
        except_stale = "".join(
            f" AND NOT ({' AND '.join(bounds(run, params, spans=False))})"
            for run in stale
            if run.end_ms > time_range.start_ms
        )
        names = ", ".join(_NAMES)
        result = self._query(
            f"SELECT {names}, failed, sum(calls) AS calls_in, sum(duration_ns_sum) AS total, "
            f"max(duration_ns_max) AS longest FROM edges_5m WHERE {within}{except_stale} AND (timestamp, version) IN "
            f"(SELECT timestamp, max(version) FROM edge_buckets WHERE {within} GROUP BY timestamp) "
            f"GROUP BY {names}, failed",
            params,
        )
        columns = [result.to_list(name) for name in (*_NAMES, "failed")]
        codes = [
            keys.code(EdgeKey(caller, environment, callee, callee_environment, kind, bool(failed)))
            for caller, environment, callee, callee_environment, kind, failed in zip(*columns, strict=True)
        ]
        return Partials(
            np.array(codes, np.uint32),
            np.full(len(codes), time_range.start_ms),
            result.ints("calls_in"),
            result.ints("total").astype(np.float64),
            np.zeros(len(codes)),
            result.ints("longest").astype(np.float64),
        )

    def _count_spans(self, time_range: TimeRange) -> int:
        params = Params()
        where = " AND ".join(bounds(_with_reach(time_range), params, spans=True))
        return int(self._query(f"SELECT toInt64(count()) AS n FROM spans WHERE {where}", params).to_list("n")[0])

    def _join(self, time_range: TimeRange, keys: EdgeKeys) -> Partials:
        """Return the edges of a range of buckets, from its spans."""
        params = Params()
        where = " AND ".join(bounds(_with_reach(time_range), params, spans=True))
        result = self._query(f"SELECT {_SPANS_SELECTED} FROM spans WHERE {where}", params)
        rows = added_edges(edge_spans(read_spans(result)), NO_EDGE_SPANS, keys)
        return rows.take(np.flatnonzero((rows.time_ms >= time_range.start_ms) & (rows.time_ms < time_range.end_ms)))

    def _query(self, text: str, params: Params) -> QueryResult:
        used = {name: value for name, value in params.values.items() if f"{{{name}:" in text}
        return self._engine.run(Statement(text, used), query_limits(TIMEOUT_S))

    def _insert(self, table: str, columns: Mapping[str, Column]) -> None:
        self._engine.insert(self._engine.encode(table, columns, token=secrets.token_hex(12)))


def _with_reach(time_range: TimeRange) -> TimeRange:
    return TimeRange(time_range.start_ms - PARENT_REACH_MS, time_range.end_ms + PARENT_REACH_MS)


def _fingerprint(at_ms: int, spans: Mapping[int, tuple[int, int]]) -> int:
    """Return the fingerprint of the spans that the edges of a bucket depend on, as a signed number of 64 bits."""
    total = 0
    for step in range(-_AROUND, _AROUND + 1):
        number, hashes = spans.get(at_ms + step * FIVE_MINUTES_MS, (0, 0))
        total += number * 0x9E3779B97F4A7C15 + hashes
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)


def _ranges(starts_ms: Sequence[int]) -> list[TimeRange]:
    """Return the ranges of neighbouring buckets, an hour long at most."""
    ranges: list[TimeRange] = []
    for at_ms in starts_ms:
        last = ranges[-1] if ranges else None
        if last is not None and last.end_ms == at_ms and at_ms + FIVE_MINUTES_MS - last.start_ms <= HOUR_MS:
            ranges[-1] = TimeRange(last.start_ms, at_ms + FIVE_MINUTES_MS)
        else:
            ranges.append(TimeRange(at_ms, at_ms + FIVE_MINUTES_MS))
    return ranges


def _edge_columns(rows: Partials, keys: Sequence[EdgeKey], version: int) -> dict[str, Column]:
    named = [keys[code] for code in rows.slot.tolist()]
    return {
        "timestamp": rows.time_ms.view("datetime64[ms]"),
        **{name: dict_encode([getattr(key, name) for key in named]) for name in _NAMES},
        "failed": np.array([key.failed for key in named], np.uint8),
        "version": np.full(len(rows), version),
        "calls": rows.count,
        "duration_ns_sum": rows.sum.astype(np.int64),
        "duration_ns_max": rows.max.astype(np.int64),
    }


def _bucket_columns(buckets: Sequence[_Bucket], version: int) -> dict[str, Column]:
    return {
        "timestamp": np.array([bucket.at_ms for bucket in buckets], np.int64).view("datetime64[ms]"),
        "version": np.full(len(buckets), version),
        "fingerprint": np.array([bucket.fingerprint for bucket in buckets], np.int64),
    }
