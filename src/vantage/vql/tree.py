"""The query tree: closed and immutable. What it cannot express cannot run, on any store.

Nodes are frozen and hashable, so a node is its own key: execution looks results up by node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal as OneOf
from typing import Union

Expr = Union[
    "Column",
    "TagValue",
    "Literal",
    "Call",
    "Compare",
    "And",
    "Or",
    "Not",
    "In",
    "Like",
    "Arithmetic",
    "Negate",
    "Case",
]

TableName = OneOf["metrics", "spans", "rollups_5m", "rollups_1h"]
CompareOp = OneOf["=", "!=", "<", "<=", ">", ">="]
ArithmeticOp = OneOf["+", "-", "*", "/"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table, such as ``value``."""

    name: str


@dataclass(frozen=True, slots=True)
class TagValue:
    """``tags['key']`` (``attributes['key']`` on spans); the empty string where the tag is absent."""

    key: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant. Times are epoch milliseconds."""

    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Call:
    """A function or aggregate; ``parameter`` is the p of ``quantile(p)(x)``."""

    function: str
    args: tuple[Expr, ...] = ()
    parameter: float | None = None


@dataclass(frozen=True, slots=True)
class Compare:
    """A comparison; null on either side gives false."""

    op: CompareOp
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: Expr


@dataclass(frozen=True, slots=True)
class In:
    """Membership in a list of constants."""

    part: Expr
    values: tuple[str | int | float, ...]


@dataclass(frozen=True, slots=True)
class Like:
    """SQL LIKE, with regard to case: ``%`` any run, ``_`` one character, ``\\`` takes the next one literally."""

    part: Expr
    pattern: str


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """``1/0`` is null; division always gives a float."""

    op: ArithmeticOp
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Negate:
    part: Expr


@dataclass(frozen=True, slots=True)
class Case:
    """The result of the first condition that holds, else ``otherwise``."""

    whens: tuple[tuple[Expr, Expr], ...]
    otherwise: Expr


@dataclass(frozen=True, slots=True)
class Item:
    """One column of the answer."""

    expr: Expr
    name: str


@dataclass(frozen=True, slots=True)
class Order:
    expr: Expr
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Select:
    """A query. ``where`` and ``having`` of None hold always; ``limit`` of None is the checker's maximum."""

    table: TableName
    items: tuple[Item, ...]
    where: Expr | None = None
    group_by: tuple[Expr, ...] = ()
    having: Expr | None = None
    order_by: tuple[Order, ...] = ()
    limit: int | None = None


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct sub-expressions of a node."""
    match expr:
        case Call(args=parts) | And(parts=parts) | Or(parts=parts):
            return parts
        case Compare(left=left, right=right) | Arithmetic(left=left, right=right):
            return (left, right)
        case Not(part=part) | Negate(part=part) | In(part=part) | Like(part=part):
            return (part,)
        case Case(whens=whens, otherwise=otherwise):
            return (*(part for when in whens for part in when), otherwise)
        case _:
            return ()


def conjuncts(expr: Expr | None) -> list[Expr]:
    """The conditions that must all hold; none for None."""
    if expr is None:
        return []
    if isinstance(expr, And):
        return [part for each in expr.parts for part in conjuncts(each)]
    return [expr]


def equals(column: str, value: str) -> Compare:
    """``column = 'value'``: the condition that pages and the API build most."""
    return Compare("=", Column(column), Literal(value))
