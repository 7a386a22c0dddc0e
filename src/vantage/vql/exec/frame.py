"""Frames: the rows of a query during execution, and the evaluation of row expressions on their columns."""

from __future__ import annotations

import operator
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from vantage.core.arrays import Array, Mask
from vantage.core.dict_column import DictColumn, dict_encode
from vantage.vql.exec.budget import DISTINCT_NBYTES, NUMBER_NBYTES, QueryBudget, vector_nbytes
from vantage.vql.exec.like import like_matcher
from vantage.vql.exec.vector import (
    Vector,
    as_texts,
    constant,
    dense_codes,
    finite,
    pick,
    rank_texts,
    take,
)
from vantage.vql.signatures import series_only
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
    TagValue,
    children,
)

WORKING_VECTORS: Final = 2  # that one operation makes and drops beside its result


@dataclass(frozen=True, slots=True)
class PerSeries:
    """Values that rows share with their series: row ``i`` has those of row ``row_of[i]`` of ``frame``, which has one
    row per series."""

    frame: Frame
    row_of: Array


class Frame:
    """``rows`` rows: vectors by expression, and columns built on first use."""

    def __init__(
        self,
        rows: int,
        columns: Mapping[str, Callable[[], Vector]],
        *,
        tag: Callable[[str], Vector] | None = None,
        shared: Callable[[], PerSeries] | None = None,
        budget: QueryBudget | None = None,
    ) -> None:
        """``tag`` returns ``tags['key']`` by its key; where it is None, the maps of the column ``tags`` are read.

        Expressions that depend on the series alone are evaluated in ``shared``, once per series instead of once per
        row. Vectors are counted against ``budget`` as long as the frame keeps them.
        """
        self.rows = rows
        self.budget = budget or QueryBudget(float("inf"))
        self._columns = columns
        self._tag = tag
        self._shared = shared
        self._known: dict[Expr, Vector] = {}
        self._nbytes: dict[Expr, int] = {}

    @cached_property
    def per_series(self) -> PerSeries | None:
        return None if self._shared is None else self._shared()

    @property
    def names(self) -> Iterable[str]:
        return self._columns.keys()

    def tag(self, key: str) -> Vector:
        """Return the values of one tag or attribute; '' where it is absent."""
        if self._tag is not None:
            return self._tag(key)
        return self.budget.map(self.text(Column("tags")), lambda tags: tags.get(key, ""))

    def set(self, expr: Expr, vector: Vector) -> None:
        self._known[expr] = vector
        self._nbytes[expr] = vector_nbytes(vector)
        self.budget.take(self._nbytes[expr])

    def forget_but(self, exprs: Iterable[Expr]) -> None:
        """Forget every vector that none of these expressions needs."""
        needed: set[Expr] = set()
        left = list(exprs)
        while left:
            expr = left.pop()
            needed.add(expr)
            left.extend(children(expr))
        for expr in [known for known in self._known if known not in needed]:
            del self._known[expr]
            self.budget.give(self._nbytes.pop(expr))

    def take(self, rows: Array) -> Frame:
        """Return a frame of the given rows of every vector computed so far."""
        frame = Frame(len(rows), {}, budget=self.budget)
        for expr, vector in self._known.items():
            frame.set(expr, take(vector, rows))
        return frame

    def vector(self, expr: Expr) -> Vector:
        """Evaluate an expression, each sub-expression at most once."""
        if (vector := self._known.get(expr)) is None:
            shared = self.per_series
            with self.budget.working(WORKING_VECTORS * NUMBER_NBYTES * self.rows):
                if shared is not None and series_only(expr):
                    vector = take(shared.frame.vector(expr), shared.row_of)
                else:
                    vector = self._columns[expr.name]() if isinstance(expr, Column) else _evaluate(expr, self)
            self.set(expr, vector)
        return vector

    def vector_at(self, expr: Expr, rows: Array) -> Vector:
        """Evaluate an expression for the given rows."""
        if self.per_series is not None and series_only(expr):
            return take(self.per_series.frame.vector(expr), self.per_series.row_of[rows])
        return take(self.vector(expr), rows)

    def numbers(self, expr: Expr) -> Array:
        vector = self.vector(expr)
        if isinstance(vector, DictColumn):  # the checker lets no text come here; nulls from CASE may
            return np.array([np.nan if v is None else v for v in vector.values], np.float64)[vector.codes]
        return vector

    def condition(self, expr: Expr) -> Mask:
        return self.numbers(expr).astype(np.bool_, copy=False)

    def text(self, expr: Expr) -> DictColumn[Any]:
        vector = self.vector(expr)
        return vector if isinstance(vector, DictColumn) else dict_encode(vector.tolist())


_ARITHMETIC: Final[Mapping[str, np.ufunc]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.true_divide,
}
_COMPARE: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _evaluate(expr: Expr, frame: Frame) -> Vector:  # noqa: C901 - one case a node
    match expr:
        case Literal(value=value):
            return constant(value, frame.rows)
        case TagValue(key=key):
            return frame.tag(key)
        case Compare():
            return _compare(expr, frame)
        case And(parts=parts):
            return _all(np.logical_and, [frame.condition(part) for part in parts])
        case Or(parts=parts):
            return _all(np.logical_or, [frame.condition(part) for part in parts])
        case Not(part=part):
            return ~frame.condition(part)
        case In(part=part, values=values):
            vector = frame.vector(part)
            if isinstance(vector, DictColumn):
                wanted = frozenset(values)
                return frame.budget.mask(vector, lambda value: value in wanted)
            is_int = vector.dtype.kind == "i" and all(isinstance(value, int) for value in values)
            return np.isin(vector, np.array(values, np.int64 if is_int else np.float64))
        case Like(part=part, pattern=pattern):
            matches = like_matcher(pattern)
            return frame.budget.mask(frame.text(part), lambda value: value is not None and matches(value))
        case Arithmetic(op=op, left=left, right=right):
            return _arithmetic(op, frame.numbers(left), frame.numbers(right))
        case Negate(part=part):
            return -frame.numbers(part)
        case Case(whens=whens, otherwise=otherwise):
            return _case(whens, otherwise, frame)
        case Call(function=function, args=args):
            return _ROW_FUNCTIONS[function](frame, args)
        case Column(name=name):
            raise KeyError(name)


def _all(combine: np.ufunc, conditions: list[Mask]) -> Array:
    combined: Array = combine.reduce(conditions)
    return combined


def _compare(expr: Compare, frame: Frame) -> Array:
    compare = _COMPARE[expr.op]
    left, right = frame.vector(expr.left), frame.vector(expr.right)
    if isinstance(left, DictColumn) and isinstance(expr.right, Literal):
        constant = expr.right.value
        return frame.budget.mask(left, lambda value: value is not None and compare(value, constant))
    if isinstance(left, DictColumn) and isinstance(right, DictColumn):
        with frame.budget.working(DISTINCT_NBYTES * 2 * (len(left.values) + len(right.values))):
            texts = frame.budget.sort(list({*left.values, *right.values} - {None}))
            ranks = {value: rank for rank, value in enumerate(texts)}
            left, right = (rank_texts(side, ranks) for side in (left, right))
    assert not isinstance(left, DictColumn)
    assert not isinstance(right, DictColumn)
    result: Array = compare(left, right)
    if expr.op == "!=":  # numpy says NaN != NaN; null compares as false
        result = result & ~(np.isnan(left.astype(np.float64)) | np.isnan(right.astype(np.float64)))
    return result


def _arithmetic(op: str, left: Array, right: Array) -> Array:
    if op in ("+", "-") and left.dtype.kind == right.dtype.kind == "i":
        return np.add(left, right) if op == "+" else np.subtract(left, right)
    with np.errstate(all="ignore"):
        result = _ARITHMETIC[op](left.astype(np.float64, copy=False), right.astype(np.float64, copy=False))
    return finite(result)


def _case(whens: tuple[tuple[Expr, Expr], ...], otherwise: Expr, frame: Frame) -> Vector:
    conditions = [frame.condition(condition) for condition, _ in whens]
    results = [frame.vector(result) for _, result in whens] + [frame.vector(otherwise)]
    if not any(isinstance(result, DictColumn) for result in results):
        numbers = [np.asarray(result) for result in results]
        return np.select(conditions, numbers[:-1], numbers[-1])
    return pick(conditions, [as_texts(result) for result in results], frame.rows)


def _coalesce(frame: Frame, args: tuple[Expr, ...]) -> Vector:
    vectors = [frame.vector(arg) for arg in args]
    numbers = [vector for vector in vectors if not isinstance(vector, DictColumn)]
    if len(numbers) == len(vectors):
        result = numbers[-1]
        for vector in reversed(numbers[:-1]):  # np.where makes floats of integers beside floats
            result = np.where(np.isnan(vector), result, vector)
        return result
    texts = [as_texts(vector) for vector in vectors]
    present = [frame.budget.mask(text, lambda value: value is not None) for text in texts]
    return pick(present, [*texts, DictColumn(np.zeros(frame.rows, np.int64), [None])], frame.rows)


def _concat(frame: Frame, args: tuple[Expr, ...]) -> Vector:
    texts = [frame.text(arg) for arg in args]
    codes, first = dense_codes(frame.budget.merge_equal_values(texts[0]))
    for text in texts[1:]:
        codes, first = dense_codes(codes * (int(text.codes.max(initial=0)) + 1) + text.codes)
    codes_of_parts = list(zip(*(text.codes[first].tolist() for text in texts), strict=True))

    def join(codes_of_row: tuple[int, ...]) -> str | None:
        parts = [text.values[code] for text, code in zip(texts, codes_of_row, strict=True)]
        return None if None in parts else "".join(parts)

    return frame.budget.map(DictColumn(codes, codes_of_parts), join)


def _bucket(frame: Frame, args: tuple[Expr, ...]) -> Vector:
    width, offset = (arg.value if isinstance(arg, Literal) else 0 for arg in (*args[1:], Literal(0))[:2])
    assert isinstance(width, int)
    assert isinstance(offset, int)
    times = frame.numbers(args[0])
    starts: Array = times - (times - offset) % width
    return starts


def _round(frame: Frame, args: tuple[Expr, ...]) -> Vector:
    digits = args[1].value if len(args) > 1 and isinstance(args[1], Literal) else 0
    assert isinstance(digits, int)
    with np.errstate(all="ignore"):
        return finite(np.round(_floats(frame, args), digits))


def _floats(frame: Frame, args: tuple[Expr, ...]) -> Array:
    return frame.numbers(args[0]).astype(np.float64, copy=False)


def _floating(function: np.ufunc) -> Callable[[Frame, tuple[Expr, ...]], Vector]:
    def run(frame: Frame, args: tuple[Expr, ...]) -> Vector:
        with np.errstate(all="ignore"):
            return finite(function(_floats(frame, args)))

    return run


def _of_text(change: Callable[[str], str]) -> Callable[[Frame, tuple[Expr, ...]], Vector]:
    return lambda frame, args: frame.budget.map(
        frame.text(args[0]), lambda text: text if text is None else change(text)
    )


# Letters of ASCII alone change, as ClickHouse's ``lower`` and ``upper`` do it: every store can do the same.
_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_UPPER: Final = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)

_ROW_FUNCTIONS: Final[Mapping[str, Callable[[Frame, tuple[Expr, ...]], Vector]]] = {
    "toStartOfInterval": _bucket,
    "toUnixTimestamp": lambda frame, args: frame.numbers(args[0]) // 1000,
    "lower": _of_text(lambda text: text.translate(_LOWER)),
    "upper": _of_text(lambda text: text.translate(_UPPER)),
    "concat": _concat,
    "coalesce": _coalesce,
    "abs": lambda frame, args: np.abs(frame.numbers(args[0])),
    "floor": _floating(np.floor),
    "ceil": _floating(np.ceil),
    "log": _floating(np.log),
    "exp": _floating(np.exp),
    "round": _round,
}
