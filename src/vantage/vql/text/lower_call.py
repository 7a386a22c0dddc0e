"""Function calls, from sqlglot's syntax tree to ours, with the spellings that stand for something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final
from typing import Literal as OneOf

from sqlglot import exp
from sqlglot.tokenizer_core import Token

from vantage.core.errors import QueryError
from vantage.core.timerange import MONDAY_MS
from vantage.vql.signatures import AGGREGATES, FUNCTIONS, SPELLINGS, TEXT_FUNCTIONS
from vantage.vql.text.parse import offset_of, offset_of_call
from vantage.vql.text.unsupported import allow_args, unknown_function
from vantage.vql.tree import Call, Case, Expr, Literal

Scope = OneOf["item", "where", "group", "having", "order"]
WEEK_MS: Final = 604_800_000
_BUCKETS_MS: Final[Mapping[str, int]] = {
    "toStartOfSecond": 1000,
    "toStartOfMinute": 60_000,
    "toStartOfFiveMinutes": 300_000,
    "toStartOfFifteenMinutes": 900_000,
    "toStartOfHour": 3_600_000,
    "toStartOfDay": 86_400_000,
}
_NAMES: Final[Mapping[str, str]] = {name.lower(): name for name in TEXT_FUNCTIONS}


def lower_call(
    node: exp.Expression,
    scope: Scope,
    *,
    tokens: Sequence[Token],
    now_ms: int,
    lower: Callable[[exp.Expression, Scope], Expr],
    fold: Callable[[Expr], Expr],
) -> Expr:
    """Return the tree of a call. ``lower`` lowers an argument, ``fold`` evaluates constants. Raises QueryError."""
    parametric = isinstance(node, (exp.ParameterizedAgg, exp.CombinedParameterizedAgg))
    allow_args(node, "this", "expressions", "params")
    written: str = node.this if isinstance(node.this, str) else str(node.name)
    args: list[exp.Expression] = node.args.get("params" if parametric else "expressions") or []
    at = offset_of_call(tokens, written, next((offset_of(arg) for arg in args), None))
    name = _NAMES.get(written.lower())
    if name is None:
        raise unknown_function(written, at=at)
    if name in AGGREGATES or name == "median":
        scope = "item"  # inside an aggregate a name is a column
    if name == "count" and len(args) == 1 and isinstance(args[0], exp.Star):
        args = []
    parameter = _parameter([lower(value, "item") for value in node.expressions], name, at) if parametric else None
    lowered_args = tuple(lower(arg, scope) for arg in args)
    if name in SPELLINGS:
        return fold(_spelled(name, lowered_args, at, now_ms))
    if parameter is not None and not FUNCTIONS[name].parameter:
        raise QueryError(f"{name} takes no parameter", at=at)
    if name == "toStartOfInterval":
        lowered_args = _interval_args(lowered_args, at)
    return fold(Call(name, lowered_args, parameter, at=at))


def _parameter(values: Sequence[Expr], name: str, at: int | None) -> float:
    if len(values) == 1 and isinstance(values[0], Literal) and type(values[0].value) in (int, float):
        return float(values[0].value)  # type: ignore[arg-type] # just seen
    raise QueryError(f"{name} takes one number as its parameter, as in {name}(0.95)(value)", at=at)


def _spelled(name: str, args: tuple[Expr, ...], at: int | None, now_ms: int) -> Expr:
    args_count = {"if": 3, "now": 0}.get(name, 1)
    if len(args) != args_count:
        raise QueryError(f"{name} takes {args_count} arguments", at=at)
    if name == "now":
        return Literal(now_ms, "time", at=at)
    if name == "if":
        return Case(((args[0], args[1]),), args[2], at=at)
    if name == "median":
        return Call("quantile", args, 0.5, at=at)
    return Call("toStartOfInterval", (args[0], Literal(_BUCKETS_MS[name])), at=at)


def _interval_args(args: tuple[Expr, ...], at: int | None) -> tuple[Expr, ...]:
    """Weeks begin on Monday, as in ClickHouse; all else counts from the epoch."""
    if len(args) == 2 and isinstance(args[1], Literal) and args[1].meaning == "interval":
        width_ms = args[1].value
        assert isinstance(width_ms, int)
        if width_ms > 0 and width_ms % WEEK_MS == 0:
            return (args[0], Literal(width_ms), Literal(MONDAY_MS))
        return (args[0], Literal(width_ms))
    raise QueryError(
        "toStartOfInterval needs a time and a constant INTERVAL",
        at=at,
        suggestion="write toStartOfInterval(timestamp, INTERVAL 5 MINUTE)",
    )
