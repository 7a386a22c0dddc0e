"""Queries as text: what they mean, what is refused and where, and that no text does more than ask."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.samples import HOUR_MS, NOW_MS
from vantage.core.errors import QueryError
from vantage.core.timerange import TimeRange
from vantage.vql.check import TEXT_NBYTES_MAX
from vantage.vql.signatures import METRICS, TEXT_FUNCTIONS
from vantage.vql.text.compile import CompiledQuery, compile_condition, compile_query
from vantage.vql.text.params import ParamValue
from vantage.vql.text.parse import DEPTH_MAX, TOKENS_MAX
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
    TagValue,
    equals,
)

VALUE, TIME, SERVICE, UNIT = Column("value"), Column("timestamp"), Column("service_name"), Column("unit")
COUNT = Call("count")
ABOVE = Compare(">", VALUE, Literal(1))
TEN = Literal(1_795_428_000_000, "time")  # 2026-11-23 10:00
SEED = """-- Get average response time for an endpoint over last hour
SELECT
    avg(value) as avg_response_time,
    toStartOfMinute(timestamp) as minute
FROM metrics
WHERE
    service_name = 'my-api'
    AND metric_name = 'http.request.duration'
    AND timestamp >= now() - INTERVAL 1 HOUR
GROUP BY minute
ORDER BY minute DESC
"""
# What ClickHouse aligns weeks to: 1970-01-05 was a Monday.
MONDAY_MS = 4 * 24 * HOUR_MS


def compiled(text: str, params: dict[str, ParamValue] | None = None) -> CompiledQuery:
    return compile_query(text, now_ms=NOW_MS, params=params)


def item(expr: str, table: str = "metrics", params: dict[str, ParamValue] | None = None) -> Expr:
    return compiled(f"SELECT {expr} FROM {table}", params).query.select.items[0].expr


def condition(text: str, **params: ParamValue) -> Expr:
    return compile_condition(text, now_ms=NOW_MS, params=params)


def test_the_query_of_the_plan_means_what_it_says() -> None:
    result = compiled(SEED).query
    minute = Call("toStartOfInterval", (TIME, Literal(60_000)))
    assert [entry.expr for entry in result.select.items] == [Call("avg", (VALUE,)), minute]
    assert [column.name for column in result.columns] == ["avg_response_time", "minute"]
    assert result.select.group_by == (minute,)
    assert result.select.order_by == (Order(minute, descending=True),)
    assert result.time_range == TimeRange(NOW_MS - HOUR_MS, NOW_MS + 1)
    assert result.series_where == And(
        (equals("service_name", "my-api"), equals("metric_name", "http.request.duration"))
    )
    assert result.row_where is None
    assert not result.warnings


def test_a_star_is_every_column() -> None:
    result = compiled("SELECT * FROM metrics WHERE service_name='my-api' LIMIT 10").query
    assert [column.name for column in result.columns] == list(METRICS)
    assert result.limit == 10


def test_what_is_selected_is_named_as_it_was_written() -> None:
    text = (
        "SELECT value, avg( value )\n  / 2, count(*), value, (unit), 'x' AS \"a b\", tags['k'] FROM metrics GROUP BY 1"
    )
    with pytest.raises(QueryError):  # grouped wrongly, to see that positions are understood before
        compiled(text)
    text = "SELECT value, round( value )\n  / 2, value, (unit), 'x' AS \"a b\", tags['k'] FROM metrics"
    names = [column.name for column in compiled(text).query.columns]
    assert names == ["value", "round( value ) / 2", "value_2", "(unit)", "a b", "tags['k']"]


@pytest.mark.parametrize(
    ("text", "expr"),
    [
        ("value", VALUE),
        ("((value))", VALUE),
        ('"value"', VALUE),
        ("`value`", VALUE),
        ("tags['a b']", TagValue("a b")),
        ("'it''s'", Literal("it's")),
        (r"'a\'b\\c\n'", Literal("a'b\\c\n")),
        ("5", Literal(5)),
        ("-5", Literal(-5)),
        ("1e3", Literal(1000.0)),
        (".5", Literal(0.5)),
        ("-9223372036854775808", Literal(-(2**63))),
        ("9223372036854775807", Literal(2**63 - 1)),
        ("true", Literal(True)),
        ("1 + 2 * 3", Literal(7.0)),
        ("2 - 3", Literal(-1)),
        ("1 / 0", Arithmetic("/", Literal(1), Literal(0))),
        ("value - 1", Arithmetic("-", VALUE, Literal(1))),
        ("-value", Negate(VALUE)),
        ("value > 1 OR NOT value < 0 OR value = 3", Or((
            Compare(">", VALUE, Literal(1)), Not(Compare("<", VALUE, Literal(0))), Compare("=", VALUE, Literal(3))
        ))),
        ("value == 1", Compare("=", VALUE, Literal(1))),
        ("value <> 1", Compare("!=", VALUE, Literal(1))),
        ("5 < value", Compare(">", VALUE, Literal(5))),
        ("value BETWEEN 1 AND 2", And((Compare(">=", VALUE, Literal(1)), Compare("<=", VALUE, Literal(2))))),
        ("unit LIKE 's%'", Like(UNIT, "s%")),
        ("unit NOT LIKE 's%'", Not(Like(UNIT, "s%"))),
        (r"unit LIKE 'a\%b'", Like(UNIT, r"a\%b")),
        ("unit IN ('a', 'b')", In(UNIT, ("a", "b"))),
        ("value NOT IN (1, -2)", Not(In(VALUE, (1, -2)))),
        ("value NOT BETWEEN 1 AND 2", Not(And((Compare(">=", VALUE, Literal(1)), Compare("<=", VALUE, Literal(2)))))),
        ("CASE WHEN value > 1 THEN 'a' ELSE 'b' END", Case(((ABOVE, Literal("a")),), Literal("b"))),
        ("CASE WHEN value > 1 THEN 'a' END", Case(((ABOVE, Literal("a")),), Literal(None))),
        ("CASE unit WHEN 's' THEN 1 END", Case(((Compare("=", UNIT, Literal("s")), Literal(1)),), Literal(None))),
        ("if(value > 1, value, 0)", Case(((Compare(">", VALUE, Literal(1)), VALUE),), Literal(0))),
        ("coalesce(value, 0)", Call("coalesce", (VALUE, Literal(0)))),
        ("concat(unit, '-', lower('AB'))", Call("concat", (UNIT, Literal("-"), Literal("ab")))),
        ("ROUND(value, -2)", Call("round", (VALUE, Literal(-2)))),
        ("now()", Literal(NOW_MS, "time")),
        ("now() - INTERVAL 90 SECOND + INTERVAL 1 MINUTE", Literal(NOW_MS - 30_000, "time")),
        ("toStartOfHour(now())", Literal(NOW_MS // HOUR_MS * HOUR_MS, "time")),
        ("toUnixTimestamp(now())", Literal(NOW_MS // 1000)),
        ("toStartOfFiveMinutes(timestamp)", Call("toStartOfInterval", (TIME, Literal(300_000)))),
        ("toStartOfInterval(timestamp, INTERVAL 2 DAYS)", Call("toStartOfInterval", (TIME, Literal(48 * HOUR_MS)))),
        ("toStartOfInterval(timestamp, INTERVAL 1 WEEK)",
         Call("toStartOfInterval", (TIME, Literal(168 * HOUR_MS), Literal(MONDAY_MS)))),
        ("timestamp = '2026-11-23 10:00:00'", Compare("=", TIME, TEN)),
        ("timestamp = '2026-11-23T12:00:00+02:00'", Compare("=", TIME, TEN)),
        ("timestamp = 1795428000000", Compare("=", TIME, TEN)),
        ("toStartOfHour(timestamp) IN ('2026-11-23 10:00:00')",
         In(Call("toStartOfInterval", (TIME, Literal(HOUR_MS))), (1_795_428_000_000,))),
        ("count(*)", COUNT),
        ("COUNT()", COUNT),
        ("quantile(0.95)(value)", Call("quantile", (VALUE,), 0.95)),
        ("median(value)", Call("quantile", (VALUE,), 0.5)),
        ("sumIf(value, unit = 's') / countIf(unit = 's')",
         Arithmetic("/", Call("sumIf", (VALUE, equals("unit", "s"))), Call("countIf", (equals("unit", "s"),)))),
    ],
)  # fmt: skip
def test_an_expression_is_this_tree(text: str, expr: Expr) -> None:
    assert item(text) == expr


def test_attributes_are_the_tags_of_spans() -> None:
    assert item("attributes['http.route']", "spans") == TagValue("http.route")
    with pytest.raises(QueryError, match="only attributes"):
        item("tags['a']", "spans")


@pytest.mark.parametrize(
    ("text", "group", "having"),
    [
        # In WHERE and inside aggregates a name is the column, elsewhere the alias.
        (
            "SELECT avg(value) AS value FROM metrics WHERE value > 0 GROUP BY unit HAVING value > 5",
            (UNIT,),
            Compare(">", Call("avg", (VALUE,)), Literal(5)),
        ),
        (
            "SELECT toStartOfHour(timestamp) AS timestamp FROM metrics WHERE timestamp > 5 GROUP BY timestamp",
            (Call("toStartOfInterval", (TIME, Literal(HOUR_MS))),),
            None,
        ),
        ("SELECT max(value) AS value FROM metrics GROUP BY value", (VALUE,), None),
        (
            "SELECT sum(value) AS s, count() AS n, s / n AS mean FROM metrics GROUP BY unit HAVING mean > 1",
            (UNIT,),
            Compare(">", Arithmetic("/", Call("sum", (VALUE,)), COUNT), Literal(1)),
        ),
        ("SELECT lower(unit) AS u, count() FROM metrics GROUP BY 1", (Call("lower", (UNIT,)),), None),
    ],
)
def test_aliases_stand_for_what_they_name(text: str, group: tuple[Expr, ...], having: Expr | None) -> None:
    select = compiled(text).query.select
    assert select.group_by == group
    assert select.having == having


def test_order_takes_places_aliases_and_directions() -> None:
    text = "SELECT unit AS u, value FROM metrics ORDER BY 2 DESC, u ASC, timestamp DESC NULLS LAST LIMIT 3"
    select = compiled(text).query.select
    assert select.order_by == (Order(VALUE, descending=True), Order(UNIT), Order(TIME, descending=True))
    assert select.limit == 3


@pytest.mark.parametrize(
    ("params", "text", "expr"),
    [
        ({"s": "x' OR '1'='1"}, "unit = {s:String}", equals("unit", "x' OR '1'='1")),
        ({"s": "x"}, "unit = :s", equals("unit", "x")),
        ({"n": 5}, "value > {n:Int64}", Compare(">", VALUE, Literal(5))),
        ({"n": 5}, "value > {n:Float64}", Compare(">", VALUE, Literal(5.0))),
        ({"s": ["a", "b"]}, "unit IN {s:Array(String)}", In(UNIT, ("a", "b"))),
        ({"s": ["a", "b"]}, "unit IN :s", In(UNIT, ("a", "b"))),
        ({"t": "2026-11-23 10:00:00"}, "timestamp > {t:DateTime64(3)}", Compare(">", TIME, TEN)),
        ({"t": "2026-11-23 10:00:00"}, "timestamp > :t", Compare(">", TIME, TEN)),
        ({"p": "a%"}, "unit LIKE {p:String}", Like(UNIT, "a%")),
    ],
)  # fmt: skip
def test_parameters_are_constants(params: dict[str, ParamValue], text: str, expr: Expr) -> None:
    assert condition(text, **params) == expr


@pytest.mark.parametrize(
    ("params", "text", "field", "said"),
    [
        ({}, "unit = {s:String}", "params.s", "asks for this parameter"),
        ({"s": "x", "more": 1}, "unit = {s:String}", "params.more", "no such parameter"),
        ({"s": 5}, "unit = {s:String}", "params.s", "not of the type String"),
        ({"s": "5"}, "value = {s:Int64}", "params.s", "not of the type"),
        ({"s": True}, "value = {s:Int64}", "params.s", "not of the type"),
        ({"s": ["a"]}, "unit = {s:String}", "params.s", "not of the type String"),
        ({"s": "a"}, "unit IN {s:Array(String)}", "params.s", "not of the type Array"),
        ({"s": ["a"]}, "unit = :s", "params.s", "only stand after IN"),
        ({"s": ["a"] * 1001}, "unit IN :s", "params.s", "more than 1000 values"),
        ({"s": "a" * 4097}, "unit = :s", "params.s", "longer than 4096"),
        ({"s": 2**63}, "value = :s", "params.s", "too large"),
        ({"s": float("inf")}, "value = :s", "params.s", "too large"),
        ({"s": "soon"}, "timestamp > {s:DateTime}", "params.s", "is no time"),
        ({"s": "x"}, "unit = {s:Tuple(String)}", "params.s", "no type of a parameter"),
    ],
)
def test_parameters_that_do_not_fit_are_named(params: dict[str, ParamValue], text: str, field: str, said: str) -> None:
    with pytest.raises(QueryError) as refused:
        condition(text, **params)
    assert refused.value.field == field
    assert said in refused.value.reason


@pytest.mark.parametrize(
    ("text", "line", "column", "said"),
    [
        ("", 1, 1, "the query is empty"),
        ("-- nothing", 1, 1, "the query is empty"),
        ("SELECT valu FROM metrics", 1, 8, "unknown column 'valu': did you mean 'value'?"),
        ("SELECT value\nFROM metrics\nWHERE\n  sevice_name = 'a'", 4, 3, "did you mean 'service_name'?"),
        ("SELECT value FROM metrics WHERE service_name=my-api LIMIT 10", 1, 46, "did you mean 'my-api' in quotes?"),
        ('SELECT value FROM metrics WHERE service_name = "my api"', 1, 48, "did you mean 'my api' in quotes?"),
        ("SELECT value FROM metrics WHERE unit IN (s, 'b')", 1, 42, "did you mean 's' in quotes?"),
        ("SELECT value FROM metrics WHERE unit = ‘x’", 1, 40, "did you mean 'x' in quotes?"),
        ("SELECT value FROM metric", 1, 19, "unknown table 'metric': did you mean 'metrics'?"),
        ("SELECT avgg(value) FROM metrics", 1, 8, "did you mean 'avg'?"),
        ("SELECT value + p95(value) FROM metrics", 1, 16, "use quantile(0.95)(value)"),
        ("SELECT quantile(value) FROM metrics", 1, 8, "needs a parameter from 0 to 1, as in quantile(0.95)(value)"),
        ("SELECT quantile(2)(value) FROM metrics", 1, 8, "needs a parameter from 0 to 1"),
        ("SELECT avg(0.5)(value) FROM metrics", 1, 8, "avg takes no parameter"),
        ("SELECT value FROM metrics WHERE (value = 1", 1, 42, "')' is missing here"),
        ("SELECT value FROM metrics WHERE", 1, 27, "something is missing after 'WHERE'"),
        ("SELECT value b c FROM metrics", 1, 16, "'c' was not expected here"),
        ("SELECT value FROM metrics WHERE value > 'x'", 1, 33, "cannot compare text with a number"),
        ("SELECT value FROM metrics WHERE value", 1, 33, "WHERE needs a condition, not a number"),
        ("SELECT value FROM metrics WHERE tags = 'a'", 1, 33, "choose a key, as in tags['key'] = 'value'"),
        ("SELECT tags.k FROM metrics", 1, 13, "write tags['k']"),
        ("SELECT value FROM metrics ORDER BY tags", 1, 36, "choose a key"),
        ("SELECT value FROM metrics WHERE timestamp > now() - 3600", 1, 45, "add or subtract an INTERVAL"),
        ("SELECT value FROM metrics WHERE timestamp > INTERVAL 1 HOUR", 1, 45, "write now() - INTERVAL"),
        ("SELECT value FROM metrics WHERE timestamp > 'yesterday'", 1, 45, "'yesterday' is no time"),
        ("SELECT now() - INTERVAL 1 MONTH FROM metrics", 1, 16, "a MONTH has no fixed length"),
        ("SELECT now() - INTERVAL 1 HOURE FROM metrics", 1, 16, "did you mean HOUR?"),
        ("SELECT value FROM metrics WHERE sum(value) > 1", 1, 33, "conditions on aggregates stand in HAVING"),
        ("SELECT unit, sum(value) FROM metrics", 1, 8, "'unit' is neither grouped nor inside an aggregate"),
        ("SELECT sum(avg(value)) FROM metrics", 1, 12, "cannot hold another aggregate"),
        ("SELECT value + 1 AS a, value AS a FROM metrics", 1, 24, "the alias 'a' is given twice"),
        ("SELECT b + 1 AS a, a + 1 AS b FROM metrics", 1, 8, "stands for itself"),
        ("SELECT value FROM metrics GROUP BY 2", 1, 36, "there is no column number 2"),
        ("SELECT value FROM metrics LIMIT 1.5", 1, 33, "LIMIT takes a whole number"),
        ("SELECT value FROM metrics LIMIT -1", 1, 34, "LIMIT takes a whole number"),
        ("SELECT 12345678901234567890 FROM metrics", 1, 8, "does not fit into 64 bits"),
        ("SELECT 1e999 FROM metrics", 1, 8, "too large for a number"),
        ("SELECT toStartOfInterval(timestamp, 5) FROM metrics", 1, 8, "INTERVAL 5 MINUTE"),
        ("SELECT value FROM metrics WHERE unit = 's", 1, 39, "never closed"),
        ("SELECT NULL + 1 FROM metrics", None, None, "cannot take NULL"),
        ("SELECT value FROM metrics WHERE value = NULL", 1, 33, "a comparison with NULL (=) never holds"),
        ("SELECT round(value, unit) FROM metrics", 1, 8, "constant number of digits"),
        ("SELECT value\x00 FROM metrics", 1, 13, "a character that is none"),
    ],
)
def test_a_refusal_says_what_and_where(text: str, line: int | None, column: int | None, said: str) -> None:
    with pytest.raises(QueryError) as refused:
        compiled(text)
    assert said in refused.value.reason
    assert (refused.value.line, refused.value.column) == (line, column)
    assert refused.value.field == "query"
    if refused.value.suggestion:
        assert refused.value.reason.endswith(refused.value.suggestion)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SELECT DISTINCT value FROM metrics", "DISTINCT is not part of VQL"),
        ("SELECT value FROM metrics LIMIT 10 OFFSET 5", "OFFSET is not part of VQL"),
        ("SELECT value FROM metrics LIMIT 5, 10", "OFFSET is not part of VQL"),
        ("SELECT value FROM metrics LIMIT 1 BY unit", ""),
        ("SELECT value FROM metrics LIMIT 10 WITH TIES", "WITH TIES is not part of VQL"),
        ("SELECT value FROM metrics, spans", "JOIN is not part of VQL"),
        ("SELECT value FROM metrics JOIN spans USING (trace_id)", "JOIN is not part of VQL"),
        ("SELECT value FROM metrics AS m", "an alias of a table"),
        ("SELECT value FROM metrics FINAL", "FINAL is not part of VQL"),
        ("SELECT value FROM metrics SAMPLE 0.1", "SAMPLE is not part of VQL"),
        ("SELECT value FROM metrics PREWHERE value > 1", "PREWHERE is not part of VQL"),
        ("SELECT value FROM metrics QUALIFY value > 1", "QUALIFY is not part of VQL"),
        ("SELECT sum(value) FROM metrics GROUP BY unit WITH TOTALS", "WITH TOTALS is not part of VQL"),
        ("SELECT sum(value) FROM metrics GROUP BY ALL", "GROUP BY ALL is not part of VQL"),
        ("SELECT sum(value) FROM metrics GROUP BY ROLLUP(unit)", ""),
        ("SELECT sum(value) OVER () FROM metrics", "OVER is not part of VQL"),
        ("SELECT count() FILTER (WHERE value > 1) FROM metrics", "use countIf, sumIf or avgIf"),
        ("SELECT count(DISTINCT unit) FROM metrics", "use uniq(x)"),
        ("SELECT uniq(unit, value) FROM metrics", "uniq takes 1 arguments"),
        ("SELECT * EXCEPT (value) FROM metrics", "EXCEPT is not part of VQL"),
        ("SELECT metrics.* FROM metrics", "* is not part of VQL"),
        ("SELECT value FROM metrics WHERE unit ILIKE 's'", "write lower(x) LIKE 'pattern'"),
        ("SELECT value FROM metrics WHERE unit LIKE 's' ESCAPE '!'", "ESCAPE is not part of VQL"),
        ("SELECT value FROM metrics WHERE unit LIKE unit", "LIKE takes a text in quotes"),
        ("SELECT value FROM metrics WHERE value IS NULL", "IS is not part of VQL"),
        ("SELECT value FROM metrics WHERE value IN (value)", "IN takes constants"),
        ("SELECT value % 2 FROM metrics", "% is not part of VQL"),
        ("SELECT unit || unit FROM metrics", "use concat(a, b)"),
        ("SELECT value::Int64 FROM metrics", "CAST is not part of VQL"),
        ("SELECT (value, unit) FROM metrics", "a tuple is not part of VQL"),
        ("SELECT [1, 2] FROM metrics", "an array is not part of VQL"),
        ("SELECT value > 1 ? 1 : 2 FROM metrics", "use if(condition, a, b)"),
        ("SELECT value FROM metrics ORDER BY value NULLS FIRST", "they always come last"),
        ("SELECT value FROM metrics ORDER BY value WITH FILL", "WITH FILL is not part of VQL"),
        ("SELECT increase() FROM metrics", "unknown function 'increase'"),
        ("SELECT count FROM rollups_5m", "unknown table 'rollups_5m'"),
        ("SELECT value", "FROM is missing"),
    ],
)
def test_what_vql_does_not_have_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(QueryError) as refused:
        compiled(text)
    assert said in refused.value.reason


def test_explaining_is_asked_by_a_word_before() -> None:
    assert not compiled("SELECT value FROM metrics").explain
    result = compiled("explain\nSELECT value FROM metrics")
    assert result.explain
    assert result.query.columns[0].name == "value"
    with pytest.raises(QueryError) as refused:
        compiled("EXPLAIN SELECT valu FROM metrics")
    assert refused.value.column == 16


def test_the_limits_are_told() -> None:
    def refused(text: str) -> str:
        with pytest.raises(QueryError) as error:
            compiled(text)
        return error.value.reason

    def nested(depth: int) -> str:
        return f"SELECT {'(' * depth}value{')' * depth} FROM metrics"

    assert "longer than 16384 bytes" in refused(f"SELECT value FROM metrics --{' ' * TEXT_NBYTES_MAX}")
    assert f"more than {TOKENS_MAX} words" in refused(f"SELECT value{' + 1' * TOKENS_MAX} FROM metrics")
    assert compiled(nested(DEPTH_MAX)).query.columns[0].type == "float"
    assert f"nested more than {DEPTH_MAX} deep" in refused(nested(DEPTH_MAX + 1))
    assert "nested too deep" in refused(f"SELECT value FROM metrics WHERE {'NOT ' * 1500} value > 1")
    assert "nested too deep" in refused(f"SELECT value{' + value' * 500} FROM metrics")
    doubled = ", ".join(f"a{n} + a{n} AS a{n + 1}" for n in range(30))
    assert "more than 4000 parts" in refused(f"SELECT value AS a0, {doubled} FROM metrics")
    deeper = ", ".join(f"{'-(' * 20}a{n}{')' * 20} AS a{n + 1}" for n in range(10))
    assert "nested too deep" in refused(f"SELECT value AS a0, {deeper} FROM metrics")


def test_many_conditions_are_not_deep() -> None:
    many = " OR ".join(f"unit = 'u{n}'" for n in range(400))
    result = compiled(f"SELECT value FROM metrics WHERE {many}").query
    assert isinstance(result.series_where, Or)
    assert len(result.series_where.parts) == 400


def outcome(run: Callable[[], object]) -> str:
    """'fine', or why it was refused; any other error is raised."""
    try:
        run()
    except QueryError as refused:
        return refused.reason
    return "fine"


@given(st.text(max_size=200))
def test_any_text_is_a_query_or_is_refused(text: str) -> None:
    for run in (compiled, condition):
        assert len(outcome(partial(run, text))) < 400


WORDS = """SELECT FROM WHERE GROUP BY HAVING ORDER LIMIT AND OR NOT IN LIKE BETWEEN CASE WHEN THEN ELSE END AS DESC
EXPLAIN INTERVAL HOUR NULL metrics spans value timestamp unit tags attributes ( ) ( ) [ ] , , + - * / = < != ; 'x' 1 2.5
'a%' :a {a:String} -- /* */ " ` :: -> % || UNION JOIN"""


@given(st.lists(st.sampled_from([*WORDS.split(), *TEXT_FUNCTIONS]), max_size=30))
def test_any_words_are_a_query_or_are_refused(words: list[str]) -> None:
    text = " ".join(words)
    for run in (lambda: compiled(f"SELECT {text}"), lambda: compiled(f"SELECT value FROM metrics {text}")):
        assert outcome(run)
