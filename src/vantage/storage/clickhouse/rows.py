"""What the store keeps, as rows of the tables, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from vantage.core.arrays import I64, Rows
from vantage.core.batch import Batch
from vantage.core.dict_column import DictColumn, TextColumn, dict_encode
from vantage.core.exemplars import Exemplars, encode_exemplars
from vantage.core.idhash import encode_ids
from vantage.core.sample import Kind
from vantage.core.series import Series, make_series
from vantage.core.span import Span
from vantage.core.span_table import SpanTable, build_span_table
from vantage.storage.clickhouse.engine import Column, QueryResult
from vantage.vql.check import CheckedSelect
from vantage.vql.table import ColumnType, Table

SPAN_COLUMNS: Final = (
    "trace_id", "span_id", "parent_span_id", "service_name", "environment", "service_version", "instance", "name",
    "kind", "status", "start_ns", "duration_ns",
)  # fmt: skip
# A span's attributes go out as two arrays: of maps the order, and keys that are there twice, would not be sure.
SPANS_SELECTED: Final = ", ".join((*SPAN_COLUMNS, "attributes"))
SAMPLES_SELECTED: Final = "series_id, toUnixTimestamp64Milli(timestamp) AS time_ms, value, trace_id, span_id"


def sample_columns(batches: Sequence[tuple[Batch, Sequence[Series]]]) -> dict[str, Column]:
    """The samples of batches, each with the series that take them, in the order of its own ``series``."""
    places: dict[int, int] = {}
    held: list[Series] = []
    series_of: list[I64] = []
    ids: dict[int, tuple[str, str]] = {}
    rows = 0
    for batch, series in batches:
        slots = []
        for one in series:
            slot = places.setdefault(one.id, len(held))
            if slot == len(held):
                held.append(one)
            slots.append(slot)
        series_of.append(np.array(slots, np.int64)[batch.index] if slots else np.empty(0, np.int64))
        for position, trace_id, span_id in batch.exemplars.rows():
            ids[rows + position] = (trace_id, span_id)
        rows += batch.samples
    place = np.concatenate(series_of)
    positions = np.fromiter(ids, np.int64, len(ids))
    return {
        **{name: _by_series(texts, place) for name, texts in _names(held).items()},
        "series_id": np.array([one.id for one in held], np.uint64)[place],
        "timestamp": _times(np.concatenate([batch.time_ms for batch, _ in batches])),
        "value": np.concatenate([batch.value for batch, _ in batches]),
        "trace_id": _sparse([trace_id for trace_id, _ in ids.values()], positions, rows),
        "span_id": _sparse([span_id for _, span_id in ids.values()], positions, rows),
    }


def _names(series: Sequence[Series]) -> dict[str, TextColumn]:
    return {
        "service_name": dict_encode([one.service for one in series]),
        "environment": dict_encode([one.environment for one in series]),
        "metric_name": dict_encode([one.metric for one in series]),
        "metric_type": dict_encode([one.kind.value for one in series]),
        "unit": dict_encode([one.unit for one in series]),
    }


def _by_series(texts: TextColumn, place: I64) -> TextColumn:
    return DictColumn(texts.codes[place], texts.values)


def _times(time_ms: I64) -> np.ndarray[tuple[int], np.dtype[np.datetime64]]:
    return time_ms.astype(np.int64, copy=False).view("datetime64[ms]")


def _sparse(texts: list[str], positions: I64, rows: int) -> TextColumn:
    """A text for some rows, '' for the others."""
    coded = dict_encode(["", *texts])
    codes = np.zeros(rows, np.uint32)
    codes[positions] = coded.codes[1:]
    return DictColumn(codes, coded.values)


def series_columns(series: Sequence[Series], *, now_ms: int) -> dict[str, Column]:
    """Identities; ``first_seen`` is when they came."""
    return {
        "series_id": np.array([one.id for one in series], np.uint64),
        **_names(series),
        "tags": [dict(one.tags) for one in series],
        "first_seen": _times(np.full(len(series), now_ms, np.int64)),
    }


def span_columns(spans: Sequence[Span]) -> dict[str, Column]:
    """Spans as rows."""
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


def batch_id_columns(ids: Sequence[str], *, now_ms: int) -> dict[str, Column]:
    """The ids of batches that are kept now."""
    return {"kept_at": _times(np.full(len(ids), now_ms, np.int64)), "batch_id": list(ids)}


def read_series(answer: QueryResult) -> Iterator[Series]:
    """Identities from rows of the table of series."""
    names = ("service_name", "environment", "metric_name", "metric_type", "unit", "tags")
    for service, environment, metric, kind, unit, tags in zip(*map(answer.to_list, names), strict=True):
        yield make_series(
            service=service, environment=environment, metric=metric, kind=Kind(kind), unit=unit, tags=tags
        )


def read_spans(answer: QueryResult) -> SpanTable:
    """Spans from rows of SPANS_SELECTED."""
    if not len(answer):
        return build_span_table(())
    maps = answer.to_list("attributes")
    keys = [key for one in maps for key in one]
    values = [value for one in maps for value in one.values()]
    return SpanTable(
        trace_id=encode_ids(answer.to_list("trace_id")),
        span_id=encode_ids(answer.to_list("span_id")),
        parent_span_id=encode_ids(answer.to_list("parent_span_id")),
        service_name=answer.text_column("service_name"),
        name=answer.text_column("name"),
        kind=answer.text_column("kind"),
        status=answer.text_column("status"),
        environment=answer.text_column("environment"),
        service_version=answer.text_column("service_version"),
        instance=answer.text_column("instance"),
        start_ns=answer.ints("start_ns"),
        duration_ns=answer.ints("duration_ns"),
        attr_start=np.cumsum([0, *map(len, maps)], dtype=np.int64),
        attr_key=dict_encode(keys),
        attr_value=dict_encode(values),
    )


def read_samples(answer: QueryResult, known: Mapping[int, Series], *, rows_max: int) -> Iterator[Batch]:
    """Batches from rows of SAMPLES_SELECTED. Rows of a series that is gone are left out."""
    ids = np.array(answer.to_list("series_id"), np.uint64)
    time_ms, value = answer.ints("time_ms"), answer.floats("value")
    traces, spans = answer.text_column("trace_id"), answer.text_column("span_id")
    held = np.array([one in known for one in ids.tolist()], np.bool_)
    rows = np.flatnonzero(held)
    for start in range(0, len(rows), rows_max):
        some = rows[start : start + rows_max]
        distinct, index = np.unique(ids[some], return_inverse=True)
        yield Batch(
            series=tuple(known[one] for one in distinct.tolist()),
            index=index.astype(np.uint32),
            time_ms=time_ms[some],
            value=value[some],
            exemplars=_exemplars(traces, spans, some),
        )


def _exemplars(trace_ids: TextColumn, span_ids: TextColumn, rows: Rows) -> Exemplars:
    trace_ids, span_ids = trace_ids.take_compact(rows), span_ids.take_compact(rows)
    position = np.flatnonzero(trace_ids.mask(bool) | span_ids.mask(bool))
    return encode_exemplars(position, trace_ids.take(position).to_list(), span_ids.take(position).to_list())


def read_table(query: CheckedSelect, answer: QueryResult) -> Table:
    """The answer of a printed query, without the row beyond the limit."""
    truncated = len(answer) > query.limit
    asked = query.select.limit is not None and query.select.limit <= query.limit
    data = tuple(
        _values(answer.to_list(f"c{number}")[: query.limit], column.type) for number, column in enumerate(query.columns)
    )
    return Table(query.columns, data, truncated=truncated and not asked)


def _values(values: list[object], kind: ColumnType) -> list[object]:
    if kind == "bool":
        return [None if value is None else bool(value) for value in values]
    if kind == "float":
        return [float(value) if isinstance(value, int) else value for value in values]
    return values
