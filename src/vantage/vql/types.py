"""The type of every expression; an expression without one is refused here, with its offset."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final
from typing import Literal as OneOf

from vantage.core.errors import QueryError
from vantage.vql.signatures import ARGUMENTS_MAX, FUNCTIONS, Function, Want
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
    Literal,
    Negate,
    Not,
    Or,
    TagValue,
)

Type = ColumnType | OneOf["null"]
Types = Mapping[str, ColumnType]
NUMBERS: Final = ("int", "float", "time")
ROUND_DIGITS_MAX: Final = 15
_KINDS: Final[Mapping[str, str]] = {
    "number": "a number",
    "int": "a whole number",
    "float": "a number",
    "time": "a time",
    "string": "text",
    "bool": "a condition",
    "map": "a map",
    "value": "a number or text",
    "sortable": "a number, text or a condition",
    "any": "a value",
}
_FITTING: Final[Mapping[Want, tuple[str, ...]]] = {
    "number": NUMBERS,
    "string": ("string",),
    "time": ("time", "int"),
    "bool": ("bool",),
    "value": (*NUMBERS, "string"),
    "sortable": (*NUMBERS, "string", "bool"),
    "any": (*NUMBERS, "string", "bool", "map"),
}


def type_of(expr: Expr, types: Types) -> Type:  # noqa: C901 - one case a node
    """Return the type of an expression over columns of such types; 'null' is that of NULL alone. Raises QueryError."""
    match expr:
        case Column(name=name):
            if name not in types:
                raise unknown_name("column", name, types, at=expr.at)
            return types[name]
        case TagValue():
            return "string"
        case Literal(value=value, meaning=meaning):
            return "time" if meaning == "time" else _literal_type(value)
        case Call():
            return _call_type(expr, types)
        case Compare(op=op, left=left, right=right):
            _comparable(left, type_of(right, types), types, op)
            _comparable(right, type_of(left, types), types, op)
            return "bool"
        case And(parts=parts) | Or(parts=parts):
            for part in parts:
                expect_type(part, "bool", types, "AND/OR")
            return "bool"
        case Not(part=part):
            expect_type(part, "bool", types, "NOT")
            return "bool"
        case In(part=part, values=values):
            for value in values:
                _comparable(part, _literal_type(value), types, "IN")
            return "bool"
        case Like(part=part):
            expect_type(part, "string", types, "LIKE")
            return "bool"
        case Arithmetic():
            return _arithmetic_type(expr, types)
        case Negate(part=part):
            operand_type = expect_type(part, "number", types, "-")
            return "int" if operand_type == "time" else operand_type
        case Case(whens=whens, otherwise=otherwise):
            for condition, _ in whens:
                expect_type(condition, "bool", types, "CASE")
            return _common_type([*(result for _, result in whens), otherwise], types, "the branches of CASE")


def expect_type(expr: Expr, kind: Want, types: Types, where: str) -> ColumnType:
    """Return the type of an expression that must be of a kind. Raises QueryError naming ``where`` it was expected."""
    actual = type_of(expr, types)
    if actual == "null":
        raise QueryError(f"{where} cannot take NULL: it may only be a result of CASE, if or coalesce", at=expr.at)
    if actual not in _FITTING[kind]:
        suggestion = "choose a key, as in tags['key']" if actual == "map" else ""
        raise QueryError(f"{where} needs {_KINDS[kind]}, not {_KINDS[actual]}", at=expr.at, suggestion=suggestion)
    return actual


def unknown_name(kind: str, name: str, known: Mapping[str, object], *, at: int | None) -> QueryError:
    """Return the error for an unknown name."""
    folded = {known_name.lower(): known_name for known_name in known}
    near = get_close_matches(name[:80].lower(), list(folded), n=1)
    return QueryError(
        f"unknown {kind} {name[:80]!r}", at=at, suggestion=f"did you mean {folded[near[0]]!r}?" if near else ""
    )


def _literal_type(value: object) -> Type:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    return "string" if isinstance(value, str) else "float"


def _comparable(expr: Expr, other_type: Type, types: Types, op: str) -> None:
    actual = type_of(expr, types)
    if "null" in (actual, other_type):
        raise QueryError(f"a comparison with NULL ({op}) never holds", at=expr.at)
    if "bool" in (actual, other_type):
        raise QueryError(f"{op} compares numbers or texts, not conditions", at=expr.at)
    if "map" in (actual, other_type):
        raise QueryError(
            f"{op} cannot compare a map", at=expr.at, suggestion="choose a key, as in tags['key'] = 'value'"
        )
    if (actual in NUMBERS) is not (other_type in NUMBERS):
        prefix = "IN compares" if op == "IN" else "cannot compare"
        suffix = "" if op == "IN" else f" ({op})"
        raise QueryError(f"{prefix} text with a number{suffix}", at=expr.at)


def _arithmetic_type(expr: Arithmetic, types: Types) -> ColumnType:
    op, left, right = expr.op, expr.left, expr.right
    sides = expect_type(left, "number", types, op), expect_type(right, "number", types, op)
    if "time" in sides:
        if op == "-" and sides == ("time", "time"):
            return "int"
        moved = right if sides[0] == "time" else left
        can_move = op == "+" or (op == "-" and sides[0] == "time")
        if can_move and isinstance(moved, Literal) and moved.meaning == "interval":
            return "time"
        raise QueryError(
            f"a time cannot be reckoned with like this ({op})",
            at=expr.at,
            suggestion="add or subtract an INTERVAL, as in now() - INTERVAL 1 HOUR, or use toUnixTimestamp",
        )
    return "int" if op in ("+", "-") and sides == ("int", "int") else "float"


def _common_type(exprs: list[Expr], types: Types, where: str) -> ColumnType:
    exprs_by_type = {type_of(expr, types): expr for expr in exprs}
    null = exprs_by_type.pop("null", None)
    if not exprs_by_type:
        raise QueryError(f"{where} are all NULL", at=None if null is None else null.at)
    for kind in ("map", "bool"):
        if kind in exprs_by_type:
            raise QueryError(f"{where} cannot be {_KINDS[kind]}", at=exprs_by_type[kind].at)
    if len(exprs_by_type) == 1:
        (only_type,) = exprs_by_type
        assert only_type != "null"
        # Columns of 64-bit integers have no room for NULL.
        return "float" if only_type == "int" and null is not None else only_type
    if set(exprs_by_type) <= set(NUMBERS):
        return "float"
    raise QueryError(f"{where} have different types", at=next(iter(exprs_by_type.values())).at)


def _call_type(call: Call, types: Types) -> ColumnType:
    function = FUNCTIONS.get(call.function)
    if function is None:
        raise unknown_name("function", call.function, FUNCTIONS, at=call.at)
    wants = _wants(call, function)
    if function.parameter and not (call.parameter is not None and 0 <= call.parameter <= 1):
        raise QueryError(
            f"{call.function} needs a parameter from 0 to 1, as in {call.function}(0.95)(value)", at=call.at
        )
    if call.function == "toStartOfInterval":
        _check_interval(call)
    if call.function == "round" and len(call.args) > 1:
        digits = call.args[1]
        if not (isinstance(digits, Literal) and type(digits.value) is int and abs(digits.value) <= ROUND_DIGITS_MAX):
            raise QueryError(
                f"round needs a constant number of digits from -{ROUND_DIGITS_MAX} to {ROUND_DIGITS_MAX}", at=call.at
            )
    if function.common:
        return _common_type(list(call.args), types, f"the arguments of {call.function}")
    arg_types = [expect_type(arg, kind, types, call.function) for arg, kind in zip(call.args, wants, strict=True)]
    return function.result or arg_types[0]


def _wants(call: Call, function: Function) -> list[Want]:
    least, most = len(function.args) - function.optional, len(function.args)
    count = len(call.args)
    if function.repeats and least <= count <= ARGUMENTS_MAX:
        return [*function.args, *(function.args[-1],) * (count - most)][:count]
    if not least <= count <= most:
        allowed = f"{least} to {ARGUMENTS_MAX if function.repeats else most}"
        allowed = str(most) if least == most and not function.repeats else allowed
        raise QueryError(f"{call.function} takes {allowed} arguments", at=call.at)
    return list(function.args[:count])


def _check_interval(call: Call) -> None:
    for place_of, arg in enumerate(call.args[1:]):
        least = 0 if place_of else 1
        if not (isinstance(arg, Literal) and type(arg.value) is int and arg.value >= least):
            raise QueryError(
                "toStartOfInterval needs a constant, positive interval",
                at=call.at,
                suggestion="write toStartOfInterval(timestamp, INTERVAL 5 MINUTE)",
            )
