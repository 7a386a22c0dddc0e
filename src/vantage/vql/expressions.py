"""Expressions, from sqlglot's syntax tree to ours. Only what is named here passes; all else is refused by its name.

A name is looked for where ClickHouse looks: in GROUP BY, HAVING and ORDER BY an alias comes before a column, in WHERE,
in the items themselves and inside aggregates the column comes first. What an alias stands for takes its place, and
constant expressions are worked out here, so ``now() - INTERVAL 1 HOUR`` is a number when the checker sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from typing import Literal as OneOf

from sqlglot import exp
from sqlglot.tokenizer_core import Token

from vantage.core.errors import QueryError
from vantage.vql.check import aggregate_in
from vantage.vql.constants import folded, interval_of, number_of, param_of, time_of
from vantage.vql.functions import AGGREGATES, FUNCTIONS, SPELLINGS, TABLES, TEXT_FUNCTIONS
from vantage.vql.parse import place_of_call, place_of_word
from vantage.vql.refuse import refusal, unknown_function, unquoted
from vantage.vql.text import Params
from vantage.vql.tree import (
    And,
    Arithmetic,
    ArithmeticOp,
    Call,
    Case,
    Column,
    Compare,
    CompareOp,
    Expr,
    In,
    Like,
    Literal,
    Negate,
    Not,
    Or,
    TableName,
    TagValue,
    children,
)
from vantage.vql.types import type_of, unknown

NODES_MAX: Final = 4000  # after aliases are replaced by what they stand for
DEPTH_MAX: Final = 100
WEEK_MS: Final = 604_800_000
MONDAY_MS: Final = 345_600_000  # 1970-01-05, the first Monday
Scope = OneOf["item", "where", "group", "having", "order"]

_COMPARE: Final[Mapping[type[exp.Expression], CompareOp]] = {
    exp.EQ: "=",
    exp.NEQ: "!=",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
}
_FLIPPED: Final[Mapping[str, CompareOp]] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_ARITHMETIC: Final[Mapping[type[exp.Expression], ArithmeticOp]] = {
    exp.Add: "+",
    exp.Sub: "-",
    exp.Mul: "*",
    exp.Div: "/",
}
_CALLS: Final = (
    exp.Anonymous,
    exp.AnonymousAggFunc,
    exp.CombinedAggFunc,
    exp.ParameterizedAgg,
    exp.CombinedParameterizedAgg,
)
_BUCKETS_MS: Final[Mapping[str, int]] = {
    "toStartOfSecond": 1000,
    "toStartOfMinute": 60_000,
    "toStartOfFiveMinutes": 300_000,
    "toStartOfFifteenMinutes": 900_000,
    "toStartOfHour": 3_600_000,
    "toStartOfDay": 86_400_000,
}
_NAMES: Final[Mapping[str, str]] = {name.lower(): name for name in TEXT_FUNCTIONS}
_MAPS: Final[Mapping[str, str]] = {"metrics": "tags", "spans": "attributes"}


def only(node: exp.Expression, *allowed: str) -> None:
    """Refuse a part that the grammar knows and VQL does not."""
    for name, part in node.args.items():
        if part and name not in allowed:
            raise refusal(node, name)


class Expressions:
    """One query's names and limits."""

    def __init__(self, text: str, tokens: Sequence[Token], *, table: TableName, now_ms: int, params: Params) -> None:
        self._text = text
        self._tokens = tokens
        self._table: TableName = table
        self.types = TABLES[table]
        self._now_ms = now_ms
        self._params = params
        self.params_used: set[str] = set()
        self._aliases: dict[str, exp.Expression] = {}
        self._expanded: dict[str, tuple[Expr, int, int]] = {}  # what it stands for, its nodes and its depth
        self._expanding: set[str] = set()
        self._nodes = 0
        self._depth = 0
        self._near = 0  # how far the text was read, about

    def name_aliases(self, items: Sequence[exp.Expression]) -> None:
        """Learn what the items of the SELECT are called, before any is lowered."""
        for item in items:
            if isinstance(item, exp.Alias):
                if item.alias in self._aliases:
                    raise QueryError(f"the alias {item.alias[:80]!r} is given twice", at=at_of(item))
                self._aliases[item.alias] = item.this

    # --- expressions ---

    def expr(self, node: exp.Expression, scope: Scope) -> Expr:
        """What an expression is in our tree."""
        self._count(1)
        self._near = max(self._near, at_of(node) or 0)
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise QueryError("the expression is nested too deep", at=at_of(node))
        try:
            return self._lower(node, scope)
        finally:
            self._depth -= 1

    def _lower(self, node: exp.Expression, scope: Scope) -> Expr:
        if (comparison := _COMPARE.get(type(node))) is not None:
            only(node, "this", "expression")
            return self._compare(comparison, self.expr(node.this, scope), self.expr(node.expression, scope))
        if (arithmetic := _ARITHMETIC.get(type(node))) is not None:
            only(node, "this", "expression", "typed", "safe")
            left, right = self.expr(node.this, scope), self.expr(node.expression, scope)
            return self._folded(Arithmetic(arithmetic, left, right, at=left.at))
        if isinstance(node, _CALLS):
            return self._call(node, scope)
        if (lower := _LOWER.get(type(node))) is None:
            raise refusal(node, "")
        return lower(self, node, scope)

    def paren(self, node: exp.Expression, scope: Scope) -> Expr:
        only(node, "this")
        return self.expr(node.this, scope)

    def column(self, node: exp.Expression, scope: Scope) -> Expr:
        if not isinstance(node.this, exp.Identifier):
            raise refusal(node.this, "")
        name, at = node.name, at_of(node)
        if node.args.get("table") is not None:
            owner = node.args["table"].name
            suggestion = f"write {owner}['{name}']" if owner in _MAPS.values() else f"write {name} alone"
            raise QueryError(f"{owner[:80]}.{name[:80]} is not part of VQL", at=at, suggestion=suggestion)
        is_alias = name in self._aliases and name not in self._expanding
        if scope in ("group", "having", "order") and is_alias:
            found = self.alias(name)
            if scope != "group" or name not in self.types or aggregate_in(found) is None:
                return found
        if name in self.types:
            return Column(name, at=at)
        if name in self._aliases:
            return self.alias(name)
        if (quoted := unquoted(self._text, at, name, self.types)) is not None:
            raise QueryError(f"unknown column {name[:80]!r}", at=at, suggestion=quoted)
        error = unknown("column", name, {**self.types, **self._aliases}, at=at)
        if not error.suggestion:
            raise QueryError(error.reason, at=at, suggestion=f"a tag is written {_MAPS[self._table]}['{name[:80]}']")
        raise error

    def alias(self, name: str) -> Expr:
        if name in self._expanding:
            raise QueryError(f"the alias {name[:80]!r} stands for itself", at=at_of(self._aliases[name]))
        if name not in self._expanded:
            self._expanding.add(name)
            found = self.expr(self._aliases[name], "item")
            self._expanding.discard(name)
            self._expanded[name] = (found, *_extent(found))
            return found
        found, nodes, depth = self._expanded[name]
        self._count(nodes)
        if self._depth + depth > DEPTH_MAX:
            raise QueryError("the expression is nested too deep", at=found.at)
        return found

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            raise QueryError(f"the query has more than {NODES_MAX} parts, aliases written out")

    def literal(self, node: exp.Expression, _scope: Scope) -> Expr:
        if node.is_string:
            return Literal(node.this, at=at_of(node))
        return Literal(number_of(node.this, at=at_of(node)), at=at_of(node))

    def boolean(self, node: exp.Expression, _scope: Scope) -> Expr:
        return Literal(bool(node.this))

    def null(self, _node: exp.Expression, _scope: Scope) -> Expr:
        return Literal(None)

    def placeholder(self, node: exp.Expression, _scope: Scope) -> Expr:
        value = self._param(node)
        if isinstance(value, list):
            raise QueryError("a list can only stand after IN", field=f"params.{node.name[:80]}")
        return value

    def _param(self, node: exp.Expression) -> Literal | list[Literal]:
        kind = node.args.get("kind")
        declared = kind.sql("clickhouse") if isinstance(kind, exp.Expression) else ""
        self.params_used.add(node.name)
        return param_of(self._params, node.name, declared)

    def interval(self, node: exp.Expression, _scope: Scope) -> Expr:
        only(node, "this", "unit")
        unit = node.args.get("unit")
        count = node.this
        at = place_of_word(self._tokens, "INTERVAL", self._near)  # the grammar does not keep it
        if not isinstance(count, exp.Literal) or not isinstance(unit, exp.Var):
            raise QueryError("INTERVAL needs a number and a unit", suggestion="write INTERVAL 5 MINUTE", at=at)
        return Literal(interval_of(count.this, unit.name, at=at), "interval", at=at)

    def tag(self, node: exp.Expression, _scope: Scope) -> Expr:
        only(node, "this", "expressions")
        owner, at = _MAPS[self._table], at_of(node)
        if not isinstance(node.this, exp.Column) or node.this.name != owner or len(node.expressions) != 1:
            raise QueryError("[…] is not part of VQL", suggestion=f"only {owner}['key'] is", at=at)
        key = self.expr(node.expressions[0], "item")
        if not isinstance(key, Literal) or not isinstance(key.value, str):
            raise QueryError("the key of a tag is a text in quotes", suggestion=f"write {owner}['key']", at=at)
        return TagValue(key.value, at=at)

    def chain(self, node: exp.Expression, scope: Scope) -> Expr:
        """AND and OR of any length are one node: the grammar nests them to the left."""
        kind = type(node)
        parts: list[exp.Expression] = []
        while type(node) is kind:
            only(node, "this", "expression")
            parts.append(node.expression)
            node = node.this
        parts.append(node)
        found = tuple(self.expr(part, scope) for part in reversed(parts))
        return self._folded(And(found, at=found[0].at) if kind is exp.And else Or(found, at=found[0].at))

    def negation(self, node: exp.Expression, scope: Scope) -> Expr:
        only(node, "this")
        part = self.expr(node.this, scope)
        return self._folded(Not(part, at=part.at))

    def _negated(self, node: exp.Expression, found: Expr) -> Expr:
        """``NOT LIKE`` and the like may be told by a flag of the node."""
        return Not(found, at=found.at) if node.args.get("negate") else found

    def membership(self, node: exp.Expression, scope: Scope) -> Expr:
        only(node, "this", "expressions", "field", "negate")
        part, field = self.expr(node.this, scope), node.args.get("field")
        values: list[Expr]
        if isinstance(field, exp.Placeholder):
            given = self._param(field)
            values = list(given) if isinstance(given, list) else [given]
        elif field is not None:
            raise QueryError("IN needs a list in brackets", at=at_of(field))
        else:
            values = [self.expr(value, scope) for value in node.expressions]
        if type_of(part, self.types) == "time":
            values = [self._as_time(value) for value in values]
        constants: list[str | int | float] = []
        for value in values:
            if not isinstance(value, Literal) or value.value is None or isinstance(value.value, bool):
                raise QueryError("IN takes constants: numbers or texts", at=value.at)
            constants.append(value.value)
        return self._negated(node, self._folded(In(part, tuple(constants), at=part.at)))

    def between(self, node: exp.Expression, scope: Scope) -> Expr:
        only(node, "this", "low", "high", "negate")
        part = self.expr(node.this, scope)
        low, high = self.expr(node.args["low"], scope), self.expr(node.args["high"], scope)
        self._count(_extent(part)[0])
        both = And((self._compare(">=", part, low), self._compare("<=", part, high)), at=part.at)
        return self._negated(node, self._folded(both))

    def like(self, node: exp.Expression, scope: Scope) -> Expr:
        only(node, "this", "expression", "negate")
        part, pattern = self.expr(node.this, scope), self.expr(node.expression, scope)
        if not isinstance(pattern, Literal) or not isinstance(pattern.value, str):
            raise QueryError("LIKE takes a text in quotes", at=pattern.at)
        return self._negated(node, self._folded(Like(part, pattern.value, at=part.at)))

    def minus(self, node: exp.Expression, scope: Scope) -> Expr:
        only(node, "this")
        if isinstance(node.this, exp.Literal) and not node.this.is_string:  # so that the smallest integer can be told
            return Literal(number_of(f"-{node.this.this}", at=at_of(node)), at=at_of(node))
        part = self.expr(node.this, scope)
        return self._folded(Negate(part, at=part.at))

    def case(self, node: exp.Expression, scope: Scope) -> Expr:
        only(node, "this", "ifs", "default")
        operand = None if node.this is None else self.expr(node.this, scope)
        whens: list[tuple[Expr, Expr]] = []
        for one in node.args["ifs"]:
            only(one, "this", "true")
            condition = self.expr(one.this, scope)
            if operand is not None:
                self._count(_extent(operand)[0])
                condition = self._compare("=", operand, condition)
            whens.append((condition, self.expr(one.args["true"], scope)))
        default = node.args.get("default")
        otherwise = Literal(None) if default is None else self.expr(default, scope)
        return Case(tuple(whens), otherwise, at=whens[0][0].at)

    def _compare(self, op: CompareOp, left: Expr, right: Expr) -> Expr:
        if isinstance(left, Literal) and not isinstance(right, Literal):
            left, right, op = right, left, _FLIPPED.get(op, op)
        if type_of(left, self.types) == "time":
            right = self._as_time(right)
        elif type_of(right, self.types) == "time":
            left = self._as_time(left)
        return self._folded(Compare(op, left, right, at=left.at))

    def _as_time(self, expr: Expr) -> Expr:
        """A constant beside a time: epoch milliseconds, or a text that tells a time."""
        if not isinstance(expr, Literal) or expr.value is None or isinstance(expr.value, bool):
            return expr
        if expr.meaning == "interval":
            raise QueryError(
                "a time cannot be compared with an INTERVAL", at=expr.at, suggestion="write now() - INTERVAL …"
            )
        return Literal(time_of(expr.value, at=expr.at), "time", at=expr.at)

    def _folded(self, expr: Expr) -> Expr:
        return folded(expr, self.types)

    # --- functions ---

    def _call(self, node: exp.Expression, scope: Scope) -> Expr:
        parametric = isinstance(node, (exp.ParameterizedAgg, exp.CombinedParameterizedAgg))
        only(node, "this", "expressions", "params")
        written: str = node.this if isinstance(node.this, str) else str(node.name)
        args: list[exp.Expression] = node.args.get("params" if parametric else "expressions") or []
        at = place_of_call(self._tokens, written, next((at_of(arg) for arg in args), None))
        name = _NAMES.get(written.lower())
        if name is None:
            raise unknown_function(written, at=at)
        if name in AGGREGATES or name == "median":
            scope = "item"  # inside an aggregate a name is a column
        if name == "count" and len(args) == 1 and isinstance(args[0], exp.Star):
            args = []
        parameter = self._parameter(node.expressions, name, at) if parametric else None
        lowered_args = tuple(self.expr(arg, scope) for arg in args)
        if name in SPELLINGS:
            return self._spelled(name, lowered_args, at)
        if parameter is not None and not FUNCTIONS[name].parameter:
            raise QueryError(f"{name} takes no parameter", at=at)
        if name == "toStartOfInterval":
            lowered_args = _interval_args(lowered_args, at)
        return self._folded(Call(name, lowered_args, parameter, at=at))

    def _parameter(self, nodes: Sequence[exp.Expression], name: str, at: int | None) -> float:
        values = [self.expr(node, "item") for node in nodes]
        if len(values) == 1 and isinstance(values[0], Literal) and type(values[0].value) in (int, float):
            return float(values[0].value)  # type: ignore[arg-type] # just seen
        raise QueryError(f"{name} takes one number as its parameter, as in {name}(0.95)(value)", at=at)

    def _spelled(self, name: str, args: tuple[Expr, ...], at: int | None) -> Expr:
        wanted = {"if": 3, "now": 0}.get(name, 1)
        if len(args) != wanted:
            raise QueryError(f"{name} takes {wanted} arguments", at=at)
        if name == "now":
            return Literal(self._now_ms, "time", at=at)
        if name == "if":
            return Case(((args[0], args[1]),), args[2], at=at)
        if name == "median":
            return Call("quantile", args, 0.5, at=at)
        return self._folded(Call("toStartOfInterval", (args[0], Literal(_BUCKETS_MS[name])), at=at))


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


_LOWER: Final[Mapping[type[exp.Expression], Callable[[Expressions, Any, Scope], Expr]]] = {
    exp.Paren: Expressions.paren,
    exp.Column: Expressions.column,
    exp.Literal: Expressions.literal,
    exp.Boolean: Expressions.boolean,
    exp.Null: Expressions.null,
    exp.Placeholder: Expressions.placeholder,
    exp.Interval: Expressions.interval,
    exp.Bracket: Expressions.tag,
    exp.And: Expressions.chain,
    exp.Or: Expressions.chain,
    exp.Not: Expressions.negation,
    exp.In: Expressions.membership,
    exp.Between: Expressions.between,
    exp.Like: Expressions.like,
    exp.Neg: Expressions.minus,
    exp.Case: Expressions.case,
}


def at_of(node: exp.Expression) -> int | None:
    """The offset of a node, or of the first thing in it that has one."""
    for one in node.walk(bfs=False):
        at = one.meta.get("start")
        if at is not None:
            return int(at)
    return None


def _extent(expr: Expr) -> tuple[int, int]:
    """How many nodes an expression has, and how deep they are nested."""
    extents = [_extent(part) for part in children(expr)]
    return 1 + sum(nodes for nodes, _ in extents), 1 + max((depth for _, depth in extents), default=0)
