"""The checker: what may run, what may not and why, and what is made of the bounds on time."""

from __future__ import annotations

import pytest

from tests.support.samples import NOW_MS
from vantage.core.errors import InputError
from vantage.vql.check import DEFAULT_RANGE_MS, ROWS_MAX, CheckedSelect, check
from vantage.vql.tree import (
    And,
    Arithmetic,
    Call,
    Case,
    Column,
    Compare,
    CompareOp,
    Expr,
    In,
    Like,
    Literal,
    Negate,
    Not,
    Or,
    Order,
    Select,
    SelectItem,
    TagValue,
    equals,
)

VALUE, TIME, SERVICE = Column("value"), Column("timestamp"), Column("service_name")
COUNT = Call("count")


def checked(*exprs: Expr, table: str = "metrics", rows_max: int = ROWS_MAX, **parts: object) -> CheckedSelect:
    items = tuple(SelectItem(expr, f"c{i}") for i, expr in enumerate(exprs))
    return check(Select(table, items, **parts), now_ms=NOW_MS, rows_max=rows_max)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expr", "kind"),
    [
        (VALUE, "float"),
        (TIME, "time"),
        (SERVICE, "string"),
        (Column("tags"), "map"),
        (TagValue("k"), "string"),
        (Literal(1), "int"),
        (Literal(1.5), "float"),
        (Literal("a"), "string"),
        (Literal(True), "bool"),
        (Literal(None), "float"),
        (Compare("=", VALUE, Literal(1)), "bool"),
        (Compare("<", SERVICE, Literal("a")), "bool"),
        (Not(Like(SERVICE, "a%")), "bool"),
        (In(VALUE, (1, 2.5)), "bool"),
        (Arithmetic("+", Literal(1), Literal(2)), "int"),
        (Arithmetic("/", Literal(1), Literal(2)), "float"),
        (Arithmetic("-", TIME, Literal(5, "interval")), "time"),
        (Arithmetic("-", TIME, TIME), "int"),
        (Arithmetic("*", VALUE, Literal(2)), "float"),
        (Negate(VALUE), "float"),
        (Case(((Compare("=", VALUE, Literal(1)), Literal("a")),), Literal("b")), "string"),
        (Case(((Compare("=", VALUE, Literal(1)), Literal(1)),), Literal(2.5)), "float"),
        (Call("toStartOfInterval", (TIME, Literal(1000))), "time"),
        (Call("lower", (SERVICE,)), "string"),
        (Call("floor", (VALUE,)), "float"),
        (Call("abs", (Literal(-1),)), "int"),
    ],
)
def test_every_expression_of_a_row_has_a_type(expr: Expr, kind: str) -> None:
    result = checked(expr)
    assert [column.type for column in result.columns] == [kind]
    assert not result.grouped


@pytest.mark.parametrize(
    ("expr", "kind"),
    [
        (COUNT, "int"),
        (Call("count", (VALUE,)), "int"),
        (Call("sum", (VALUE,)), "float"),
        (Call("min", (TIME,)), "time"),
        (Call("any", (SERVICE,)), "string"),
        (Call("uniq", (TagValue("k"),)), "int"),
        (Call("quantile", (VALUE,), 0.5), "float"),
        (Call("argMax", (VALUE, TIME)), "float"),
        (Call("avgIf", (VALUE, equals("service_name", "a"))), "float"),
        (Arithmetic("/", Call("sum", (VALUE,)), COUNT), "float"),
    ],
)
def test_every_aggregate_has_a_type_and_makes_one_row(expr: Expr, kind: str) -> None:
    result = checked(expr)
    assert [column.type for column in result.columns] == [kind]
    assert result.grouped


@pytest.mark.parametrize(
    ("expr", "said"),
    [
        (Column("sevice_name"), "unknown column 'sevice_name': did you mean 'service_name'?"),
        (Column("duration_ns"), "unknown column"),
        (Column("x" * 10_000), "unknown column"),
        (Call("averge", (VALUE,)), "unknown function"),
        (Call("cont"), "unknown function 'cont': did you mean 'count'?"),
        (Call("sum"), "sum takes 1 arguments"),
        (Call("sum", (VALUE, VALUE)), "sum takes 1 arguments"),
        (Call("count", (VALUE, VALUE)), "count takes 0 to 1 arguments"),
        (Call("sum", (SERVICE,)), "sum needs a number, not text"),
        (Call("lower", (VALUE,)), "lower needs text, not a number"),
        (Call("countIf", (VALUE,)), "countIf needs a condition"),
        (Call("sum", (COUNT,)), "cannot hold another aggregate"),
        (Call("sum", (Arithmetic("+", COUNT, Literal(1)),)), "cannot hold another aggregate"),
        (Call("quantile", (VALUE,)), "needs a parameter from 0 to 1"),
        (Call("quantile", (VALUE,), 1.5), "needs a parameter from 0 to 1"),
        (Call("quantile", (VALUE,), float("nan")), "needs a parameter from 0 to 1"),
        (Call("toStartOfInterval", (TIME, VALUE)), "constant, positive interval"),
        (Call("toStartOfInterval", (TIME, Literal(0))), "constant, positive interval"),
        (Compare("=", VALUE, Literal("1")), "cannot compare text with a number"),
        (Compare("<", SERVICE, Literal(1)), "cannot compare text with a number"),
        (In(SERVICE, (1,)), "IN compares text with a number"),
        (In(VALUE, (1, "a")), "IN compares text with a number"),
        (Like(VALUE, "1%"), "LIKE needs text"),
        (Arithmetic("+", SERVICE, Literal(1)), "+ needs a number"),
        (Negate(SERVICE), "- needs a number"),
        (Not(VALUE), "NOT needs a condition"),
        (And((Compare("=", VALUE, Literal(1)), VALUE)), "AND/OR needs a condition"),
        (Case(((VALUE, Literal(1)),), Literal(2)), "CASE needs a condition"),
        (Case(((Compare("=", VALUE, Literal(1)), Literal("a")),), Literal(2)), "different types"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(expr: Expr, said: str) -> None:
    with pytest.raises(InputError) as refused:
        checked(expr)
    assert said in refused.value.reason
    assert len(refused.value.reason) < 300


@pytest.mark.parametrize(
    ("exprs", "parts", "said"),
    [
        ((), {}, "asks for no column"),
        ((SERVICE, COUNT), {}, "'service_name' is neither grouped nor inside an aggregate"),
        ((TagValue("k"), COUNT), {}, "tags['k'] is neither grouped"),
        ((VALUE,), {"group_by": (SERVICE,)}, "'value' is neither grouped"),
        ((COUNT,), {"order_by": (Order(VALUE),)}, "'value' is neither grouped"),
        ((COUNT,), {"where": Compare(">", COUNT, Literal(1))}, "aggregate cannot stand in WHERE"),
        ((COUNT,), {"group_by": (COUNT,)}, "aggregate cannot stand in WHERE or GROUP BY"),
        ((VALUE,), {"having": Compare(">", VALUE, Literal(1))}, "HAVING needs a GROUP BY"),
        ((COUNT,), {"having": COUNT}, "HAVING needs a condition"),
        ((VALUE,), {"where": VALUE}, "WHERE needs a condition"),
        ((VALUE,), {"limit": -1}, "LIMIT is negative"),
        ((VALUE,), {"where": equals("nothing", "a")}, "unknown column"),
        ((VALUE,), {"table": "spans"}, "unknown column 'value'"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    exprs: tuple[Expr, ...], parts: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError) as refused:
        checked(*exprs, **parts)  # type: ignore[arg-type]
    assert said in refused.value.reason


@pytest.mark.parametrize(
    ("bounds", "start", "end", "warns"),
    [
        ([], NOW_MS + 1 - DEFAULT_RANGE_MS, NOW_MS + 1, True),
        ([(">=", 1000)], 1000, NOW_MS + 1, False),
        ([(">", 1000)], 1001, NOW_MS + 1, False),
        ([(">=", 1000), ("<", 2000)], 1000, 2000, False),
        ([(">=", 1000), ("<=", 2000)], 1000, 2001, False),
        ([("=", 1000)], 1000, 1001, False),
        ([(">=", 1000), (">=", 1500), ("<", 2000), ("<", 3000)], 1500, 2000, False),
        ([("<", 2000)], 2000 - DEFAULT_RANGE_MS, 2000, True),
        ([(">=", 2000), ("<", 1000)], 2000, 2001, False),
    ],
)
def test_bounds_on_time_become_the_range(
    bounds: list[tuple[CompareOp, int]], start: int, end: int, *, warns: bool
) -> None:
    where = And(tuple(Compare(op, TIME, Literal(at)) for op, at in bounds)) if bounds else None
    result = checked(VALUE, where=where)
    assert (result.time_range.start_ms, result.time_range.end_ms) == (start, end)
    assert bool(result.warnings) is warns


def test_a_bound_inside_an_or_is_a_condition_and_no_bound() -> None:
    early = Compare("<", TIME, Literal(5))
    result = checked(VALUE, where=Or((early, equals("service_name", "a"))))
    assert result.time_range.end_ms == NOW_MS + 1
    assert result.row_where is not None


def test_conditions_are_sorted_by_what_they_need() -> None:
    of_series, of_row = equals("service_name", "a"), Compare(">", VALUE, Literal(1))
    result = checked(VALUE, where=And((of_series, And((of_row, Compare("=", TagValue("k"), Literal("v")))))))
    assert result.series_where == And((of_series, Compare("=", TagValue("k"), Literal("v"))))
    assert result.row_where == of_row


@pytest.mark.parametrize(("limit", "rows_max", "expected"), [(None, 50, 50), (10, 50, 10), (100, 50, 50), (0, 50, 0)])
def test_the_limit_is_never_above_the_most_there_may_be(limit: int | None, rows_max: int, expected: int) -> None:
    assert checked(VALUE, limit=limit, rows_max=rows_max).limit == expected
