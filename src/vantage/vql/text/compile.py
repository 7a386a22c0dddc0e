"""Queries as people write them: from text to a checked query, with the position of errors."""

from __future__ import annotations

from dataclasses import dataclass

from vantage.core.errors import QueryError
from vantage.vql.check import ROWS_MAX, CheckedSelect, check, check_condition
from vantage.vql.text.params import Params
from vantage.vql.tree import Expr, TableName


@dataclass(frozen=True, slots=True)
class CompiledQuery:
    """A query that may run; with ``explain`` only its plan is requested."""

    query: CheckedSelect
    explain: bool


def compile_query(
    text: str, *, now_ms: int, newest_ms: int = 0, params: Params | None = None, rows_max: int = ROWS_MAX
) -> CompiledQuery:
    """Parse and check a query, as ``check`` does. ``params`` are the values of ``{name:Type}`` and ``:name``:
    constants, never text.

    Takes a few milliseconds for the longest text there may be. Raises QueryError with line and column.
    """
    # sqlglot takes 0.2 s to import: it is loaded with the first query.
    from vantage.vql.text.lower_select import lower_select
    from vantage.vql.text.parse import parse

    try:
        parsed = parse(text)
        select = lower_select(parsed, now_ms=now_ms, params=params or {})
        return CompiledQuery(check(select, now_ms=now_ms, newest_ms=newest_ms, rows_max=rows_max), parsed.explain)
    except QueryError as error:
        error.locate(text)
        raise
    except RecursionError:
        raise QueryError("the query is nested too deep") from None


def compile_condition(text: str, *, now_ms: int, table: TableName = "metrics", params: Params | None = None) -> Expr:
    """Parse and check a condition on the rows of a table. Raises QueryError with line and column."""
    from vantage.vql.text.lower_select import lower_condition
    from vantage.vql.text.parse import parse_condition

    try:
        condition = lower_condition(parse_condition(text), table=table, now_ms=now_ms, params=params or {})
        check_condition(condition, table)
        return condition
    except QueryError as error:
        error.locate(text)
        raise
    except RecursionError:
        raise QueryError("the condition is nested too deep") from None
