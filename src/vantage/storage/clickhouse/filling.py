"""Fill in what an earlier version did not write: an hour at a time, the newest first.

What is inserted is the difference between what all samples and spans of the hour add up to and what is there. So an
hour that is filled in again, after a kill for one, adds nothing, and late data of it is counted once.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from vantage.core.red import MINUTE_MS, RedKeys, RedLevel, RedSlots, red_of_samples, red_of_spans, regroup
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS, NO_PARTIALS, Partials, Sketches, concat_partials
from vantage.core.sample_columns import SampleColumns
from vantage.core.series import Series
from vantage.core.timerange import TimeRange
from vantage.storage.clickhouse.commit import red_tables
from vantage.storage.clickhouse.engine import Engine, QueryResult, Statement, query_limits
from vantage.storage.clickhouse.expressions import Params
from vantage.storage.clickhouse.rows import RED_NAMES, RED_SELECTED, SPANS_SELECTED, read_red, read_spans, red_columns
from vantage.storage.clickhouse.series_table import SeriesTable
from vantage.storage.clickhouse.sql import bounds

What = Literal["red", "edges"]
TIMEOUT_S: Final = 60.0
_WIDTHS_MS: Final = {"red_1m": MINUTE_MS, "red_5m": FIVE_MINUTES_MS}
_LEVELS: Final[tuple[RedLevel, ...]] = ("service", "endpoint")
Tables = dict[str, dict[RedLevel, Partials]]


@dataclass(frozen=True, slots=True)
class RedHour:
    """An hour that is about to be filled in: what its data adds up to, and what there was before that was read."""

    time_range: TimeRange
    keys: RedKeys
    computed: Tables
    present: Tables


class Filler:
    """Fills in rollups of requests. Its methods block; one thread at a time."""

    def __init__(self, engine: Engine, series: SeriesTable) -> None:
        self._engine = engine
        self._series = series

    def since(self) -> dict[str, int]:
        """Return up to when an earlier version wrote, without edges (``edges``) or rollups of requests (``red``), as
        far as that is not filled in; 0: nothing is missing."""
        result = self._engine.run(Statement("SELECT what, min(since_ms) AS at_ms FROM filled_since GROUP BY what"))
        return dict(zip(result.to_list("what"), result.to_list("at_ms"), strict=True))

    def note_since(self, what: What, since_ms: int) -> None:
        """Note that everything after a time is there."""
        self._engine.run(
            Statement(
                "INSERT INTO filled_since SELECT {what:String}, {at:Int64}", {"what": what, "at": max(0, since_ms)}
            )
        )

    def next_hour(self, what: What, since_ms: int) -> TimeRange | None:
        """Return the last hour up to a time that has data, None where there is none."""
        params = Params()
        until = TimeRange(0, since_ms + 1)
        spans = " AND ".join(bounds(until, params, spans=True))
        newest = f"(SELECT intDiv(max(start_ns), 1000000) FROM spans WHERE {spans})"
        if what == "red":
            samples = " AND ".join(bounds(until, params, spans=False))
            newest = f"greatest({newest}, (SELECT toUnixTimestamp64Milli(max(timestamp)) FROM samples WHERE {samples}))"
        result = self._engine.run(
            Statement(f"SELECT assumeNotNull({newest}) AS at_ms", params.values), query_limits(TIMEOUT_S)
        )
        newest_ms = int(result.to_list("at_ms")[0])
        start_ms = newest_ms // HOUR_MS * HOUR_MS
        return TimeRange(start_ms, start_ms + HOUR_MS) if newest_ms > 0 else None

    def prepare(self, time_range: TimeRange, *, now_ms: int) -> RedHour:
        """Add up the data of an hour."""
        keys = RedKeys()
        present = self._present(time_range, keys)
        minutes = concat_partials([self._samples(time_range, keys), self._spans(time_range, keys)])
        minutes = regroup(minutes, None, width_ms=MINUTE_MS)
        return RedHour(time_range, keys, red_tables(minutes, keys, at_ms=now_ms), present)

    def insert(self, hour: RedHour) -> bool:
        """Insert what is missing of an hour; False where data came meanwhile: it has to be prepared again. No commit of
        this process may be under way."""
        if not _equal(self._present(hour.time_range, hour.keys), hour.present):
            return False
        for table, levels in hour.computed.items():
            missing = {
                level: _difference(rows, hour.present[table].get(level, NO_PARTIALS), _WIDTHS_MS[table])
                for level, rows in levels.items()
            }
            if any(map(len, missing.values())):
                columns = red_columns(missing, hour.keys.keys)
                self._engine.insert(self._engine.encode(table, columns, token=secrets.token_hex(12)))
        return True

    def _present(self, time_range: TimeRange, keys: RedKeys) -> Tables:
        names = ", ".join(RED_NAMES)
        tables: Tables = {}
        for table in _WIDTHS_MS:
            for level in _LEVELS:
                params = Params()
                where = " AND ".join(bounds(time_range, params, spans=False))
                text = (
                    f"SELECT {names}, toUnixTimestamp64Milli(timestamp) AS time_ms, {RED_SELECTED} FROM {table} "
                    f"WHERE level = {params.bind(level, 'String')} AND {where} GROUP BY {names}, timestamp"
                )
                result = self._engine.run(Statement(text, params.values), query_limits(TIMEOUT_S))
                tables.setdefault(table, {})[level] = read_red(result, keys)
        return tables

    def _samples(self, time_range: TimeRange, keys: RedKeys) -> Partials:
        params = Params()
        where = " AND ".join(bounds(time_range, params, spans=False))
        text = f"SELECT series_id, toUnixTimestamp64Milli(timestamp) AS time_ms, value FROM samples WHERE {where}"
        series: list[Series | None] = []
        slot_of: dict[int, int] = {}
        slots, sums = RedSlots(keys, series), NO_PARTIALS
        with closing(_stream(self._engine, text, params)) as chunks:
            for chunk in chunks:
                distinct, index = np.unique(np.array(chunk.to_list("series_id"), np.uint64), return_inverse=True)
                known = self._series.known(distinct.tolist())
                for series_id in distinct.tolist():
                    if slot_of.setdefault(series_id, len(series)) == len(series):
                        series.append(known.get(series_id))
                slot = np.array([slot_of[series_id] for series_id in distinct.tolist()], np.uint32)[index]
                columns = SampleColumns(slot, chunk.ints("time_ms"), chunk.floats("value"))
                sums = regroup(concat_partials([sums, red_of_samples(columns, slots)]), None, width_ms=MINUTE_MS)
        return sums

    def _spans(self, time_range: TimeRange, keys: RedKeys) -> Partials:
        params = Params()
        where = " AND ".join(bounds(time_range, params, spans=True))
        text = f"SELECT {SPANS_SELECTED} FROM spans WHERE {where} AND kind = 'server'"
        parts: list[Partials] = []
        with closing(_stream(self._engine, text, params)) as chunks:
            parts += [red_of_spans(read_spans(chunk), keys) for chunk in chunks]
        return concat_partials([part for part in parts if len(part)])


def _stream(engine: Engine, text: str, params: Params) -> Generator[QueryResult, None, None]:
    yield from engine.stream(Statement(text, params.values))


def _difference(computed: Partials, present: Partials, width_ms: int) -> Partials:
    """Return what is missing. A bucket whose samples have expired meanwhile keeps what it has."""
    negative = replace(
        present,
        count=-present.count,
        sum=-present.sum,
        min=np.full(len(present), np.inf),
        max=np.full(len(present), -np.inf),
        sketches=replace(present.sketches, count=-present.sketches.count),
    )
    rows = regroup(concat_partials([computed, negative]), None, width_ms=width_ms)
    rows = rows.take(np.flatnonzero(rows.count > 0))
    cells = rows.sketches.count > 0
    sketches = rows.sketches
    return replace(rows, sketches=Sketches(sketches.row[cells], sketches.key[cells], sketches.count[cells]))


def _equal(first: Mapping[str, Mapping[RedLevel, Partials]], other: Mapping[str, Mapping[RedLevel, Partials]]) -> bool:
    def counts(rows: Partials) -> dict[tuple[int, int], int]:
        keys: Sequence[tuple[int, int]] = list(zip(rows.slot.tolist(), rows.time_ms.tolist(), strict=True))
        return dict(zip(keys, rows.count.tolist(), strict=True))

    return all(counts(rows) == counts(other[table][level]) for table in first for level, rows in first[table].items())
