"""What VQL lacks: its name, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

from sqlglot import exp

from vantage.core.errors import QueryError
from vantage.vql.signatures import TEXT_FUNCTIONS

# By a part of a node, where the grammar keeps it in one.
_PARTS: Final[Mapping[str, tuple[str, str]]] = {
    "distinct": ("DISTINCT", "GROUP BY the columns, or use uniq(x) to count"),
    "joins": ("JOIN", "a query reads one table"),
    "laterals": ("ARRAY JOIN", ""),
    "with_": ("WITH", "write the query out"),
    "offset": ("OFFSET", "narrow the time range"),
    "prewhere": ("PREWHERE", "write WHERE"),
    "settings": ("SETTINGS", ""),
    "format": ("FORMAT", "the format is asked for beside the query"),
    "qualify": ("QUALIFY", ""),
    "into": ("INTO", ""),
    "windows": ("WINDOW", ""),
    "sample": ("SAMPLE", ""),
    "hint": ("a hint", ""),
    "alias": ("an alias of a table", "a query reads one table: name the columns alone"),
    "db": ("a database", "write FROM metrics or FROM spans"),
    "catalog": ("a database", "write FROM metrics or FROM spans"),
    "totals": ("WITH TOTALS", ""),
    "rollup": ("ROLLUP", ""),
    "cube": ("CUBE", ""),
    "grouping_sets": ("GROUPING SETS", ""),
    "all": ("GROUP BY ALL", "name the keys"),
    "with_fill": ("WITH FILL", ""),
    "limit_options": ("LIMIT WITH TIES", ""),
    "except_": ("EXCEPT", "name the columns"),
    "replace": ("REPLACE", "name the columns"),
    "query": ("a sub-select", "IN takes a list of constants"),
    "unnest": ("UNNEST", ""),
}
_NODES: Final[Mapping[type[exp.Expression], tuple[str, str]]] = {
    exp.Select: ("a sub-select", "a query reads metrics or spans"),
    exp.Subquery: ("a sub-select", "a query reads metrics or spans"),
    exp.Is: ("IS", "use coalesce, or compare: a comparison with NULL never holds"),
    exp.ILike: ("ILIKE", "write lower(x) LIKE 'pattern'"),
    exp.RegexpLike: ("a regular expression", "use LIKE"),
    exp.Escape: ("ESCAPE", "a backslash takes the next character literally"),
    exp.DPipe: ("||", "use concat(a, b)"),
    exp.Mod: ("%", ""),
    exp.IntDiv: ("DIV", "use floor(a / b)"),
    exp.Cast: ("CAST", "types need no conversion"),
    exp.TryCast: ("CAST", "types need no conversion"),
    exp.Distinct: ("DISTINCT", "use uniq(x)"),
    exp.Star: ("*", "only SELECT * and count(*) are"),
    exp.Window: ("OVER", ""),
    exp.Filter: ("FILTER", "use countIf, sumIf or avgIf"),
    exp.Order: ("ORDER BY inside a function", ""),
    exp.Exists: ("EXISTS", ""),
    exp.If: ("? :", "use if(condition, a, b)"),
    exp.Lambda: ("a lambda", ""),
    exp.Kwarg: ("a named argument", ""),
    exp.Tuple: ("a tuple", ""),
    exp.Array: ("an array", ""),
    exp.NullSafeEQ: ("<=>", "use ="),
    exp.HexString: ("a hexadecimal number", "write it as a decimal number"),
    exp.Alias: ("AS inside an expression", "only whole columns of the answer are named"),
    exp.JSONExtract: ("->", ""),
    exp.Final: ("FINAL", ""),
    exp.Anonymous: ("a table function", "a query reads metrics or spans"),
}
_FUNCTIONS: Final[Mapping[str, str]] = {
    "countdistinct": "use uniq(x)",
    "uniqexact": "use uniq(x), which is exact",
    "p50": "use quantile(0.5)(value)",
    "p95": "use quantile(0.95)(value)",
    "p99": "use quantile(0.99)(value)",
    "percentile": "use quantile(0.95)(value)",
    "quantiles": "use quantile(0.95)(value), once each",
    "quantileexact": "use quantile(0.95)(value), which is exact",
    "mean": "use avg",
    "average": "use avg",
    "stddev": "use stddevPop",
    "std": "use stddevPop",
    "date_trunc": "use toStartOfHour(timestamp)",
    "todatetime": "write the time as a text, such as '2026-11-23 10:00:00'",
    "todate": "write the time as a text, such as '2026-11-23'",
    "now64": "use now()",
    "today": "use now() - INTERVAL 1 DAY",
    "yesterday": "use now() - INTERVAL 1 DAY",
    "multiif": "use CASE",
    "ifnull": "use coalesce",
    "nullif": "use CASE",
    "ln": "use log",
    "ceiling": "use ceil",
    "length": "",
}
_QUOTES: Final = "‘’“”`\"'"
_WORD = re.compile(r"[\w.:/-]+")


def unsupported(node: exp.Expression, part: str) -> QueryError:
    """Return the error for a node, or for a part of one."""
    name, suggestion = _PARTS.get(part, ("", "")) if part else _NODES.get(type(node), ("", ""))
    name = name or (part or node.key).strip("_").replace("_", " ").upper()
    inner = node.args.get(part) if part else None
    location = inner[0] if isinstance(inner, list) and inner else inner
    at = None
    for part_node in (location if isinstance(location, exp.Expression) else node).walk(bfs=False):
        if (at := part_node.meta.get("start")) is not None:
            break
    return QueryError(f"{name} is not part of VQL", at=at, suggestion=suggestion)


def allow_args(node: exp.Expression, *allowed: str) -> None:
    """Refuse a part that the grammar knows and VQL does not."""
    for name, part in node.args.items():
        if part and name not in allowed:
            raise unsupported(node, name)


def unknown_function(name: str, *, at: int | None) -> QueryError:
    """Return the error for a function that VQL lacks."""
    suggestion = _FUNCTIONS.get(name.lower())
    if suggestion is None:
        known = {function.lower(): function for function in TEXT_FUNCTIONS}
        near = get_close_matches(name[:80].lower(), known, n=1)
        suggestion = f"did you mean {known[near[0]]!r}?" if near else ""
    return QueryError(f"unknown function {name[:80]!r}", at=at, suggestion=suggestion)


def suggest_quotes(text: str, at: int | None, name: str, columns: Mapping[str, object]) -> str | None:
    """Return a suggestion for a name where text is expected: ``service_name = my-api``, or ``= "my-api"``."""
    if at is None or get_close_matches(name.lower(), columns, n=1, cutoff=0.8):
        return None
    before = text[:at].rstrip()
    compared = re.search(r"(=|<|>|\blike|\bin\s*\([^()]*)$", before, re.IGNORECASE)
    if compared is None:
        return None
    word = name if text[at : at + 1] in ('"', "`") else (match[0] if (match := _WORD.match(text, at)) else name)
    return f"did you mean '{word.strip(_QUOTES)[:80]}' in quotes?"
