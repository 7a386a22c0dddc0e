"""The functions and aggregates VQL knows: names, argument types, result types. Execution and SQL look here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from vantage.core.rollup import WIDTHS_MS
from vantage.vql.table import ColumnType
from vantage.vql.tree import Column, Expr, children

Want = Literal["number", "string", "time", "bool", "any"]


@dataclass(frozen=True, slots=True)
class Function:
    """``result`` of None: the type of the first argument. ``optional`` counts trailing arguments that may be absent."""

    args: tuple[Want, ...]
    result: ColumnType | None
    aggregate: bool = False
    optional: int = 0
    parameter: bool = False


FUNCTIONS: Final[Mapping[str, Function]] = {
    # aggregates
    "count": Function(("any",), "int", aggregate=True, optional=1),
    "countIf": Function(("bool",), "int", aggregate=True),
    "sum": Function(("number",), "float", aggregate=True),
    "sumIf": Function(("number", "bool"), "float", aggregate=True),
    "avg": Function(("number",), "float", aggregate=True),
    "avgIf": Function(("number", "bool"), "float", aggregate=True),
    "min": Function(("number",), None, aggregate=True),
    "max": Function(("number",), None, aggregate=True),
    "quantile": Function(("number",), "float", aggregate=True, parameter=True),
    "uniq": Function(("any",), "int", aggregate=True),
    "any": Function(("any",), None, aggregate=True),
    "argMax": Function(("number", "number"), "float", aggregate=True),
    # The growth of cumulative series: resets seen, each series for itself, the first sample of each giving nothing.
    # For the pages and the API alone: it has no spelling in VQL's text.
    "increase": Function((), "float", aggregate=True),
    # The quantile of an hour's values, of which rollups keep sketches: within sketch.RELATIVE_ERROR. For pages and API.
    "sketchQuantile": Function((), "float", aggregate=True, parameter=True),
    # functions of a row
    "toStartOfInterval": Function(("time", "number"), "time"),
    "lower": Function(("string",), "string"),
    "upper": Function(("string",), "string"),
    "abs": Function(("number",), None),
    "floor": Function(("number",), "float"),
    "ceil": Function(("number",), "float"),
}

SERIES_COLUMNS: Final[Mapping[str, ColumnType]] = {
    "service_name": "string",
    "environment": "string",
    "metric_name": "string",
    "metric_type": "string",
    "unit": "string",
    "tags": "map",
}
METRICS: Final[Mapping[str, ColumnType]] = {
    "timestamp": "time",
    **SERIES_COLUMNS,
    "value": "float",
    "trace_id": "string",
    "span_id": "string",
}
SPANS: Final[Mapping[str, ColumnType]] = {
    "timestamp": "time",
    "trace_id": "string",
    "span_id": "string",
    "parent_span_id": "string",
    "service_name": "string",
    "environment": "string",
    "service_version": "string",
    "instance": "string",
    "name": "string",
    "kind": "string",
    "status": "string",
    "start_ns": "int",
    "duration_ns": "int",
    "attributes": "map",
}
# Samples summed up over 5 minutes or an hour: ``timestamp`` is where a bucket begins, and one bucket of a series may be
# told by several rows, which add up. For the pages and the API alone: they have no name in VQL's text.
ROLLUPS: Final[Mapping[str, ColumnType]] = {
    "timestamp": "time",
    **SERIES_COLUMNS,
    "count": "int",
    "sum": "float",
    "min": "float",
    "max": "float",
}
TABLES: Final[Mapping[str, Mapping[str, ColumnType]]] = {
    "metrics": METRICS,
    "spans": SPANS,
    "rollups_5m": ROLLUPS,
    "rollups_1h": ROLLUPS,
}
ROLLUP_WIDTHS_MS: Final[Mapping[str, int]] = {"rollups_5m": WIDTHS_MS["5m"], "rollups_1h": WIDTHS_MS["1h"]}


def series_only(expr: Expr) -> bool:
    """Whether an expression is known by the series alone."""
    if isinstance(expr, Column):
        return expr.name in SERIES_COLUMNS
    return all(map(series_only, children(expr)))
