"""Execution on numpy columns, against plain Python and numpy."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.samples import NOW_MS, MovedClock, a_series, a_span, last_hours
from vantage.core.batch import Batch, build_batch
from vantage.core.errors import InputError, StoreTimeout
from vantage.core.exemplars import encode_exemplars
from vantage.core.sample_columns import SampleColumns
from vantage.core.span import SpanStatus
from vantage.storage.memory import MemoryStore
from vantage.vql.check import check
from vantage.vql.exec.budget import QueryBudget
from vantage.vql.exec.execute import execute, to_table
from vantage.vql.exec.frame import Frame
from vantage.vql.exec.like import like_matcher
from vantage.vql.exec.series_table import SeriesColumns
from vantage.vql.exec.source import ScanEstimate
from vantage.vql.table import Table
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
    Order,
    Select,
    SelectItem,
    TagValue,
    equals,
)

VALUE, TIME, SERVICE = Column("value"), Column("timestamp"), Column("service_name")
NULL = Arithmetic("/", Literal(1), Literal(0))
ODD_NULL = Case(((Compare("=", VALUE, Literal(2)), NULL),), VALUE)  # the value 2 is null
TEXT_OR_NULL = Case(((Compare("=", VALUE, Literal(2)), TagValue("method")),), Literal(None))
ROWS = [("a", "GET", 1.0), ("a", "POST", 2.0), ("b", "GET", 4.0), ("b", "GET", 8.0)]


async def ask(*exprs: Expr, store: MemoryStore | None = None, rows_max: int = 10_000, **parts: Any) -> Table:
    if store is None:
        store = MemoryStore(clock=MovedClock())
        rows = [(a_series(service, tags={"method": method}), value) for service, method, value in ROWS]
        links = encode_exemplars(np.array([1], np.uint32), ["t1"], ["s1"])
        await store.write(
            build_batch([(row, NOW_MS - 1000 + i, value) for i, (row, value) in enumerate(rows)], exemplars=links)
        )
    items = tuple(SelectItem(expr, f"c{i}") for i, expr in enumerate(exprs))
    select = Select(parts.pop("table", "metrics"), items, **parts)
    return await store.select(check(select, now_ms=NOW_MS + 5000, rows_max=rows_max), deadline_s=5)


async def rows(*exprs: Expr, **parts: Any) -> list[tuple[Any, ...]]:
    return list((await ask(*exprs, **parts)).rows())


async def value_of(expr: Expr, **parts: Any) -> Any:
    """The values of one expression, in the order of time."""
    return (await ask(expr, **parts)).data[0]


# ---- rows


@pytest.mark.parametrize(
    ("expr", "values"),
    [
        (VALUE, [1.0, 2.0, 4.0, 8.0]),
        (TagValue("method"), ["GET", "POST", "GET", "GET"]),
        (TagValue("absent"), [""] * 4),
        (Column("tags"), [{"method": m} for m in ("GET", "POST", "GET", "GET")]),
        (Column("trace_id"), ["", "t1", "", ""]),
        (Column("span_id"), ["", "s1", "", ""]),
        (Literal("x"), ["x"] * 4),
        (Literal(None), [None] * 4),
        (NULL, [None] * 4),
        (Arithmetic("+", NULL, VALUE), [None] * 4),
        (Arithmetic("/", VALUE, Literal(2)), [0.5, 1.0, 2.0, 4.0]),
        (Arithmetic("/", Literal(0), Literal(0)), [None] * 4),
        (Negate(VALUE), [-1.0, -2.0, -4.0, -8.0]),
        (ODD_NULL, [1.0, None, 4.0, 8.0]),
        (Call("upper", (SERVICE,)), ["A", "A", "B", "B"]),
        (Call("abs", (Negate(VALUE),)), [1.0, 2.0, 4.0, 8.0]),
        (Call("floor", (Arithmetic("/", VALUE, Literal(3)),)), [0.0, 0.0, 1.0, 2.0]),
        (Call("ceil", (Arithmetic("/", VALUE, Literal(3)),)), [1.0, 1.0, 2.0, 3.0]),
        (Case(((Compare(">", VALUE, Literal(3)), SERVICE),), Literal("low")), ["low", "low", "b", "b"]),
        (Case(((Compare(">", VALUE, Literal(3)), SERVICE),), Literal(None)), [None, None, "b", "b"]),
        (Case(((Compare(">", VALUE, Literal(3)), VALUE),), Literal(None)), [None, None, 4.0, 8.0]),
        (Call("round", (Arithmetic("/", VALUE, Literal(3)), Literal(2))), [0.33, 0.67, 1.33, 2.67]),
        (Call("round", (Arithmetic("/", VALUE, Literal(4)),)), [0.0, 0.0, 1.0, 2.0]),
        (Call("round", (Arithmetic("*", VALUE, Literal(25)), Literal(-2))), [0.0, 0.0, 100.0, 200.0]),
        (Call("log", (VALUE,)), [math.log(v) for v in (1, 2, 4, 8)]),
        (Call("log", (Literal(0.0),)), [None] * 4),
        (Call("log", (Literal(-1),)), [None] * 4),
        (Call("exp", (VALUE,)), [math.exp(v) for v in (1, 2, 4, 8)]),
        (Call("exp", (Literal(1000),)), [None] * 4),
        (Arithmetic("*", Literal(1e300), Arithmetic("*", VALUE, Literal(1e300))), [None] * 4),
        (Arithmetic("-", Literal(7), Literal(9)), [-2] * 4),
        (Call("concat", (SERVICE, Literal("-"), TagValue("method"))), ["a-GET", "a-POST", "b-GET", "b-GET"]),
        (Call("concat", (SERVICE, TEXT_OR_NULL)), [None, "aPOST", None, None]),
        (Call("coalesce", (ODD_NULL, Literal(-1.0))), [1.0, -1.0, 4.0, 8.0]),
        (Call("coalesce", (TEXT_OR_NULL, SERVICE)), ["a", "POST", "b", "b"]),
        (Call("coalesce", (Literal(None), TEXT_OR_NULL)), [None, "POST", None, None]),
        (Call("lower", (TEXT_OR_NULL,)), [None, "post", None, None]),
        (Call("lower", (Literal("ÄBC"),)), ["Äbc"] * 4),
        (Call("upper", (Literal("straße"),)), ["STRAßE"] * 4),
        (Call("toUnixTimestamp", (TIME,)), [(NOW_MS - 1000 + i) // 1000 for i in range(4)]),
        (Call("toStartOfInterval", (TIME, Literal(4), Literal(1))), [NOW_MS - 1003, *[NOW_MS - 999] * 3]),
        (
            Case(
                ((Compare("<", VALUE, Literal(2)), Literal(1)), (Compare("<", VALUE, Literal(5)), Literal(2))),
                Literal(3),
            ),
            [1, 2, 2, 3],
        ),
        (Case(((Compare("=", VALUE, Literal(2)), TagValue("method")),), Literal("GET")), ["GET", "POST", "GET", "GET"]),
        (Call("toStartOfInterval", (TIME, Literal(10_000))), [(NOW_MS - 1000) // 10_000 * 10_000] * 4),
    ],
)  # fmt: skip
async def test_an_expression_has_a_value_for_every_row(expr: Expr, values: list[Any]) -> None:
    assert await value_of(expr) == values


@pytest.mark.parametrize(
    ("condition", "values"),
    [
        (Compare("=", VALUE, Literal(2)), [2.0]),
        (Compare("!=", VALUE, Literal(2)), [1.0, 4.0, 8.0]),
        (Compare("<", Literal(3), VALUE), [4.0, 8.0]),
        (Compare("=", VALUE, NULL), []),
        (Compare("!=", VALUE, NULL), []),
        (Compare("<", NULL, VALUE), []),
        (Compare("!=", ODD_NULL, Literal(1)), [4.0, 8.0]),
        (Compare(">", SERVICE, Literal("a")), [4.0, 8.0]),
        (Compare("!=", TagValue("method"), Literal("GET")), [2.0]),
        (Compare("=", SERVICE, TagValue("method")), []),
        (In(SERVICE, ("b", "c")), [4.0, 8.0]),
        (In(VALUE, (1, 8.0)), [1.0, 8.0]),
        (In(VALUE, ()), []),
        (In(ODD_NULL, (2,)), []),
        (Like(TagValue("method"), "P%"), [2.0]),
        (Not(Like(TagValue("method"), "P%")), [1.0, 4.0, 8.0]),
        (And((equals("service_name", "b"), Compare(">", VALUE, Literal(5)))), [8.0]),
        (Or((equals("service_name", "a"), Compare(">", VALUE, Literal(5)))), [1.0, 2.0, 8.0]),
        (Compare("=", Column("trace_id"), Literal("t1")), [2.0]),
        (Literal(False), []),
        (Literal(True), [1.0, 2.0, 4.0, 8.0]),
    ],
)
async def test_where_leaves_the_rows_it_holds_for(condition: Expr, values: list[float]) -> None:
    assert await value_of(VALUE, where=condition) == values


# ---- aggregates


@pytest.mark.parametrize(
    ("expr", "value"),
    [
        (Call("count"), 4),
        (Call("count", (ODD_NULL,)), 3),
        (Call("count", (SERVICE,)), 4),
        (Call("countIf", (equals("service_name", "a"),)), 2),
        (Call("sum", (VALUE,)), 15.0),
        (Call("sum", (ODD_NULL,)), 13.0),
        (Call("sum", (NULL,)), None),
        (Call("sumIf", (VALUE, equals("service_name", "a"))), 3.0),
        (Call("sumIf", (VALUE, equals("service_name", "z"))), None),
        (Call("avg", (VALUE,)), 3.75),
        (Call("avg", (ODD_NULL,)), 13 / 3),
        (Call("avgIf", (VALUE, equals("service_name", "b"))), 6.0),
        (Call("avgIf", (VALUE, equals("service_name", "z"))), None),
        (Call("min", (VALUE,)), 1.0),
        (Call("max", (VALUE,)), 8.0),
        (Call("max", (NULL,)), None),
        (Call("max", (TIME,)), NOW_MS - 997),
        (Call("any", (VALUE,)), 1.0),
        (Call("any", (SERVICE,)), "a"),
        (Call("quantile", (VALUE,), 0.5), 3.0),
        (Call("quantile", (NULL,), 0.5), None),
        (Call("uniq", (VALUE,)), 4),
        (Call("uniq", (ODD_NULL,)), 3),
        (Call("uniq", (SERVICE,)), 2),
        (Call("uniq", (TagValue("method"),)), 2),
        (Call("uniq", (TagValue("absent"),)), 1),
        (Call("uniq", (Column("tags"),)), 2),
        (Call("uniq", (Call("lower", (TagValue("method"),)),)), 2),
        (Call("argMax", (VALUE, TIME)), 8.0),
        (Call("argMax", (VALUE, Negate(TIME))), 1.0),
        (Call("argMax", (VALUE, Literal(7))), 1.0),
        (Call("argMax", (VALUE, ODD_NULL)), 8.0),
        (Call("argMax", (ODD_NULL, VALUE)), 8.0),
        (Call("argMax", (ODD_NULL, Case(((Compare("=", VALUE, Literal(2)), Literal(9)),), Literal(1)))), 1.0),
        (Call("argMax", (TagValue("method"), VALUE)), "GET"),
        (Call("argMax", (TagValue("method"), Literal(1))), "GET"),
        (Call("argMax", (TEXT_OR_NULL, VALUE)), "POST"),
        (Call("argMax", (TIME, VALUE)), NOW_MS - 997),
        (Call("argMax", (VALUE, NULL)), None),
        (Call("stddevPop", (VALUE,)), float(np.std([1, 2, 4, 8]))),
        (Call("stddevPop", (Arithmetic("+", VALUE, Literal(1e9)),)), float(np.std([1, 2, 4, 8]))),
        (Call("stddevPop", (Arithmetic("*", VALUE, Literal(1e200)),)), None),
        (Call("stddevPop", (NULL,)), None),
        (Call("sum", (Arithmetic("*", VALUE, Literal(1e307)),)), 1.5e308),
        (Call("sum", (Arithmetic("*", VALUE, Literal(2e307)),)), None),
        (Call("count", (TEXT_OR_NULL,)), 1),
        (Call("uniq", (TEXT_OR_NULL,)), 1),
        (Call("uniq", (Case(((Compare("<", VALUE, Literal(3)), Literal(0.0)),), Literal(-0.0)),)), 1),
        (Call("any", (TEXT_OR_NULL,)), "POST"),
        (Call("max", (SERVICE,)), "b"),
        (Call("min", (Case(((Compare("=", VALUE, Literal(2)), Literal(2**62 + 1)),), Literal(2**62 + 3)),)), 2**62 + 1),
        (Arithmetic("/", Call("sum", (VALUE,)), Call("count")), 3.75),
        (Arithmetic("/", Call("countIf", (equals("service_name", "z"),)), Literal(0)), None),
    ],
)
async def test_an_aggregate_of_all_rows(expr: Expr, value: Any) -> None:
    assert await rows(expr) == [(pytest.approx(value) if isinstance(value, float) else value,)]


async def test_aggregates_of_nothing_are_null_and_counts_zero() -> None:
    nothing = equals("service_name", "z")
    functions = [
        Call("count"),
        Call("uniq", (VALUE,)),
        Call("sum", (VALUE,)),
        Call("avg", (VALUE,)),
        Call("max", (TIME,)),
    ]
    texts = [Call("any", (SERVICE,)), Call("quantile", (VALUE,), 0.9), Call("argMax", (VALUE, TIME))]
    assert await rows(*functions, *texts, where=nothing) == [(0, 0, *[None] * 6)]
    assert await rows(SERVICE, Call("count"), where=nothing, group_by=(SERVICE,)) == []


async def test_groups_by_several_keys() -> None:
    method = TagValue("method")
    result = await rows(SERVICE, method, Call("sum", (VALUE,)), group_by=(SERVICE, method))
    assert sorted(result) == [("a", "GET", 1.0), ("a", "POST", 2.0), ("b", "GET", 12.0)]


async def test_series_with_an_equal_tag_are_one_group() -> None:
    """Tags are coded by series: equal texts have several codes."""
    method = TagValue("method")
    assert sorted(await rows(method, Call("count"), group_by=(method,))) == [("GET", 3), ("POST", 1)]
    lowered = Call("lower", (method,))
    assert sorted(await rows(lowered, Call("uniq", (SERVICE,)), group_by=(lowered,))) == [("get", 2), ("post", 1)]


async def test_nulls_are_a_group_of_their_own() -> None:
    result = await rows(ODD_NULL, Call("count"), group_by=(ODD_NULL,))
    assert sorted(result, key=str) == [(1.0, 1), (4.0, 1), (8.0, 1), (None, 1)]


async def test_having_leaves_groups() -> None:
    total = Call("sum", (VALUE,))
    assert await rows(SERVICE, group_by=(SERVICE,), having=Compare(">", total, Literal(5))) == [("b",)]
    assert await rows(Call("count"), having=Compare(">", total, Literal(500))) == []


# ---- order, limit


@pytest.mark.parametrize(
    ("order", "values"),
    [
        (Order(VALUE), [1.0, 2.0, 4.0, 8.0]),
        (Order(VALUE, descending=True), [8.0, 4.0, 2.0, 1.0]),
        (Order(ODD_NULL), [1.0, 4.0, 8.0, 2.0]),
        (Order(ODD_NULL, descending=True), [8.0, 4.0, 1.0, 2.0]),
        (Order(SERVICE, descending=True), [4.0, 8.0, 1.0, 2.0]),
        (Order(TagValue("method")), [1.0, 4.0, 8.0, 2.0]),
        (Order(TIME, descending=True), [8.0, 4.0, 2.0, 1.0]),
        (Order(Compare(">", VALUE, Literal(3)), descending=True), [4.0, 8.0, 1.0, 2.0]),
    ],
)
async def test_order_is_stable_and_nulls_come_last_either_way(order: Order, values: list[float]) -> None:
    assert await value_of(VALUE, order_by=(order,)) == values


async def test_later_keys_order_what_earlier_ones_leave_equal() -> None:
    result = await value_of(VALUE, order_by=(Order(SERVICE), Order(VALUE, descending=True)))
    assert result == [2.0, 1.0, 8.0, 4.0]


async def test_where_rows_are_cut_off_the_items_decide_between_equal_keys() -> None:
    method = TagValue("method")
    by_service = (Order(SERVICE),)
    assert await rows(SERVICE, VALUE, order_by=by_service, limit=1) == [("a", 1.0)]
    assert await rows(SERVICE, Negate(VALUE), order_by=by_service, limit=1) == [("a", -2.0)]
    assert await rows(Negate(VALUE), limit=2) == [(-8.0,), (-4.0,)]
    assert await rows(method, ODD_NULL, order_by=(Order(method),), limit=2) == [("GET", 1.0), ("GET", 4.0)]
    assert await rows(ODD_NULL, order_by=(Order(NULL),), limit=3) == [(1.0,), (4.0,), (8.0,)]
    assert await rows(Column("tags"), VALUE, limit=3) == [
        ({"method": "GET"}, 1.0),
        ({"method": "GET"}, 4.0),
        ({"method": "GET"}, 8.0),
    ]
    assert await rows(method, Call("count"), group_by=(method,), limit=1) == [("GET", 3)]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, math.nan])), max_size=40), st.integers(0, 45))
def test_cutting_off_gives_the_first_of_all_rows_in_order(stored: list[tuple[int, float]], limit: int) -> None:
    keys, values = np.array([key for key, _ in stored], np.int64), np.array([value for _, value in stored], np.float64)
    frame = Frame(len(stored), {"timestamp": lambda: keys, "value": lambda: values})
    order = (Order(TIME, descending=True),)
    query = check(
        Select("metrics", (SelectItem(VALUE, "v"), SelectItem(TIME, "t")), order_by=order, limit=limit), now_ms=NOW_MS
    )
    expected = sorted(range(len(stored)), key=lambda row: (-stored[row][0], math.isnan(stored[row][1]), stored[row][1]))
    result = list(to_table(query, frame).rows())
    shown = [(None if math.isnan(stored[row][1]) else stored[row][1], stored[row][0]) for row in expected[:limit]]
    if limit < len(stored):
        assert result == shown
    assert sorted(map(repr, result)) == sorted(map(repr, shown))


@pytest.mark.parametrize(
    ("limit", "rows_max", "count", "truncated"),
    [(None, 10, 4, False), (None, 3, 3, True), (2, 10, 2, False), (9, 3, 3, True), (4, 4, 4, False), (0, 10, 0, False)],
)
async def test_rows_that_were_cut_unasked_are_told(
    limit: int | None, rows_max: int, count: int, *, truncated: bool
) -> None:
    table = await ask(VALUE, limit=limit, rows_max=rows_max)
    assert (len(table), table.truncated) == (count, truncated)


# ---- spans, limits, time


async def test_spans_are_columns_too() -> None:
    store = MemoryStore(clock=MovedClock())
    spans = (
        a_span("t1", "a", duration_ms=10, status=SpanStatus.ERROR, attributes={"k": "v"}),
        a_span("t1", "b", "a", duration_ms=30, service="db"),
        a_span("t0", "c", start_ms=NOW_MS - 10**10),
    )
    await store.write(Batch(spans=spans))
    result = await rows(SERVICE, Call("max", (Column("duration_ns"),)), group_by=(SERVICE,), table="spans", store=store)
    assert sorted(result) == [("api", 10_000_000), ("db", 30_000_000)]
    assert await rows(TagValue("k"), where=equals("status", "error"), table="spans", store=store) == [("v",)]


async def test_one_text_from_two_branches_is_one_group() -> None:
    key = Case(((Compare("=", TagValue("method"), Literal("POST")), Literal("GET")),), TagValue("method"))
    assert await rows(key, Call("count"), group_by=(key,)) == [("GET", 4)]


async def test_attributes_can_be_chosen_grouped_and_read_whole() -> None:
    store = MemoryStore(clock=MovedClock())
    maps: tuple[dict[str, str], ...] = ({"k": "a", "n": "1"}, {"k": "b"}, {}, {"n": "2", "k": "a"})
    await store.write(Batch(spans=tuple(a_span(f"t{i}", attributes=item) for i, item in enumerate(maps))))
    key = TagValue("k")
    grouped = await rows(key, Call("count"), group_by=(key,), table="spans", store=store)
    assert sorted(grouped) == [("", 1), ("a", 2), ("b", 1)]
    chosen = await rows(TagValue("n"), where=Compare("=", key, Literal("a")), table="spans", store=store)
    assert sorted(chosen) == [("1",), ("2",)]
    assert await rows(Column("attributes"), where=Compare("!=", key, Literal("")), table="spans", store=store) == [
        (item,) for item in maps if item
    ]
    assert await rows(key, where=Compare("=", Column("name"), Literal("nothing")), table="spans", store=store) == []


async def test_only_samples_of_the_range_count() -> None:
    assert await rows(Call("count"), where=Compare(">=", TIME, Literal(NOW_MS - 998))) == [(2,)]
    assert await rows(Call("count"), where=Compare("=", TIME, Literal(NOW_MS - 998))) == [(1,)]


class Columns:
    """A source of one chunk."""

    def __init__(self, values: list[float]) -> None:
        self._chunk = SampleColumns(
            np.zeros(len(values), np.uint32), np.full(len(values), NOW_MS, np.int64), np.array(values, np.float64)
        )

    def series(self) -> Any:
        return SeriesColumns([a_series()])

    def rows_upper_bound(self, table: Any, time_range: Any) -> int:
        return len(self._chunk.value)

    def plan(self, table: Any, time_range: Any, slots: Any) -> Any:
        return [ScanEstimate("all", 1, len(self._chunk.value))]

    def samples(self, time_range: Any, slots: Any, *, wanted: Any) -> Any:
        yield self._chunk

    def partials(self, time_range: Any, slots: Any, *, width_ms: int, wanted: Any) -> Any:
        return iter(())

    def spans(self, time_range: Any) -> Any:
        return iter(())


def over(values: list[float], expr: Expr, **options: Any) -> Any:
    query = check(
        Select("metrics", (SelectItem(expr, "c"),), where=Compare(">=", TIME, Literal(last_hours().start_ms))),
        now_ms=NOW_MS,
    )
    (row,) = execute(query, Columns(values), options.pop("budget", QueryBudget(5)), **options).rows()
    return row[0]


FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(FLOATS, min_size=1, max_size=50), st.floats(0, 1))
def test_quantile_is_numpy_s(values: list[float], p: float) -> None:
    expected = float(np.quantile(np.array(values), p))
    result = over(values, Call("quantile", (VALUE,), p))
    assert math.isclose(result, expected, rel_tol=1e-9, abs_tol=1e-9 * max(map(abs, values)) + 1e-300)


@given(st.lists(FLOATS, min_size=1, max_size=50))
def test_simple_aggregates_are_python_s(values: list[float]) -> None:
    assert over(values, Call("count")) == len(values)
    assert over(values, Call("uniq", (VALUE,))) == len(set(values))
    assert over(values, Call("min", (VALUE,))) == min(values)
    assert over(values, Call("max", (VALUE,))) == max(values)
    assert math.isclose(over(values, Call("sum", (VALUE,))), sum(values), rel_tol=1e-9, abs_tol=1e30)


def test_sums_beyond_the_largest_float_are_null() -> None:
    assert over([1.7e308, 1.7e308], Call("sum", (VALUE,))) is None


def test_more_samples_than_a_query_may_read_are_refused() -> None:
    with pytest.raises(InputError, match="would read 4 samples, at most 3"):
        over([1.0] * 4, Call("count"), samples_max=3)


def test_a_query_that_runs_past_its_deadline_ends() -> None:
    times = iter([0.0, 1.0, 2.0, 3.0])
    with pytest.raises(StoreTimeout, match="longer than 1 s"):
        over([1.0], Call("count"), budget=QueryBudget(1, monotonic_s=lambda: next(times)))


# ---- LIKE


def as_regex(pattern: str) -> re.Pattern[str]:
    """The reference: one regular expression a pattern."""
    parts, taken_literally = [], False
    for character in pattern:
        if taken_literally:
            parts.append(re.escape(character))
            taken_literally = False
        elif character == "\\":
            taken_literally = True
        else:
            parts.append({"%": ".*", "_": "."}.get(character, re.escape(character)))
    return re.compile("".join([*parts, r"\\" if taken_literally else ""]), re.DOTALL)


@given(st.text("ab%_\\\n", max_size=12), st.text("ab%_\\\n", max_size=12))
def test_like_is_what_the_regular_expression_says(pattern: str, text: str) -> None:
    assert like_matcher(pattern)(text) == bool(as_regex(pattern).fullmatch(text))


@pytest.mark.timeout(10)
def test_no_pattern_runs_away() -> None:
    assert not like_matcher("%a" * 500 + "b")("a" * 5000)


async def test_keys_far_apart_are_grouped_without_overflow() -> None:
    week_ns = 7 * 86_400 * 1_000_000_000
    spans = tuple(
        a_span(f"t{i}", f"s{i}", start_ms=NOW_MS - i * 1000, duration_ms=(i % 3) * week_ns / 1e6 / 7 + i % 3)
        for i in range(1, 200)
    )
    store = MemoryStore(clock=MovedClock())
    await store.write(Batch(spans=spans))
    keys = (Column("start_ns"), Column("duration_ns"))
    table = await ask(
        *keys, Call("count"), store=store, table="spans", group_by=keys, where=Compare(">=", TIME, Literal(0))
    )
    assert sorted(table.rows()) == sorted((span.start_ns, span.duration_ns, 1) for span in spans)
