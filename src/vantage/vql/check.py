"""From a syntax tree to a checked query: names and types resolved, time range extracted, conditions sorted by what they
need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vantage.core.errors import QueryError
from vantage.core.present import Present
from vantage.core.timerange import TimeRange
from vantage.vql.signatures import AGGREGATES, ROLLUP_WIDTHS_MS, TABLES, series_only
from vantage.vql.table import TableColumn
from vantage.vql.tree import (
    And,
    Call,
    Column,
    Compare,
    Expr,
    Literal,
    Select,
    SelectItem,
    TableName,
    TagValue,
    children,
    conjuncts,
)
from vantage.vql.types import Types, expect_type, type_of

ROWS_MAX: Final = 10_000
TEXT_NBYTES_MAX: Final = 16_384  # of a query as text
DEFAULT_RANGE_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class CheckedSelect:
    """A query that may run.

    Conditions that need only a series' names and tags are in ``series_where``, the others in ``row_where``, bounds
    on ``timestamp`` in ``time_range``. ``grouped`` queries have one row per group, others one row per record.
    """

    select: Select
    time_range: TimeRange
    columns: tuple[TableColumn, ...]
    series_where: Expr | None
    row_where: Expr | None
    grouped: bool
    limit: int
    warnings: tuple[str, ...] = ()


def check(select: Select, *, now_ms: int, newest_ms: int = 0, rows_max: int = ROWS_MAX) -> CheckedSelect:
    """Check a tree. Without an upper bound of time it reads up to the clock and to the newest data. Raises QueryError
    naming the unknown or misused part."""
    types = TABLES[select.table]
    if not select.items:
        raise QueryError("asks for no column")
    columns = tuple(_column(item, types) for item in select.items)
    _check_conditions(select, types)
    outputs = [*(item.expr for item in select.items), *(order.expr for order in select.order_by)]
    if select.having is not None:
        outputs.append(select.having)
    grouped = bool(select.group_by) or any(first_aggregate(expr) is not None for expr in outputs)
    if grouped:
        for expr in outputs:
            _must_be_grouped(expr, select.group_by)
    elif select.having is not None:
        raise QueryError("HAVING needs a GROUP BY or an aggregate", at=select.having.at)
    _check_table_rules(select, outputs)
    time_range, rest, warnings = _time_range(select.where, Present(now_ms, newest_ms))
    series = [part for part in rest if select.table != "spans" and series_only(part)]
    rows = [part for part in rest if part not in series]
    if rows and select.table in ROLLUP_WIDTHS_MS:
        raise QueryError("rollups are chosen by time and by their series' names and tags alone")
    return CheckedSelect(
        select=select,
        time_range=time_range,
        columns=columns,
        series_where=_all_of(series),
        row_where=_all_of(rows),
        grouped=grouped,
        limit=min(rows_max, rows_max if select.limit is None else select.limit),
        warnings=warnings,
    )


def check_condition(condition: Expr, table: TableName) -> None:
    """Check a condition outside of a query. Raises QueryError."""
    _check_conditions(Select(table, (), where=condition), TABLES[table])


def _column(item: SelectItem, types: Types) -> TableColumn:
    column_type = type_of(item.expr, types)
    return TableColumn(item.name, "float" if column_type == "null" else column_type)


def _check_conditions(select: Select, types: Types) -> None:
    for clause, part in (("WHERE", select.where), *(("GROUP BY", key) for key in select.group_by)):
        if part is None:
            continue
        if (call := first_aggregate(part)) is not None:
            suggestion = "conditions on aggregates stand in HAVING" if clause == "WHERE" else ""
            raise QueryError("an aggregate cannot stand in WHERE or GROUP BY", at=call.at, suggestion=suggestion)
        expect_type(part, "bool" if clause == "WHERE" else "any", types, clause)
    if select.having is not None:
        expect_type(select.having, "bool", types, "HAVING")
    for order in select.order_by:
        expect_type(order.expr, "sortable", types, "ORDER BY")
    for expr in (*(item.expr for item in select.items), *(order.expr for order in select.order_by), select.having):
        _not_nested(expr)


def _not_nested(expr: Expr | None) -> None:
    """Raise QueryError for an aggregate within an aggregate."""
    if expr is None or (call := first_aggregate(expr)) is None:
        return
    if call is not expr:
        for part in children(expr):
            _not_nested(part)
    elif (inner := next(filter(None, map(first_aggregate, call.args)), None)) is not None:
        raise QueryError(f"{call.function} cannot hold another aggregate", at=inner.at)


def first_aggregate(expr: Expr) -> Call | None:
    """Return the first aggregate of an expression, or None."""
    if isinstance(expr, Call) and expr.function in AGGREGATES:
        return expr
    return next(filter(None, map(first_aggregate, children(expr))), None)


def aggregates_of(select: Select) -> list[Call]:
    """Return every aggregate that the answer needs, each once."""
    calls: dict[Call, None] = {}

    def look(expr: Expr) -> None:
        if isinstance(expr, Call) and expr.function in AGGREGATES:
            calls[expr] = None
            return
        for part in children(expr):
            look(part)

    having = [] if select.having is None else [select.having]
    for expr in (*(item.expr for item in select.items), *having, *(order.expr for order in select.order_by)):
        look(expr)
    return list(calls)


def _check_table_rules(select: Select, aggregated: list[Expr]) -> None:
    """Check the rules of single tables: two aggregates exist on one table only, and no limit is negative."""
    if select.limit is not None and select.limit < 0:
        raise QueryError("LIMIT is negative")
    for name, table in (("increase", "metrics"), ("sketchQuantile", "rollups_1h")):
        if select.table != table and any(_calls(expr, name) for expr in aggregated):
            raise QueryError(f"{name} is for {table}")


def _calls(expr: Expr, function: str) -> bool:
    if isinstance(expr, Call) and expr.function == function:
        return True
    return any(_calls(part, function) for part in children(expr))


def _must_be_grouped(expr: Expr, keys: tuple[Expr, ...]) -> None:
    if expr in keys or isinstance(expr, Literal) or (isinstance(expr, Call) and expr.function in AGGREGATES):
        return
    if isinstance(expr, (Column, TagValue)):
        name = repr(expr.name) if isinstance(expr, Column) else f"tags[{expr.key!r}]"
        raise QueryError(f"{name} is neither grouped nor inside an aggregate", at=expr.at)
    for part in children(expr):
        _must_be_grouped(part, keys)


def _all_of(parts: list[Expr]) -> Expr | None:
    if len(parts) <= 1:
        return parts[0] if parts else None
    return And(tuple(parts))


def _time_range(where: Expr | None, present: Present) -> tuple[TimeRange, list[Expr], tuple[str, ...]]:
    """Return the range that conditions on ``timestamp`` leave, the other conditions, and notes for the user."""
    start: int | None = None
    end: int | None = None
    rest: list[Expr] = []
    for part in conjuncts(where):
        match part:
            case Compare(op=op, left=Column("timestamp"), right=Literal(value=int(at))) if op != "!=":
                low = {">=": at, ">": at + 1, "=": at}.get(op)
                high = {"<": at, "<=": at + 1, "=": at + 1}.get(op)
                start = low if start is None else max(start, low if low is not None else start)
                end = high if end is None else min(end, high if high is not None else end)
            case _:
                rest.append(part)
    warnings = () if start is not None else ("no lower time bound was given: the last hour is meant",)
    if end is None and present.warning:
        warnings = (*warnings, present.warning)
    if start is None:
        start = (present.now_ms + 1 if end is None else end) - DEFAULT_RANGE_MS
    end = present.end_ms if end is None else end
    if start >= end:  # the bounds contradict each other: nothing can match
        return TimeRange(start, start + 1), [Literal(False)], warnings
    return TimeRange(start, end), rest, warnings
