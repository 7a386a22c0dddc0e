"""The query tree: closed and immutable. What it cannot express cannot run, on any store.

Nodes are frozen and hashable, so a node is its own key: execution looks results up by node. A node's offset in the text
comes along and has no part in equality.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
class _Node:
    """``at``: the offset in the query's text; None for trees that were built without text."""

    at: int | None = field(default=None, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Column(_Node):
    """A column of the table, such as ``value``."""

    name: str


@dataclass(frozen=True, slots=True)
class TagValue(_Node):
    """``tags['key']`` (``attributes['key']`` on spans); the empty string where the tag is absent."""

    key: str


@dataclass(frozen=True, slots=True, eq=False)
class Literal(_Node):
    """A constant; None is NULL.

    Times are epoch milliseconds, and ``meaning`` says that a number is a time, or a length of time in milliseconds.
    Unlike in Python 1, 1.0 and true are different constants, and so are 0.0 and -0.0.
    """

    value: str | int | float | bool | None
    meaning: OneOf["", "time", "interval"] = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, str]:
        return (self.value if isinstance(self.value, str) else repr(self.value), f"{type(self.value)}{self.meaning}")


@dataclass(frozen=True, slots=True)
class Call(_Node):
    """A function or aggregate; ``parameter`` is the p of ``quantile(p)(x)``."""

    function: str
    args: tuple[Expr, ...] = ()
    parameter: float | None = None


@dataclass(frozen=True, slots=True)
class Compare(_Node):
    """A comparison; NULL on either side gives false."""

    op: CompareOp
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class And(_Node):
    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Or(_Node):
    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Not(_Node):
    part: Expr


@dataclass(frozen=True, slots=True)
class In(_Node):
    """Membership in a list of constants."""

    part: Expr
    values: tuple[str | int | float, ...]


@dataclass(frozen=True, slots=True)
class Like(_Node):
    """SQL LIKE, with regard to case: ``%`` any run, ``_`` one character, ``\\`` takes the next one literally."""

    part: Expr
    pattern: str


@dataclass(frozen=True, slots=True)
class Arithmetic(_Node):
    """What is not a finite number is NULL. ``+`` and ``-`` of integers are integers of 64 bits, all else is a float."""

    op: ArithmeticOp
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Negate(_Node):
    part: Expr


@dataclass(frozen=True, slots=True)
class Case(_Node):
    """The result of the first condition that is true, else ``otherwise``, which may be NULL."""

    whens: tuple[tuple[Expr, Expr], ...]
    otherwise: Expr


@dataclass(frozen=True, slots=True)
class SelectItem:
    """One column of the answer."""

    expr: Expr
    name: str


@dataclass(frozen=True, slots=True)
class Order:
    expr: Expr
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Select:
    """A query. ``where`` and ``having`` of None are always true; ``limit`` of None is the checker's maximum."""

    table: TableName
    items: tuple[SelectItem, ...]
    where: Expr | None = None
    group_by: tuple[Expr, ...] = ()
    having: Expr | None = None
    order_by: tuple[Order, ...] = ()
    limit: int | None = None


def children(expr: Expr) -> tuple[Expr, ...]:
    """Return the direct sub-expressions of a node."""
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
    """Return the conditions that must all be true; none for None."""
    if expr is None:
        return []
    if isinstance(expr, And):
        return [part for each in expr.parts for part in conjuncts(each)]
    return [expr]


def equals(column: str, value: str) -> Compare:
    """Return ``column = 'value'``: the condition that pages and the API build most."""
    return Compare("=", Column(column), Literal(value))
