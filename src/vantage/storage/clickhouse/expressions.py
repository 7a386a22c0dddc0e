"""Print expressions of the query tree as ClickHouse SQL, with the same meaning as on every store.

Values are bound as parameters, never inserted into the text; names come from our own tables. A text contains each
operand once, so that nesting does not inflate it. A float that is not finite is NULL, conditions are true or false:
``Term.nullable`` says where SQL must handle that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from vantage.core.errors import InputError
from vantage.storage.clickhouse.engine import Param
from vantage.vql.signatures import AGGREGATES
from vantage.vql.table import ColumnType
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
    Negate,
    Not,
    Or,
    TagValue,
    children,
)
from vantage.vql.tree import Literal as Constant

TermType = ColumnType | Literal["null"]
_INT64: Final = 1 << 63
_FAR_MS: Final = 1 << 61  # added to a time to make it positive, so that integer division rounds down


@dataclass(frozen=True, slots=True)
class Term:
    """SQL of an expression, valid in any position, and the type of its value."""

    text: str
    type: TermType
    nullable: bool = False


class Params:
    """Values by parameter name; one value of one type has one name."""

    def __init__(self) -> None:
        self.values: dict[str, Param] = {}
        self._names: dict[tuple[str, str], str] = {}

    def bind(self, value: Param, kind: str) -> str:
        """Return the placeholder of a value in SQL."""
        key = (kind, repr(value))
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"p{len(self.values)}"
            self.values[name] = value
        return f"{{{name}:{kind}}}"


@dataclass(frozen=True, slots=True)
class Scope:
    """The meaning of names in one part of a statement."""

    column: Callable[[str], Term]
    tag: Callable[[str], Term]


class Printer:
    """Prints expressions in a scope. ``known`` are expressions that have a name: keys and aggregates."""

    def __init__(self, params: Params, scope: Scope, known: Mapping[Expr, Term] | None = None) -> None:
        self._params = params
        self._scope = scope
        self._known = known or {}

    def term(self, expr: Expr) -> Term:  # noqa: C901 - one case a node
        """Print an expression."""
        if (known := self._known.get(expr)) is not None:
            return known
        match expr:
            case Column(name=name):
                return self._scope.column(name)
            case TagValue(key=key):
                return self._scope.tag(key)
            case Constant():
                return self._constant(expr)
            case Compare(op=op, left=left, right=right):
                return self._compare(op, self.term(left), self.term(right))
            case And(parts=parts):
                return Term(_concat(" AND ", map(self.condition, parts)), "bool")
            case Or(parts=parts):
                return Term(_concat(" OR ", map(self.condition, parts)), "bool")
            case Not(part=part):
                return Term(f"NOT ({self.condition(part)})", "bool")
            case In(part=part, values=values):
                return self._membership(self.term(part), values)
            case Like(part=part, pattern=pattern):
                return self._two_valued(
                    self.term(part), f"LIKE {self._params.bind(_normalize_pattern(pattern), 'String')}"
                )
            case Arithmetic(op=op, left=left, right=right):
                return _arithmetic(op, self.term(left), self.term(right))
            case Negate(part=part):
                term = self.term(part)
                return Term(f"(-{term.text})", term.type, term.nullable)
            case Case(whens=whens, otherwise=otherwise):
                return self._case(whens, otherwise)
            case Call(function=function, args=args):
                if function in AGGREGATES:
                    return self._aggregate(expr)
                return self._call(function, [self.term(arg) for arg in args], args)

    def condition(self, expr: Expr) -> str:
        """Print a condition that is true or false, never NULL."""
        term = self.term(expr)
        if term.type == "null":
            return "false"
        return f"ifNull({term.text}, false)" if term.nullable else term.text

    def _constant(self, constant: Constant) -> Term:
        value = constant.value
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return Term("NULL", "null", nullable=True)
        if isinstance(value, bool):
            return Term("true" if value else "false", "bool")
        if isinstance(value, str):
            return Term(self._params.bind(value, "String"), "string")
        if isinstance(value, float):
            return Term(self._params.bind(value, "Float64"), "float")
        return Term(self._int64(value), "int")

    def _int64(self, value: int) -> str:
        if not -_INT64 <= value < _INT64:
            raise InputError(f"{value} does not fit 64 bits")
        return self._params.bind(value, "Int64")

    def _compare(self, op: str, left: Term, right: Term) -> Term:
        if "null" in (left.type, right.type):
            return Term("false", "bool")
        if "float" in (left.type, right.type):
            left, right = _as_float(left), _as_float(right)
        text = f"{left.text} {op} {right.text}"
        if left.nullable or right.nullable:
            return Term(f"ifNull({text}, false)", "bool")
        return Term(f"({text})", "bool")

    def _two_valued(self, term: Term, test: str) -> Term:
        if term.type == "null":
            return Term("false", "bool")
        return Term(f"ifNull({term.text} {test}, false)" if term.nullable else f"({term.text} {test})", "bool")

    def _membership(self, term: Term, values: Sequence[str | int | float]) -> Term:
        if term.type == "string":
            bound = [self._params.bind(value, "String") for value in values if isinstance(value, str)]
        elif term.type == "bool":
            bound = ["true" if value else "false" for value in dict.fromkeys(map(bool, values))]
        else:
            numbers = [value for value in values if not isinstance(value, str) and math.isfinite(value)]
            if term.type != "float" and all(isinstance(value, int) for value in numbers):
                bound = [self._int64(int(value)) for value in numbers]
            else:
                term = Term(_one_zero(_as_float(term)), "float", term.nullable)  # sets are compared bit by bit
                bound = [self._params.bind(float(value) + 0.0, "Float64") for value in numbers]
        if not bound:
            return Term("false", "bool")
        return self._two_valued(term, f"IN ({', '.join(bound)})")

    def _case(self, whens: Sequence[tuple[Expr, Expr]], otherwise: Expr) -> Term:
        results = _common_type([*(self.term(result) for _, result in whens), self.term(otherwise)])
        parts = [
            part
            for (condition, _), result in zip(whens, results, strict=False)
            for part in (self.condition(condition), result.text)
        ]
        text = f"multiIf({', '.join([*parts, results[-1].text])})"
        return Term(text, _type_of(results), any(result.nullable for result in results))

    def _call(self, function: str, terms: list[Term], args: tuple[Expr, ...]) -> Term:
        first = terms[0]
        nullable = any(term.nullable for term in terms)
        match function:
            case "toStartOfInterval" | "toUnixTimestamp":
                return self._rounded_down(function, first, args)
            case "lower" | "upper":
                return Term(f"{function}({first.text})", "string", nullable)
            case "concat":
                if len(terms) == 1:
                    return first
                return Term(f"concat({', '.join(term.text for term in terms)})", "string", nullable)
            case "coalesce":
                terms = _common_type(terms)
                text = f"coalesce({', '.join(term.text for term in terms)})"
                return Term(text, _type_of(terms), all(term.nullable for term in terms))
            case "abs":  # of Int64 ClickHouse makes UInt64
                text = f"abs({first.text})"
                return Term(f"toInt64({text})" if first.type in ("int", "time") else text, first.type, nullable)
            case "floor" | "ceil":
                return Term(f"{function}({_as_float(first).text})", "float", nullable)
            case "round":
                digits = args[1].value if len(args) > 1 and isinstance(args[1], Constant) else 0
                return _finite(f"roundBankers({_as_float(first).text}, {int(digits or 0)})")
            case "log" | "exp":
                return _finite(f"{function}({_as_float(first).text})")
        raise AssertionError(f"{function} has no spelling in SQL")

    def _rounded_down(self, function: str, time: Term, args: tuple[Expr, ...]) -> Term:
        if function == "toUnixTimestamp":
            width_ms, offset_ms = 1000, 0
        else:
            width_ms, offset_ms = (int(arg.value or 0) for arg in (*args[1:], Constant(0))[:2] if _is_constant(arg))  # type: ignore[union-attr]
        # Times of samples and spans lie after 2000, so they are positive.
        far = 0 if isinstance(args[0], Column) else _FAR_MS // width_ms * width_ms
        shift = far - offset_ms
        width = self._int64(width_ms)
        shifted = f"{time.text} + {self._int64(shift)}" if shift else time.text
        quotient = f"intDiv({shifted}, {width})"
        if function == "toUnixTimestamp":
            text = f"({quotient} - {self._int64(far // width_ms)})" if far else quotient
            return Term(text, "int", time.nullable)
        return Term(
            f"({quotient} * {width} - {self._int64(shift)})" if shift else f"({quotient} * {width})",
            "time",
            time.nullable,
        )

    def _aggregate(self, call: Call) -> Term:  # noqa: C901 - one case an aggregate
        """Print an aggregate. Without rows it is NULL, which OrNull adds; counts are 0."""
        name, terms = call.function, [self.term(arg) for arg in call.args]
        first = terms[0] if terms else None
        condition = self.condition(call.args[-1]) if name.endswith("If") else ""
        if name == "countIf":
            return Term(f"toInt64(countIf({condition}))", "int")
        if first is not None and first.type == "null":
            return Term("toInt64(0)", "int") if name in ("count", "uniq") else first
        match name, first:
            case "count", _:
                return Term(f"toInt64(count({first.text if first is not None and first.nullable else ''}))", "int")
            case "increase", _:
                return _finite("sumOrNull(growth)")
            case "sketchQuantile", _:
                return _finite(f"quantileBFloat16Merge({float(call.parameter or 0)!r})(sketch)")
            case (("sum" | "avg"), Term()):
                return _finite(f"{name}OrNull({_as_float(first).text})")
            case (("sumIf" | "avgIf"), Term()):
                return _finite(f"{name.removesuffix('If')}OrNullIf({_as_float(first).text}, {condition})")
            case (("min" | "max" | "any"), Term()):
                extreme = "max" if name == "max" else "min"
                return Term(f"{extreme}OrNull({first.text})", first.type, nullable=True)
            case "quantile", Term():
                return _finite(f"quantileExactInclusiveOrNull({float(call.parameter or 0)!r})({_as_float(first).text})")
            case "stddevPop", Term():
                return _finite(f"stddevPopStableOrNull({_as_float(first).text})")
            case "uniq", Term():
                return Term(f"toInt64(uniqExact({_one_zero(first)}))", "int")
            case "argMax", Term():
                return _arg_max(first, terms[1])
        raise AssertionError(f"{name} has no spelling in SQL")


def _is_constant(expr: Expr) -> bool:
    return isinstance(expr, Constant)


def is_fixed(expr: Expr) -> bool:
    """Return whether an expression has the same value in every row."""
    if isinstance(expr, Column | TagValue) or (isinstance(expr, Call) and expr.function in AGGREGATES):
        return False
    return all(map(is_fixed, children(expr)))


def grouping_key(term: Term, *, fixed: bool) -> Term:
    """Return the term to group by: 0.0 and -0.0 are one group. A constant key is hidden from the engine, which would
    otherwise return one row when there is none: version 26.7 looks through materialize, 26.9 does not."""
    if term.type == "null":
        return Term("materialize(identity(CAST(NULL AS Nullable(Float64))))", "float", nullable=True)
    text = _one_zero(term)
    return Term(f"materialize(identity({text}))" if fixed else text, term.type, term.nullable)


def _one_zero(term: Term) -> str:
    return f"({term.text} + 0.)" if term.type == "float" else term.text


def _arg_max(value: Term, key: Term) -> Term:
    """Return the value of the greatest key, the smallest of several: that of the least (-key, value)."""
    if key.type == "null":
        return Term("NULL", "null", nullable=True)
    not_null = [f"isNotNull({term.text})" for term in (value, key) if term.nullable]
    value_text, key_text = (f"assumeNotNull({term.text})" if term.nullable else term.text for term in (value, key))
    pair = f"{value_text}, (-{key_text}, {value_text})"
    text = f"argMinOrNullIf({pair}, {' AND '.join(not_null)})" if not_null else f"argMinOrNull({pair})"
    return Term(text, value.type, nullable=True)


def _concat(word: str, parts: object) -> str:
    return f"({word.join(parts)})"  # type: ignore[arg-type]


def _as_float(term: Term) -> Term:
    return term if term.type in ("float", "null") else Term(f"toFloat64({term.text})", "float", term.nullable)


def _finite(text: str) -> Term:
    return Term(f"ifNotFinite({text}, NULL)", "float", nullable=True)


def _arithmetic(op: str, left: Term, right: Term) -> Term:
    if "null" in (left.type, right.type):
        return Term("NULL", "null", nullable=True)
    if op in "+-" and "float" not in (left.type, right.type):
        return Term(f"({left.text} {op} {right.text})", "int", left.nullable or right.nullable)
    return _finite(f"{_as_float(left).text} {op} {_as_float(right).text}")


def _common_type(terms: list[Term]) -> list[Term]:
    """Convert integers beside floats or NULL to floats, as in columns that cannot contain NULL."""
    kinds = {term.type for term in terms}
    return [_as_float(term) for term in terms] if "float" in kinds or kinds == {"int", "null"} else terms


def _type_of(terms: Sequence[Term]) -> TermType:
    kinds = {term.type for term in terms} - {"null"}
    if len(kinds) == 1:
        return kinds.pop()
    return "int" if kinds else "null"


def _normalize_pattern(pattern: str) -> str:
    r"""Return the pattern with no escapes but ``\%``, ``\_`` and ``\\``."""
    letters, index = [], 0
    while index < len(pattern):
        letter = pattern[index]
        if letter == "\\":
            index += 1
            letter = pattern[index] if index < len(pattern) else "\\"
            letter = f"\\{letter}" if letter in "%_\\" else letter
        letters.append(letter)
        index += 1
    return "".join(letters)
