"""The functions and aggregates VQL knows: names, argument types, result types. Execution and SQL look here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from vantage.core.rollup import WIDTHS_MS
from vantage.vql.table import ColumnType
from vantage.vql.tree import Column, Expr, children

# "value" is a number or a text; "sortable" also a condition; "any" also a map.
Want = Literal["number", "string", "time", "bool", "value", "sortable", "any"]


@dataclass(frozen=True, slots=True)
class Function:
    """``result`` of None: the type of the first argument; ``common``: that of all of them together. ``optional`` counts
    trailing arguments that may be absent; with ``repeats`` the last one may be given again and again."""

    args: tuple[Want, ...]
    result: ColumnType | None
    aggregate: bool = False
    optional: int = 0
    repeats: bool = False
    common: bool = False
    parameter: bool = False
    in_text: bool = True


ARGUMENTS_MAX: Final = 32
_NUMBER: Final[tuple[Want, ...]] = ("number",)

FUNCTIONS: Final[Mapping[str, Function]] = {
    # aggregates
    "count": Function(("any",), "int", aggregate=True, optional=1),
    "countIf": Function(("bool",), "int", aggregate=True),
    "sum": Function(_NUMBER, "float", aggregate=True),
    "sumIf": Function(("number", "bool"), "float", aggregate=True),
    "avg": Function(_NUMBER, "float", aggregate=True),
    "avgIf": Function(("number", "bool"), "float", aggregate=True),
    "min": Function(("value",), None, aggregate=True),
    "max": Function(("value",), None, aggregate=True),
    "any": Function(("value",), None, aggregate=True),
    "argMax": Function(("value", "number"), None, aggregate=True),
    "quantile": Function(_NUMBER, "float", aggregate=True, parameter=True),
    "stddevPop": Function(_NUMBER, "float", aggregate=True),
    "uniq": Function(("any",), "int", aggregate=True),
    # The growth of cumulative series: resets seen, each series for itself, the first sample of each giving nothing.
    # For the pages and the API alone: it has no spelling in VQL's text.
    "increase": Function((), "float", aggregate=True, in_text=False),
    # The quantile of an hour's values, of which rollups keep sketches: within sketch.RELATIVE_ERROR. For pages and API.
    "sketchQuantile": Function((), "float", aggregate=True, parameter=True, in_text=False),
    # functions of a row
    "toStartOfInterval": Function(("time", "number", "number"), "time", optional=1),
    "toUnixTimestamp": Function(("time",), "int"),
    "round": Function(("number", "number"), "float", optional=1),
    "floor": Function(_NUMBER, "float"),
    "ceil": Function(_NUMBER, "float"),
    "abs": Function(_NUMBER, None),
    "log": Function(_NUMBER, "float"),
    "exp": Function(_NUMBER, "float"),
    "lower": Function(("string",), "string"),
    "upper": Function(("string",), "string"),
    "concat": Function(("string", "string"), "string", optional=1, repeats=True),
    "coalesce": Function(("value", "value"), None, optional=1, repeats=True, common=True),
}
AGGREGATES: Final = frozenset(name for name, function in FUNCTIONS.items() if function.aggregate)
# What text may call and the tree says in another way.
SPELLINGS: Final[Mapping[str, str]] = {
    "if": "a CASE with one condition",
    "median": "quantile(0.5)",
    "now": "the time of the query",
    "toStartOfSecond": "toStartOfInterval(…, INTERVAL 1 SECOND)",
    "toStartOfMinute": "toStartOfInterval(…, INTERVAL 1 MINUTE)",
    "toStartOfFiveMinutes": "toStartOfInterval(…, INTERVAL 5 MINUTE)",
    "toStartOfFifteenMinutes": "toStartOfInterval(…, INTERVAL 15 MINUTE)",
    "toStartOfHour": "toStartOfInterval(…, INTERVAL 1 HOUR)",
    "toStartOfDay": "toStartOfInterval(…, INTERVAL 1 DAY)",
}
# Every function of the text, in alphabetical order.
TEXT_FUNCTIONS: Final = tuple(
    sorted([*(name for name, function in FUNCTIONS.items() if function.in_text), *SPELLINGS], key=str.lower)
)

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
    "service_name": "string",
    "environment": "string",
    "metric_name": "string",
    "metric_type": "string",
    "value": "float",
    "unit": "string",
    "tags": "map",
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
# counted by several rows, which add up. For the pages and the API alone: they have no name in VQL's text.
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
TEXT_TABLES: Final = ("metrics", "spans")
ROLLUP_WIDTHS_MS: Final[Mapping[str, int]] = {"rollups_5m": WIDTHS_MS["5m"], "rollups_1h": WIDTHS_MS["1h"]}


def series_only(expr: Expr) -> bool:
    """Return whether an expression depends on the series alone."""
    if isinstance(expr, Column):
        return expr.name in SERIES_COLUMNS
    return all(map(series_only, children(expr)))
