"""Translates the clauses of a SELECT from sqlglot's syntax tree into ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from sqlglot import exp

from vantage.core.errors import QueryError
from vantage.vql.signatures import TEXT_TABLES
from vantage.vql.text.literals import parse_number
from vantage.vql.text.lower_call import Scope
from vantage.vql.text.lower_expr import ExprLowerer
from vantage.vql.text.params import Params, reject_unused_params
from vantage.vql.text.parse import Parsed, ParsedCondition, offset_of
from vantage.vql.text.unsupported import allow_args, unsupported
from vantage.vql.tree import Column, Expr, Literal, Order, Select, SelectItem, TableName
from vantage.vql.types import unknown_name


def lower_select(parsed: Parsed, *, now_ms: int, params: Params) -> Select:
    """Return the query of a statement. Raises QueryError with the offset of the fault in the text."""
    tree = parsed.tree
    allow_args(
        tree, "expressions", "from_", "where", "group", "having", "order", "limit", "kind", "operation_modifiers"
    )
    table = _table(tree)
    exprs = ExprLowerer(parsed.text, parsed.tokens, table=table, now_ms=now_ms, params=params)
    exprs.name_aliases(tree.expressions)
    items = _items(exprs, tree.expressions, parsed.item_names())
    where, having = tree.args.get("where"), tree.args.get("having")
    select = Select(
        table,
        tuple(items),
        where=None if where is None else exprs.expr(where.this, "where"),
        group_by=tuple(_group(exprs, tree.args.get("group"), items)),
        having=None if having is None else exprs.expr(having.this, "having"),
        order_by=tuple(_order(exprs, tree.args.get("order"), items)),
        limit=_limit(exprs, tree.args.get("limit")),
    )
    reject_unused_params(params, exprs.params_used)
    return select


def lower_condition(parsed: ParsedCondition, *, table: TableName, now_ms: int, params: Params) -> Expr:
    """Return the expression of a condition. Raises QueryError with an offset."""
    exprs = ExprLowerer(parsed.text, parsed.tokens, table=table, now_ms=now_ms, params=params)
    condition = exprs.expr(parsed.tree, "where")
    reject_unused_params(params, exprs.params_used)
    return condition


def _table(tree: exp.Select) -> TableName:
    source = tree.args.get("from_")
    if source is None:
        raise QueryError("FROM is missing", suggestion="write FROM metrics or FROM spans", at=0)
    allow_args(source, "this")
    table = source.this
    if not isinstance(table, exp.Table) or not isinstance(table.this, exp.Identifier):
        raise unsupported(table.this if isinstance(table, exp.Table) else table, "")
    allow_args(table, "this")
    name = table.name
    for known in get_args(TableName):
        if name == known and name in TEXT_TABLES:
            table_name: TableName = known
            return table_name
    raise unknown_name("table", name, dict.fromkeys(TEXT_TABLES), at=offset_of(table))


def _items(exprs: ExprLowerer, nodes: Sequence[exp.Expression], names: Sequence[str]) -> list[SelectItem]:
    items: list[SelectItem] = []
    for index, node in enumerate(nodes):
        if isinstance(node, exp.Star):
            allow_args(node)
            items += [SelectItem(Column(name, at=offset_of(node)), name) for name in exprs.types]
        elif isinstance(node, exp.Alias):
            allow_args(node, "this", "alias")
            items.append(SelectItem(exprs.alias(node.alias), node.alias))
        else:
            name = names[index] if index < len(names) == len(nodes) else f"column_{index + 1}"
            items.append(
                SelectItem(exprs.expr(node, "item"), node.name if isinstance(node, exp.Column) else name[:100])
            )
    counts: dict[str, int] = {}
    for index, item in enumerate(items):
        counts[item.name] = counts.get(item.name, 0) + 1
        if counts[item.name] > 1:
            items[index] = SelectItem(item.expr, f"{item.name}_{counts[item.name]}")
    return items


def _group(exprs: ExprLowerer, group: exp.Expression | None, items: Sequence[SelectItem]) -> list[Expr]:
    if group is None:
        return []
    allow_args(group, "expressions")
    return [_key(exprs, node, "group", items) for node in group.expressions]


def _order(exprs: ExprLowerer, order: exp.Expression | None, items: Sequence[SelectItem]) -> list[Order]:
    if order is None:
        return []
    allow_args(order, "expressions")
    keys = []
    for node in order.expressions:
        if not isinstance(node, exp.Ordered):
            raise unsupported(node, "")
        if node.args.get("nulls_first"):
            raise QueryError("NULLS FIRST is not part of VQL: they always come last", at=offset_of(node))
        allow_args(node, "this", "desc", "nulls_first")
        keys.append(Order(_key(exprs, node.this, "order", items), bool(node.args.get("desc"))))
    return keys


def _key(exprs: ExprLowerer, node: exp.Expression, scope: Scope, items: Sequence[SelectItem]) -> Expr:
    """Return a key of GROUP BY or ORDER BY: a number is the position of an item, counted from 1."""
    if isinstance(node, exp.Literal) and not node.is_string:
        number = parse_number(node.this, at=offset_of(node))
        if isinstance(number, int) and 1 <= number <= len(items):
            return items[number - 1].expr
        raise QueryError(f"there is no column number {node.this[:20]}", at=offset_of(node))
    return exprs.expr(node, scope)


def _limit(exprs: ExprLowerer, limit: exp.Expression | None) -> int | None:
    if limit is None:
        return None
    if not isinstance(limit, exp.Limit):
        raise unsupported(limit, "")
    allow_args(limit, "expression")
    limit_expr = exprs.expr(limit.expression, "where")
    if (
        isinstance(limit_expr, Literal)
        and type(limit_expr.value) is int
        and not limit_expr.meaning
        and limit_expr.value >= 0
    ):
        return limit_expr.value
    raise QueryError("LIMIT takes a whole number", at=offset_of(limit))
