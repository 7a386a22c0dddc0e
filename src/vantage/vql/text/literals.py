"""Constants of a query's text: numbers, times and intervals, and expressions made of nothing else."""

from __future__ import annotations

import math
import re
from difflib import get_close_matches
from typing import Any, Final

from vantage.core.dict_column import DictColumn
from vantage.core.errors import InputError, QueryError
from vantage.core.timerange import TIME_MS_MAX, parse_time
from vantage.vql.exec.frame import Frame
from vantage.vql.signatures import AGGREGATES
from vantage.vql.tree import Call, Column, Expr, Literal, TagValue, children
from vantage.vql.types import Types, type_of

INT_MAX: Final = (1 << 63) - 1
_UNITS_MS: Final = {
    "MILLISECOND": 1,
    "SECOND": 1000,
    "MINUTE": 60_000,
    "HOUR": 3_600_000,
    "DAY": 86_400_000,
    "WEEK": 604_800_000,
}
_UNEVEN: Final = ("MONTH", "QUARTER", "YEAR")


def parse_number(text: str, *, at: int | None) -> int | float:
    """Return an integer of 64 bits or a finite float. Raises QueryError."""
    try:
        number: int | float = int(text) if re.fullmatch(r"-?\d{1,25}", text) else float(text)
    except ValueError:
        raise QueryError(f"{text[:40]!r} is no number", at=at) from None
    if isinstance(number, float) and not math.isfinite(number):
        raise QueryError(f"{text[:40]} is too large for a number", at=at)
    if isinstance(number, int) and not -INT_MAX - 1 <= number <= INT_MAX:
        raise QueryError(f"{text[:40]} does not fit into 64 bits", at=at)
    return number


def parse_time_literal(value: str | float, *, at: int | None, field: str = "query") -> int:
    """Return epoch milliseconds from a number of them, or from text such as ``2026-11-23 10:00:00`` or RFC 3339, in UTC
    without an offset. Raises QueryError."""
    if isinstance(value, str):
        try:
            if not re.match(r"\d{4}-", value):
                raise InputError("")
            return parse_time(value, now_ms=0)
        except InputError:
            raise QueryError(
                f"{value[:40]!r} is no time",
                at=at,
                field=field,
                suggestion="write '2026-11-23 10:00:00', RFC 3339, or epoch milliseconds",
            ) from None
    if not abs(value) <= TIME_MS_MAX:
        raise QueryError("a time lies between the years 1970 and 9999", at=at, field=field)
    # Times are whole milliseconds: a fraction is rounded up, as no time lies before it.
    return math.ceil(value)


def parse_interval(count: str, unit: str, *, at: int | None) -> int:
    """Return the milliseconds of an INTERVAL. Raises QueryError."""
    name = unit.upper().removesuffix("S")
    if name in _UNEVEN:
        raise QueryError(f"a {name} has no fixed length", at=at, suggestion="write it in days")
    if name not in _UNITS_MS:
        near = get_close_matches(name, _UNITS_MS, n=1)
        suggestion = f"did you mean {near[0]}?" if near else f"one of {', '.join(_UNITS_MS)}"
        raise QueryError(f"{unit[:40]!r} is no unit of time", at=at, suggestion=suggestion)
    number = parse_number(count, at=at)
    if not isinstance(number, int) or abs(number * _UNITS_MS[name]) > TIME_MS_MAX:
        raise QueryError("INTERVAL takes a whole number, of at most some thousand years", at=at)
    return number * _UNITS_MS[name]


def fold_constant(expr: Expr, types: Types) -> Expr:
    """Return an expression of constants as the constant that it is; any other unchanged.

    An expression that is NULL stays unchanged too: a constant NULL may stand in few positions. Raises QueryError for
    types that do not fit.
    """
    parts = children(expr)
    if isinstance(expr, (Literal, Column, TagValue)) or not all(isinstance(part, Literal) for part in parts):
        return expr
    if isinstance(expr, Call) and (expr.function in AGGREGATES or not parts):
        return expr
    result_type = type_of(expr, types)
    vector = Frame(1, {}).vector(expr)
    value: Any = vector.values[vector.codes[0]] if isinstance(vector, DictColumn) else vector[0].item()
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return expr
    if result_type == "int" and all(isinstance(part, Literal) and part.meaning == "interval" for part in parts):
        return Literal(value, "interval", at=expr.at)
    return Literal(value, "time" if result_type == "time" else "", at=expr.at)
