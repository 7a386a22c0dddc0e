"""Arithmetic of series, such as ``a / b * 100``: letters are queries, and points are joined by time and group."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Final

import numpy as np

from vantage.core.arrays import F64
from vantage.core.errors import InputError

LENGTH_MAX: Final = 200
DEPTH_MAX: Final = 40
Tags = tuple[tuple[str, str], ...]
Points = Mapping[Tags, F64]  # by group: a value for each bucket, NaN without one
_OPERATIONS: Final = {ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide}


def parse_formula(text: str, letters: frozenset[str]) -> ast.expr:
    """Return the formula as a tree of numbers, letters, ``+ - * /`` and parentheses. Raises InputError."""
    if len(text) > LENGTH_MAX:
        raise InputError(f"is longer than {LENGTH_MAX} characters", field="formula")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError("is no arithmetic: write letters, numbers, + - * / and ( )", field="formula") from None
    _check(tree, letters, DEPTH_MAX)
    return tree


def _check(node: ast.expr, letters: frozenset[str], depth: int) -> None:
    if not depth:
        raise InputError("is nested too deep", field="formula")
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            _check(left, letters, depth - 1)
            _check(right, letters, depth - 1)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            _check(operand, letters, depth - 1)
        case ast.Name(id=name):
            if name not in letters:
                known = ", ".join(sorted(letters)) or "none"
                raise InputError(f"names {name[:20]!r}, and the queries are {known}", field="formula")
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            if abs(value) > 1e300:
                raise InputError("has a number that is too large", field="formula")
        case _:
            raise InputError("is no arithmetic: write letters, numbers, + - * / and ( )", field="formula")


def evaluate(node: ast.expr, series: Mapping[str, Points]) -> Points:
    """Return the points of a formula that ``parse_formula`` returned. Groups are joined where they are equal; a series
    without groups, or a number, goes with every group. Nothing, or a division by 0, is NaN."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _joined(type(op), evaluate(left, series), evaluate(right, series))
        case ast.UnaryOp(op=op, operand=operand):
            sign = -1.0 if isinstance(op, ast.USub) else 1.0
            return {tags: sign * values for tags, values in evaluate(operand, series).items()}
        case ast.Name(id=name):
            return series[name]
        case ast.Constant(value=value):
            return {(): np.array([float(value)])}  # type: ignore[arg-type]
    raise TypeError(f"no formula: {ast.dump(node)}")


def _joined(op: type[ast.operator], left: Points, right: Points) -> Points:
    operation = _OPERATIONS[op]
    if () in left and len(left) == 1:
        pairs = {tags: (left[()], values) for tags, values in right.items()}
    elif () in right and len(right) == 1:
        pairs = {tags: (values, right[()]) for tags, values in left.items()}
    else:
        pairs = {tags: (values, right[tags]) for tags, values in left.items() if tags in right}
    with np.errstate(all="ignore"):
        results = {tags: operation(*pair) for tags, pair in pairs.items()}
    return {tags: np.where(np.isfinite(values), values, np.nan) for tags, values in results.items()}
