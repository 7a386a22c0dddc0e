"""From a tree to a checked query: names and types known, time range found, conditions sorted by what they need."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from vantage.core.errors import InputError
from vantage.core.timerange import TimeRange
from vantage.vql.functions import FUNCTIONS, ROLLUP_WIDTHS_MS, TABLES, Want, series_only
from vantage.vql.table import ColumnType, TableColumn
from vantage.vql.tree import (
    And,
    Arithmetic,
    Call,
    Case,
    Column,
    Compare,
    Expr,
    In,
    Like,
    Literal,
    Negate,
    Not,
    Or,
    Select,
    TagValue,
    children,
    conjuncts,
)

ROWS_MAX: Final = 10_000
DEFAULT_RANGE_MS: Final = 3_600_000
_NUMBERS: Final = ("int", "float", "time")


@dataclass(frozen=True, slots=True)
class CheckedSelect:
    """A query that may run. ``series_where`` needs only the series' identity, ``row_where`` the rest; the bounds on
    ``timestamp`` are in ``time_range``. ``grouped``: one row a group, otherwise one row a record."""

    select: Select
    time_range: TimeRange
    columns: tuple[TableColumn, ...]
    series_where: Expr | None
    row_where: Expr | None
    grouped: bool
    limit: int
    warnings: tuple[str, ...] = ()


def check(select: Select, *, now_ms: int, rows_max: int = ROWS_MAX) -> CheckedSelect:
    """Check a tree. Raises InputError naming the unknown or misused part."""
    types = TABLES[select.table]
    columns = tuple(TableColumn(item.name, _type_of(item.expr, types)) for item in select.items)
    if not columns:
        raise InputError("asks for no column")
    for part in (select.where, *select.group_by):
        if part is not None:
            _type_of(part, types)
            if _has_aggregate(part):
                raise InputError("an aggregate cannot stand in WHERE or GROUP BY")
    aggregated = [*(item.expr for item in select.items), *(order.expr for order in select.order_by)]
    if select.having is not None:
        _want(select.having, "bool", types, "HAVING")
        aggregated.append(select.having)
    for order in select.order_by:
        _type_of(order.expr, types)
    grouped = bool(select.group_by) or any(_has_aggregate(expr) for expr in aggregated)
    if grouped:
        for expr in aggregated:
            _must_be_grouped(expr, select.group_by)
    elif select.having is not None:
        raise InputError("HAVING needs a GROUP BY or an aggregate")
    if select.where is not None:
        _want(select.where, "bool", types, "WHERE")
    _fits(select, aggregated)
    time_range, rest, warnings = _time_range(select.where, now_ms)
    series = [part for part in rest if select.table != "spans" and series_only(part)]
    rows = [part for part in rest if part not in series]
    if rows and select.table in ROLLUP_WIDTHS_MS:
        raise InputError("rollups are chosen by time and by their series' names and tags alone")
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


def _type_of(expr: Expr, types: object) -> ColumnType:  # noqa: C901 - one case a node
    assert isinstance(types, dict)
    match expr:
        case Column(name=name):
            if name not in types:
                raise InputError(_unknown("column", name, types))
            found: ColumnType = types[name]
            return found
        case TagValue():
            return "string"
        case Literal(value=value):
            return _literal_type(value)
        case Call():
            return _call_type(expr, types)
        case Compare(left=left, right=right):
            kinds = {_type_of(left, types) in _NUMBERS, _type_of(right, types) in _NUMBERS}
            if len(kinds) == 2:
                raise InputError(f"cannot compare text with a number ({expr.op})")
            return "bool"
        case And(parts=parts) | Or(parts=parts):
            for part in parts:
                _want(part, "bool", types, "AND/OR")
            return "bool"
        case Not(part=part):
            _want(part, "bool", types, "NOT")
            return "bool"
        case In(part=part, values=values):
            is_number = _type_of(part, types) in _NUMBERS
            if any((_literal_type(value) in _NUMBERS) is not is_number for value in values):
                raise InputError("IN compares text with a number")
            return "bool"
        case Like(part=part):
            _want(part, "string", types, "LIKE")
            return "bool"
        case Arithmetic(op=op, left=left, right=right):
            sides = {_want(left, "number", types, op), _want(right, "number", types, op)}
            return "int" if op != "/" and sides <= {"int", "time"} else "float"
        case Negate(part=part):
            return _want(part, "number", types, "-")
        case Case(whens=whens, otherwise=otherwise):
            for condition, _ in whens:
                _want(condition, "bool", types, "CASE")
            results = {_type_of(result, types) for _, result in whens} | {_type_of(otherwise, types)}
            if len(results) == 1:
                return results.pop()
            if results <= set(_NUMBERS):
                return "float"
            raise InputError("the branches of CASE have different types")


def _literal_type(value: object) -> ColumnType:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    return "string" if isinstance(value, str) else "float"


def _call_type(call: Call, types: dict[str, ColumnType]) -> ColumnType:
    function = FUNCTIONS.get(call.function)
    if function is None:
        raise InputError(_unknown("function", call.function, FUNCTIONS))
    least, most = len(function.args) - function.optional, len(function.args)
    if not least <= len(call.args) <= most:
        raise InputError(f"{call.function} takes {most if least == most else f'{least} to {most}'} arguments")
    if function.parameter and not (call.parameter is not None and 0 <= call.parameter <= 1):
        raise InputError(f"{call.function} needs a parameter from 0 to 1, as in {call.function}(0.95)(value)")
    if call.function == "toStartOfInterval" and not (
        isinstance(call.args[1], Literal) and isinstance(call.args[1].value, int) and call.args[1].value > 0
    ):
        raise InputError("toStartOfInterval needs a constant, positive interval")
    found = [_want(arg, want, types, call.function) for arg, want in zip(call.args, function.args, strict=False)]
    if function.aggregate and any(_has_aggregate(arg) for arg in call.args):
        raise InputError(f"{call.function} cannot hold another aggregate")
    return function.result or found[0]


def _want(expr: Expr, want: Want, types: object, where: str) -> ColumnType:
    found = _type_of(expr, types)
    fits = {"number": found in _NUMBERS, "time": found in ("time", "int"), "any": True}.get(want, found == want)
    if not fits:
        raise InputError(f"{where} needs a {want}, not a {found}")
    return found


def _unknown(what: str, name: str, known: object) -> str:
    assert hasattr(known, "keys")
    near = get_close_matches(name, list(known.keys()), n=1)
    return f"unknown {what} {name[:80]!r}" + (f": did you mean {near[0]!r}?" if near else "")


def _has_aggregate(expr: Expr) -> bool:
    if isinstance(expr, Call) and FUNCTIONS[expr.function].aggregate:
        return True
    return any(_has_aggregate(part) for part in children(expr))


def _fits(select: Select, aggregated: list[Expr]) -> None:
    """Two aggregates know one table alone, and no limit is negative."""
    if select.limit is not None and select.limit < 0:
        raise InputError("LIMIT is negative")
    for name, table in (("increase", "metrics"), ("sketchQuantile", "rollups_1h")):
        if select.table != table and any(_calls(expr, name) for expr in aggregated):
            raise InputError(f"{name} is for {table}")


def _calls(expr: Expr, function: str) -> bool:
    if isinstance(expr, Call) and expr.function == function:
        return True
    return any(_calls(part, function) for part in children(expr))


def _must_be_grouped(expr: Expr, keys: tuple[Expr, ...]) -> None:
    if expr in keys or isinstance(expr, Literal) or (isinstance(expr, Call) and FUNCTIONS[expr.function].aggregate):
        return
    if isinstance(expr, Column):
        raise InputError(f"{expr.name!r} is neither grouped nor inside an aggregate")
    if isinstance(expr, TagValue):
        raise InputError(f"tags[{expr.key!r}] is neither grouped nor inside an aggregate")
    for part in children(expr):
        _must_be_grouped(part, keys)


def _all_of(parts: list[Expr]) -> Expr | None:
    if len(parts) <= 1:
        return parts[0] if parts else None
    return And(tuple(parts))


def _time_range(where: Expr | None, now_ms: int) -> tuple[TimeRange, list[Expr], tuple[str, ...]]:
    """The range that the conditions on ``timestamp`` leave, the other conditions, and what to tell the user."""
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
    end = now_ms + 1 if end is None else end
    start = end - DEFAULT_RANGE_MS if start is None else start
    if start >= end:  # the bounds contradict each other: nothing can match
        return TimeRange(start, start + 1), [Literal(False)], warnings
    return TimeRange(start, end), rest, warnings
