"""Convert samples, series and spans to rows of the tables, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Final

import numpy as np

from vantage.core.arrays import I64, Rows
from vantage.core.batch import Batch
from vantage.core.dict_column import DictColumn, TextColumn, dict_encode
from vantage.core.exemplars import Exemplars, encode_exemplars
from vantage.core.idhash import encode_ids
from vantage.core.red import RedKey, RedKeys, RedLevel
from vantage.core.rollup import Partials, Sketches, concat_partials
from vantage.core.sample import Kind
from vantage.core.series import Series, make_series
from vantage.core.span import Span
from vantage.core.span_table import SpanTable, build_span_table
from vantage.storage.clickhouse.batch_id_table import BatchId
from vantage.storage.clickhouse.engine import Column, QueryResult
from vantage.vql.check import CheckedSelect
from vantage.vql.table import ColumnType, Table

SPAN_COLUMNS: Final = (
    "trace_id", "span_id", "parent_span_id", "service_name", "environment", "service_version", "instance", "name",
    "kind", "status", "start_ns", "duration_ns",
)  # fmt: skip

SERIES_COLUMNS: Final = ("service_name", "environment", "metric_name", "metric_type", "unit", "tags")
SERIES_SELECTED: Final = ", ".join(SERIES_COLUMNS)
SPANS_SELECTED: Final = ", ".join((*SPAN_COLUMNS, "attributes"))
RED_NAMES: Final = ("source", "service_name", "environment", "service_version", "outcome", "method", "route")
RED_SELECTED: Final = (
    "toInt64(sum(count)) AS rows_in, sum(sum) AS total, min(min) AS low, max(max) AS high, sumMap(sketch) AS cells, "
    "mapKeys(cells) AS sketch_keys, mapValues(cells) AS sketch_counts"
)
SAMPLES_SELECTED: Final = "series_id, toUnixTimestamp64Milli(timestamp) AS time_ms, value, trace_id, span_id"


def sample_columns(batches: Sequence[tuple[Batch, Sequence[Series]]]) -> dict[str, Column]:
    """Return the columns of batches' samples. Each batch comes with the series that take its samples, in the order of
    its own ``series``."""
    slot_of: dict[int, int] = {}
    distinct: list[Series] = []
    series_of: list[I64] = []
    ids: dict[int, tuple[str, str]] = {}
    rows = 0
    for batch, series in batches:
        slots = []
        for target in series:
            slot = slot_of.setdefault(target.id, len(distinct))
            if slot == len(distinct):
                distinct.append(target)
            slots.append(slot)
        series_of.append(np.array(slots, np.int64)[batch.index] if slots else np.empty(0, np.int64))
        for position, trace_id, span_id in batch.exemplars.rows():
            ids[rows + position] = (trace_id, span_id)
        rows += batch.samples
    slots_of_rows = np.concatenate(series_of)
    positions = np.fromiter(ids, np.int64, len(ids))
    return {
        **{name: _by_series(texts, slots_of_rows) for name, texts in _names(distinct).items()},
        "series_id": np.array([target.id for target in distinct], np.uint64)[slots_of_rows],
        "timestamp": _times(np.concatenate([batch.time_ms for batch, _ in batches])),
        "value": np.concatenate([batch.value for batch, _ in batches]),
        "trace_id": _sparse([trace_id for trace_id, _ in ids.values()], positions, rows),
        "span_id": _sparse([span_id for _, span_id in ids.values()], positions, rows),
    }


def _names(series: Sequence[Series]) -> dict[str, TextColumn]:
    return {
        "service_name": dict_encode([item.service for item in series]),
        "environment": dict_encode([item.environment for item in series]),
        "metric_name": dict_encode([item.metric for item in series]),
        "metric_type": dict_encode([item.kind.value for item in series]),
        "unit": dict_encode([item.unit for item in series]),
    }


def _by_series(texts: TextColumn, slot: I64) -> TextColumn:
    return DictColumn(texts.codes[slot], texts.values)


def _times(time_ms: I64) -> np.ndarray[tuple[int], np.dtype[np.datetime64]]:
    return time_ms.astype(np.int64, copy=False).view("datetime64[ms]")


def _sparse(texts: list[str], positions: I64, rows: int) -> TextColumn:
    """Return a column with texts at ``positions``, '' elsewhere."""
    coded = dict_encode(["", *texts])
    codes = np.zeros(rows, np.uint32)
    codes[positions] = coded.codes[1:]
    return DictColumn(codes, coded.values)


def series_columns(series: Sequence[Series], *, now_ms: int) -> dict[str, Column]:
    """Return the columns of series; ``first_seen`` is ``now_ms``."""
    return {
        "series_id": np.array([item.id for item in series], np.uint64),
        **_names(series),
        "tags": [dict(item.tags) for item in series],
        "first_seen": _times(np.full(len(series), now_ms, np.int64)),
    }


def span_columns(spans: Sequence[Span]) -> dict[str, Column]:
    """Return the columns of spans."""
    table = build_span_table(spans)
    return {
        "trace_id": [span.trace_id for span in spans],
        "span_id": [span.span_id for span in spans],
        "parent_span_id": [span.parent_span_id for span in spans],
        "service_name": table.service_name,
        "environment": table.environment,
        "service_version": table.service_version,
        "instance": table.instance,
        "name": table.name,
        "kind": table.kind,
        "status": table.status,
        "start_ns": table.start_ns,
        "duration_ns": table.duration_ns,
        "attributes": [span.attributes for span in spans],
    }


def red_columns(levels: Mapping[RedLevel, Partials], keys: Sequence[RedKey]) -> dict[str, Column]:
    """Return the columns of rollups of requests by level; ``keys`` are by code."""
    partials = concat_partials(list(levels.values()))
    named = [keys[code] for code in partials.slot.tolist()]
    return {
        "level": dict_encode([level for level, rows in levels.items() for _ in range(len(rows))]),
        "source": dict_encode([key.source for key in named]),
        "service_name": dict_encode([key.service for key in named]),
        "environment": dict_encode([key.environment for key in named]),
        "service_version": dict_encode([key.version for key in named]),
        "outcome": dict_encode([key.outcome for key in named]),
        "method": dict_encode([key.method for key in named]),
        "route": dict_encode([key.route for key in named]),
        "timestamp": _times(partials.time_ms),
        "count": partials.count.astype(np.uint64),
        "sum": partials.sum,
        "min": partials.min,
        "max": partials.max,
        "sketch": _sketch_maps(partials.sketches, len(partials)),
    }


def _sketch_maps(sketches: Sketches, rows: int) -> list[dict[int, int]]:
    ends = np.cumsum(np.bincount(sketches.row, minlength=rows)).tolist()
    keys, counts = sketches.key.tolist(), sketches.count.tolist()
    return [dict(zip(keys[start:end], counts[start:end], strict=True)) for start, end in pairwise([0, *ends])]


def read_red(result: QueryResult, keys: RedKeys) -> Partials:
    """Return rollups of requests from rows of RED_SELECTED, under the codes of ``keys``."""
    names = [result.to_list(name) for name in RED_NAMES]
    codes = [keys.code(RedKey(*row)) for row in zip(*names, strict=True)]
    sketch_keys, counts = result.to_list("sketch_keys"), result.to_list("sketch_counts")
    return Partials(
        np.array(codes, np.uint32),
        result.ints("time_ms"),
        result.ints("rows_in"),
        result.floats("total"),
        result.floats("low"),
        result.floats("high"),
        Sketches(
            np.repeat(np.arange(len(codes)), [len(row) for row in sketch_keys]),
            np.fromiter(chain.from_iterable(sketch_keys), np.int32),
            np.fromiter(chain.from_iterable(counts), np.int64),
        ),
    )


def batch_id_columns(ids: Sequence[BatchId]) -> dict[str, Column]:
    """Return the columns of the ids of batches."""
    return {
        "kept_at": _times(np.array([item.at_ms for item in ids], np.int64)),
        "batch_id": [item.batch_id for item in ids],
        "message_partition": np.array([item.partition for item in ids], np.int32),
        "message_offset": np.array([item.offset for item in ids], np.int64),
    }


def read_series(result: QueryResult) -> Iterator[Series]:
    """Yield series from rows of SERIES_SELECTED."""
    columns = map(result.to_list, SERIES_COLUMNS)
    for service, environment, metric, kind, unit, tags in zip(*columns, strict=True):
        yield make_series(
            service=service, environment=environment, metric=metric, kind=Kind(kind), unit=unit, tags=tags
        )


def read_spans(result: QueryResult) -> SpanTable:
    """Return spans from rows of SPANS_SELECTED."""
    if not len(result):
        return build_span_table(())
    maps = result.to_list("attributes")
    keys = [key for attributes in maps for key in attributes]
    values = [value for attributes in maps for value in attributes.values()]
    return SpanTable(
        trace_id=encode_ids(result.to_list("trace_id")),
        span_id=encode_ids(result.to_list("span_id")),
        parent_span_id=encode_ids(result.to_list("parent_span_id")),
        service_name=result.text_column("service_name"),
        name=result.text_column("name"),
        kind=result.text_column("kind"),
        status=result.text_column("status"),
        environment=result.text_column("environment"),
        service_version=result.text_column("service_version"),
        instance=result.text_column("instance"),
        start_ns=result.ints("start_ns"),
        duration_ns=result.ints("duration_ns"),
        attr_start=np.cumsum([0, *map(len, maps)], dtype=np.int64),
        attr_key=dict_encode(keys),
        attr_value=dict_encode(values),
    )


def read_samples(result: QueryResult, known: Mapping[int, Series], *, rows_max: int) -> Iterator[Batch]:
    """Yield batches from rows of SAMPLES_SELECTED, without rows of deleted series."""
    ids = np.array(result.to_list("series_id"), np.uint64)
    time_ms, value = result.ints("time_ms"), result.floats("value")
    traces, spans = result.text_column("trace_id"), result.text_column("span_id")
    rows = np.flatnonzero(np.array([series_id in known for series_id in ids.tolist()], np.bool_))
    for start in range(0, len(rows), rows_max):
        chunk = rows[start : start + rows_max]
        distinct, index = np.unique(ids[chunk], return_inverse=True)
        yield Batch(
            series=tuple(known[series_id] for series_id in distinct.tolist()),
            index=index.astype(np.uint32),
            time_ms=time_ms[chunk],
            value=value[chunk],
            exemplars=_exemplars(traces, spans, chunk),
        )


def _exemplars(trace_ids: TextColumn, span_ids: TextColumn, rows: Rows) -> Exemplars:
    trace_ids, span_ids = trace_ids.take_compact(rows), span_ids.take_compact(rows)
    position = np.flatnonzero(trace_ids.mask(bool) | span_ids.mask(bool))
    return encode_exemplars(position, trace_ids.take(position).to_list(), span_ids.take(position).to_list())


def read_table(query: CheckedSelect, result: QueryResult) -> Table:
    """Return the table of a printed query, without the row beyond the limit."""
    has_more = len(result) > query.limit
    has_own_limit = query.select.limit is not None and query.select.limit <= query.limit
    data = tuple(
        _values(result.to_list(f"c{number}")[: query.limit], column.type) for number, column in enumerate(query.columns)
    )
    return Table(query.columns, data, truncated=has_more and not has_own_limit)


def _values(values: list[object], kind: ColumnType) -> list[object]:
    if kind == "bool":
        return [None if value is None else bool(value) for value in values]
    if kind == "float":
        return [float(value) if isinstance(value, int) else value for value in values]
    return values
