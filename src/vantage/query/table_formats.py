"""Encode tables as CSV, NDJSON and Parquet, in chunks, so that a long result is never one string."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from itertools import islice
from typing import Any, Final

import msgspec

from vantage.vql.table import Table

ROWS_PER_CHUNK: Final = 1000
CSV: Final = "csv"
NDJSON: Final = "ndjson"
PARQUET: Final = "parquet"
MEDIA_TYPES: Final[Mapping[str, str]] = {
    CSV: "text/csv",
    NDJSON: "application/x-ndjson",
    PARQUET: "application/vnd.apache.parquet",
}
PARQUET_MISSING: Final = "Parquet needs pyarrow on the server: pip install 'vantage[parquet]'"


def has_parquet() -> bool:
    return find_spec("pyarrow") is not None


def encode_table(table: Table, kind: str) -> Iterator[bytes]:
    """Yield the table in one of ``MEDIA_TYPES``. Parquet requires ``has_parquet``."""
    encode: Callable[[Table], Iterator[bytes]] = {CSV: _csv, NDJSON: _ndjson, PARQUET: _parquet}[kind]
    return encode(table)


def _csv(table: Table) -> Iterator[bytes]:
    """Yield RFC 4180 with a header line. NULL is empty, a map is JSON, a condition true or false."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([column.name for column in table.columns])
    rows = table.rows()
    while chunk := list(islice(rows, ROWS_PER_CHUNK)):
        writer.writerows([[_csv_cell(cell) for cell in row] for row in chunk])
        yield _drain(text)
    if text.tell():
        yield _drain(text)


def _csv_cell(cell: Any) -> Any:
    if isinstance(cell, dict):
        return json.dumps(cell, ensure_ascii=False, separators=(",", ":"))
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return cell


def _drain(text: io.StringIO) -> bytes:
    data = text.getvalue().encode()
    text.seek(0)
    text.truncate()
    return data


def _ndjson(table: Table) -> Iterator[bytes]:
    """Yield one JSON object per row."""
    encoder = msgspec.json.Encoder()
    names = [column.name for column in table.columns]
    rows = table.rows()
    while chunk := list(islice(rows, ROWS_PER_CHUNK)):
        yield encoder.encode_lines([dict(zip(names, row, strict=True)) for row in chunk])


def _parquet(table: Table) -> Iterator[bytes]:
    """Yield one row group. Times are ``timestamp[ms, UTC]``, maps ``map<string, string>``."""
    import pyarrow as pa
    from pyarrow import parquet

    types: Mapping[str, Any] = {
        "string": pa.string(),
        "float": pa.float64(),
        "int": pa.int64(),
        "time": pa.timestamp("ms", tz="UTC"),
        "bool": pa.bool_(),
        "map": pa.map_(pa.string(), pa.string()),
    }
    arrays, fields = [], []
    for column, values in zip(table.columns, table.data, strict=True):
        cells = [None if tags is None else list(tags.items()) for tags in values] if column.type == "map" else values
        arrays.append(pa.array(cells, types[column.type]))
        fields.append(pa.field(column.name, types[column.type], nullable=True))
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), sink)
    yield sink.getvalue()
