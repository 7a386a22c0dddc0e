"""Expressions, from sqlglot's syntax tree to ours. Only what is named here passes; all else is refused by its name.

Names are resolved as ClickHouse does: in GROUP BY, HAVING and ORDER BY an alias comes before a column; in WHERE, in the
items themselves and inside aggregates the column comes first. An alias is replaced by its expression, and constant
expressions are evaluated here, so ``now() - INTERVAL 1 HOUR`` is a number when the checker sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlglot import exp
from sqlglot.tokenizer_core import Token

from vantage.core.errors import QueryError
from vantage.vql.check import first_aggregate
from vantage.vql.signatures import TABLES
from vantage.vql.text.literals import fold_constant, parse_interval, parse_number, parse_time_literal
from vantage.vql.text.lower_call import Scope, lower_call
from vantage.vql.text.params import Params, bind_param
from vantage.vql.text.parse import offset_of, offset_of_word
from vantage.vql.text.unsupported import allow_args, suggest_quotes, unsupported
from vantage.vql.tree import (
    And,
    Arithmetic,
    ArithmeticOp,
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
from vantage.vql.types import type_of, unknown_name

NODES_MAX: Final = 4000  # after aliases are replaced by what they stand for
DEPTH_MAX: Final = 100

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
_MAPS: Final[Mapping[str, str]] = {"metrics": "tags", "spans": "attributes"}


class ExprLowerer:
    """Lowers the expressions of one query, within its names and limits."""

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
        """Register the aliases of the SELECT's items, before any is lowered."""
        for item in items:
            if isinstance(item, exp.Alias):
                if item.alias in self._aliases:
                    raise QueryError(f"the alias {item.alias[:80]!r} is given twice", at=offset_of(item))
                self._aliases[item.alias] = item.this

    # --- expressions ---

    def expr(self, node: exp.Expression, scope: Scope) -> Expr:
        """Return the tree of an expression."""
        self._count(1)
        self._near = max(self._near, offset_of(node) or 0)
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise QueryError("the expression is nested too deep", at=offset_of(node))
        try:
            return self._lower(node, scope)
        finally:
            self._depth -= 1

    def _lower(self, node: exp.Expression, scope: Scope) -> Expr:
        if (comparison := _COMPARE.get(type(node))) is not None:
            allow_args(node, "this", "expression")
            return self._compare(comparison, self.expr(node.this, scope), self.expr(node.expression, scope))
        if (arithmetic := _ARITHMETIC.get(type(node))) is not None:
            allow_args(node, "this", "expression", "typed", "safe")
            left, right = self.expr(node.this, scope), self.expr(node.expression, scope)
            return self._folded(Arithmetic(arithmetic, left, right, at=left.at))
        if isinstance(node, _CALLS):
            return lower_call(node, scope, tokens=self._tokens, now_ms=self._now_ms, lower=self.expr, fold=self._folded)
        if (lower := _LOWER.get(type(node))) is None:
            raise unsupported(node, "")
        return lower(self, node, scope)

    def paren(self, node: exp.Expression, scope: Scope) -> Expr:
        allow_args(node, "this")
        return self.expr(node.this, scope)

    def column(self, node: exp.Expression, scope: Scope) -> Expr:
        if not isinstance(node.this, exp.Identifier):
            raise unsupported(node.this, "")
        name, at = node.name, offset_of(node)
        if node.args.get("table") is not None:
            owner = node.args["table"].name
            suggestion = f"write {owner}['{name}']" if owner in _MAPS.values() else f"write {name} alone"
            raise QueryError(f"{owner[:80]}.{name[:80]} is not part of VQL", at=at, suggestion=suggestion)
        is_alias = name in self._aliases and name not in self._expanding
        if scope in ("group", "having", "order") and is_alias:
            expr = self.alias(name)
            if scope != "group" or name not in self.types or first_aggregate(expr) is None:
                return expr
        if name in self.types:
            return Column(name, at=at)
        if name in self._aliases:
            return self.alias(name)
        if (quoted := suggest_quotes(self._text, at, name, self.types)) is not None:
            raise QueryError(f"unknown column {name[:80]!r}", at=at, suggestion=quoted)
        error = unknown_name("column", name, {**self.types, **self._aliases}, at=at)
        if not error.suggestion:
            raise QueryError(error.reason, at=at, suggestion=f"a tag is written {_MAPS[self._table]}['{name[:80]}']")
        raise error

    def alias(self, name: str) -> Expr:
        if name in self._expanding:
            raise QueryError(f"the alias {name[:80]!r} stands for itself", at=offset_of(self._aliases[name]))
        if name not in self._expanded:
            self._expanding.add(name)
            expr = self.expr(self._aliases[name], "item")
            self._expanding.discard(name)
            self._expanded[name] = (expr, *_node_count_and_depth(expr))
            return expr
        expr, nodes, depth = self._expanded[name]
        self._count(nodes)
        if self._depth + depth > DEPTH_MAX:
            raise QueryError("the expression is nested too deep", at=expr.at)
        return expr

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            raise QueryError(f"the query has more than {NODES_MAX} parts, aliases written out")

    def literal(self, node: exp.Expression, _scope: Scope) -> Expr:
        if node.is_string:
            return Literal(node.this, at=offset_of(node))
        return Literal(parse_number(node.this, at=offset_of(node)), at=offset_of(node))

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
        return bind_param(self._params, node.name, declared)

    def interval(self, node: exp.Expression, _scope: Scope) -> Expr:
        allow_args(node, "this", "unit")
        unit = node.args.get("unit")
        count = node.this
        at = offset_of_word(self._tokens, "INTERVAL", self._near)  # the grammar does not keep it
        if not isinstance(count, exp.Literal) or not isinstance(unit, exp.Var):
            raise QueryError("INTERVAL needs a number and a unit", suggestion="write INTERVAL 5 MINUTE", at=at)
        return Literal(parse_interval(count.this, unit.name, at=at), "interval", at=at)

    def tag(self, node: exp.Expression, _scope: Scope) -> Expr:
        allow_args(node, "this", "expressions")
        owner, at = _MAPS[self._table], offset_of(node)
        if not isinstance(node.this, exp.Column) or node.this.name != owner or len(node.expressions) != 1:
            raise QueryError("[…] is not part of VQL", suggestion=f"only {owner}['key'] is", at=at)
        key = self.expr(node.expressions[0], "item")
        if not isinstance(key, Literal) or not isinstance(key.value, str):
            raise QueryError("the key of a tag is a text in quotes", suggestion=f"write {owner}['key']", at=at)
        return TagValue(key.value, at=at)

    def chain(self, node: exp.Expression, scope: Scope) -> Expr:
        """Lower AND and OR of any length to one node: the grammar nests them to the left."""
        kind = type(node)
        parts: list[exp.Expression] = []
        while type(node) is kind:
            allow_args(node, "this", "expression")
            parts.append(node.expression)
            node = node.this
        parts.append(node)
        exprs = tuple(self.expr(part, scope) for part in reversed(parts))
        return self._folded(And(exprs, at=exprs[0].at) if kind is exp.And else Or(exprs, at=exprs[0].at))

    def negation(self, node: exp.Expression, scope: Scope) -> Expr:
        allow_args(node, "this")
        part = self.expr(node.this, scope)
        return self._folded(Not(part, at=part.at))

    def _negated(self, node: exp.Expression, expr: Expr) -> Expr:
        """Negate where the node has the flag, as ``NOT LIKE`` does."""
        return Not(expr, at=expr.at) if node.args.get("negate") else expr

    def membership(self, node: exp.Expression, scope: Scope) -> Expr:
        allow_args(node, "this", "expressions", "field", "negate")
        part, field = self.expr(node.this, scope), node.args.get("field")
        values: list[Expr]
        if isinstance(field, exp.Placeholder):
            param = self._param(field)
            values = list(param) if isinstance(param, list) else [param]
        elif field is not None:
            raise QueryError("IN needs a list in brackets", at=offset_of(field))
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
        allow_args(node, "this", "low", "high", "negate")
        part = self.expr(node.this, scope)
        low, high = self.expr(node.args["low"], scope), self.expr(node.args["high"], scope)
        self._count(_node_count_and_depth(part)[0])
        both = And((self._compare(">=", part, low), self._compare("<=", part, high)), at=part.at)
        return self._negated(node, self._folded(both))

    def like(self, node: exp.Expression, scope: Scope) -> Expr:
        allow_args(node, "this", "expression", "negate")
        part, pattern = self.expr(node.this, scope), self.expr(node.expression, scope)
        if not isinstance(pattern, Literal) or not isinstance(pattern.value, str):
            raise QueryError("LIKE takes a text in quotes", at=pattern.at)
        return self._negated(node, self._folded(Like(part, pattern.value, at=part.at)))

    def minus(self, node: exp.Expression, scope: Scope) -> Expr:
        allow_args(node, "this")
        if (
            isinstance(node.this, exp.Literal) and not node.this.is_string
        ):  # so that the smallest integer is read as one
            return Literal(parse_number(f"-{node.this.this}", at=offset_of(node)), at=offset_of(node))
        part = self.expr(node.this, scope)
        return self._folded(Negate(part, at=part.at))

    def case(self, node: exp.Expression, scope: Scope) -> Expr:
        allow_args(node, "this", "ifs", "default")
        operand = None if node.this is None else self.expr(node.this, scope)
        whens: list[tuple[Expr, Expr]] = []
        for when in node.args["ifs"]:
            allow_args(when, "this", "true")
            condition = self.expr(when.this, scope)
            if operand is not None:
                self._count(_node_count_and_depth(operand)[0])
                condition = self._compare("=", operand, condition)
            whens.append((condition, self.expr(when.args["true"], scope)))
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
        """Return a constant beside a time as a time: epoch milliseconds, or text with a time."""
        if not isinstance(expr, Literal) or expr.value is None or isinstance(expr.value, bool):
            return expr
        if expr.meaning == "interval":
            raise QueryError(
                "a time cannot be compared with an INTERVAL", at=expr.at, suggestion="write now() - INTERVAL …"
            )
        return Literal(parse_time_literal(expr.value, at=expr.at), "time", at=expr.at)

    def _folded(self, expr: Expr) -> Expr:
        return fold_constant(expr, self.types)


_LOWER: Final[Mapping[type[exp.Expression], Callable[[ExprLowerer, Any, Scope], Expr]]] = {
    exp.Paren: ExprLowerer.paren,
    exp.Column: ExprLowerer.column,
    exp.Literal: ExprLowerer.literal,
    exp.Boolean: ExprLowerer.boolean,
    exp.Null: ExprLowerer.null,
    exp.Placeholder: ExprLowerer.placeholder,
    exp.Interval: ExprLowerer.interval,
    exp.Bracket: ExprLowerer.tag,
    exp.And: ExprLowerer.chain,
    exp.Or: ExprLowerer.chain,
    exp.Not: ExprLowerer.negation,
    exp.In: ExprLowerer.membership,
    exp.Between: ExprLowerer.between,
    exp.Like: ExprLowerer.like,
    exp.Neg: ExprLowerer.minus,
    exp.Case: ExprLowerer.case,
}


def _node_count_and_depth(expr: Expr) -> tuple[int, int]:
    """Return how many nodes an expression has, and how deep they are nested."""
    extents = [_node_count_and_depth(part) for part in children(expr)]
    return 1 + sum(nodes for nodes, _ in extents), 1 + max((depth for _, depth in extents), default=0)
