"""Parameters of a query: the values of ``{name:Type}`` and ``:name``. They become constants, never text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from vantage.core.errors import QueryError
from vantage.vql.text.literals import INT_MAX, parse_time_literal
from vantage.vql.tree import Literal

ParamValue = str | int | float | bool | Sequence[str | int | float]
Params = Mapping[str, ParamValue]
PARAM_VALUES_MAX: Final = 1000
PARAM_LENGTH_MAX: Final = 4096
_DECLARED: Final = re.compile(
    r"(?:Nullable\()?(String|U?Int\d+|Float\d+|Bool|DateTime(?:64)?|Date)(?:\(.*\))?\)?", re.S
)


def bind_param(params: Params, name: str, declared: str) -> Literal | list[Literal]:
    """Return a parameter's value; ``declared`` is its ClickHouse type or ''. Raises QueryError naming the parameter."""
    field = f"params.{name[:80]}"
    if name not in params:
        raise QueryError("the query asks for this parameter", field=field)
    value = params[name]
    inner = re.fullmatch(r"Array\((.*)\)", declared, re.DOTALL)
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if declared and is_list is not (inner is not None):
        raise QueryError(f"is not of the type {declared[:80]}", field=field)
    if not is_list:
        return _value(value, declared, field)
    assert isinstance(value, Sequence)
    if len(value) > PARAM_VALUES_MAX:
        raise QueryError(f"has more than {PARAM_VALUES_MAX} values", field=field)
    return [_value(item, inner[1] if inner else "", field) for item in value]


def reject_unused_params(params: Params, used: set[str]) -> None:
    """Raise QueryError for a parameter that the query does not use."""
    for name in params:
        if name not in used:
            raise QueryError("the query has no such parameter", field=f"params.{name[:80]}")


def _value(value: object, declared: str, field: str) -> Literal:
    kind = _DECLARED.fullmatch(declared)
    if declared and kind is None:
        raise QueryError(f"{declared[:80]} is no type of a parameter", field=field)
    wanted = re.sub(r"\d+$", "", kind[1]).removeprefix("U") if kind else ""
    if wanted in ("DateTime", "Date"):
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise QueryError(f"is not of the type {declared[:80]}", field=field)
        return Literal(parse_time_literal(value, at=None, field=field), "time")
    fits: dict[str, tuple[type, ...]] = {
        "String": (str,),
        "Int": (int,),
        "Float": (int, float),
        "Bool": (bool,),
        "": (str, int, float, bool),
    }
    if not isinstance(value, fits[wanted]) or (isinstance(value, bool) and wanted not in ("Bool", "")):
        raise QueryError(f"is not of the type {declared[:80] or 'text, number or true or false'}", field=field)
    if isinstance(value, str) and (len(value) > PARAM_LENGTH_MAX or re.search(r"[\ud800-\udfff]", value)):
        raise QueryError(f"is longer than {PARAM_LENGTH_MAX} characters, or holds one that is none", field=field)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = float(value) if wanted == "Float" and abs(value) < 1e308 else value
        if (isinstance(value, float) and not math.isfinite(value)) or (
            isinstance(value, int) and not -INT_MAX - 1 <= value <= INT_MAX
        ):
            raise QueryError("is too large", field=field)
    assert isinstance(value, (str, int, float, bool))
    return Literal(value)
