"""Queries that between them use all of the tree: printed into snapshots, and run on every engine."""

from __future__ import annotations

from tests.support.samples import NOW_MS
from vantage.vql.check import CheckedSelect, check
from vantage.vql.text.compile import compile_query
from vantage.vql.tree import Call, Column, Compare, Literal, Order, Select, SelectItem, equals

ASKED_MS = NOW_MS + 3_600_000
YEARS = "timestamp >= '2020-01-01'"

TEXTS = {
    "everything_of_a_service": f"SELECT * FROM metrics WHERE {YEARS} AND service_name = 'svc1' LIMIT 20",
    "a_value_a_minute": (
        "SELECT toStartOfMinute(timestamp) AS t, avg(value), quantile(0.95)(value) FROM metrics "
        f"WHERE {YEARS} AND metric_name = 'm1' AND abs(value) < 1e6 GROUP BY t ORDER BY t"
    ),
    "top_tags": (
        "SELECT tags['n'] AS n, count() AS samples, max(value) FROM metrics "
        f"WHERE {YEARS} AND tags['ü'] = 'ß' AND metric_name IN ('m1', 'm2') GROUP BY n ORDER BY samples DESC, n LIMIT 3"
    ),
    "tags_beside_values": (
        f"SELECT timestamp, tags, value FROM metrics WHERE {YEARS} AND (value > 100 OR tags['n'] LIKE '1%') "
        "ORDER BY value DESC, timestamp LIMIT 50"
    ),
    "one_trace": f"SELECT timestamp, metric_name, value, span_id FROM metrics WHERE {YEARS} AND trace_id = 't-3'",
    "arithmetic": (
        "SELECT value * 2 + 1, value / (value - value), -value, toUnixTimestamp(timestamp) - 1, "
        "toUnixTimestamp(timestamp) * 2, value - toUnixTimestamp(timestamp) "
        f"FROM metrics WHERE {YEARS} AND abs(value) < 1e6"
    ),
    "functions_of_numbers": (
        "SELECT round(value, 1), round(value), floor(value), ceil(value), abs(value), log(abs(value) + 1), "
        f"exp(value / 1000) FROM metrics WHERE {YEARS} AND abs(value) < 1e6"
    ),
    "functions_of_texts": (
        "SELECT upper(service_name), lower(concat(service_name, '/', metric_name)), "
        "coalesce(if(unit = 's', unit, NULL), 'none') AS unit, concat(tags['n'], unit) "
        f"FROM metrics WHERE {YEARS} AND tags['ü'] = 'ß'"
    ),
    "cases": (
        "SELECT CASE WHEN value > 100 THEN 'high' WHEN value > 10 THEN 'middle' ELSE 'low' END AS level, count(), "
        "sum(if(value > 10, 1, 0.5)), min(if(value > 10, value, NULL)) "
        f"FROM metrics WHERE {YEARS} AND abs(value) < 1e6 GROUP BY level"
    ),
    "conditions": (
        f"SELECT count() FROM metrics WHERE {YEARS} AND NOT (value > 10 AND value BETWEEN 0 AND 100) "
        "AND (service_name != 'svc0' OR metric_name NOT IN ('m1', 'm3')) AND value NOT IN (1, 2.5) "
        "AND service_name LIKE 's_c%' AND tags['n'] NOT LIKE '\\\\%'"
    ),
    "a_condition_that_may_be_null": (
        f"SELECT count(), countIf(NOT (log(value) > 1)) FROM metrics WHERE {YEARS} AND NOT (log(value) > 3)"
    ),
    "aggregates": (
        "SELECT count(), count(log(value)), countIf(value > 10), sum(value), sumIf(value, value > 10), avg(value), "
        "avgIf(value, unit = 's'), min(value), max(metric_name), any(service_name), stddevPop(value), uniq(value), "
        "uniq(tags['n']), median(value), quantile(0.99)(value), argMax(value, timestamp), argMax(metric_name, value) "
        f"FROM metrics WHERE {YEARS} AND abs(value) < 1e6"
    ),
    "aggregates_of_nothing": (
        "SELECT count(), sum(value), min(metric_name), uniq(value), quantile(0.5)(value), argMax(metric_name, value) "
        f"FROM metrics WHERE {YEARS} AND service_name = 'nobody'"
    ),
    "groups_of_nothing": (
        f"SELECT 1 AS one, count() FROM metrics WHERE {YEARS} AND service_name = 'nobody' GROUP BY one"
    ),
    "having": (
        "SELECT service_name, metric_name, sum(value) / count() AS mean FROM metrics "
        f"WHERE {YEARS} AND abs(value) < 1e6 GROUP BY service_name, metric_name "
        "HAVING count() > 20 AND mean > 0 ORDER BY mean DESC"
    ),
    "zeros_and_nulls_as_groups": (
        "SELECT if(value > 100, NULL, value * 0) AS zero, count() FROM metrics "
        f"WHERE {YEARS} AND abs(value) < 1e6 GROUP BY zero ORDER BY zero DESC"
    ),
    "weeks": (
        "SELECT toStartOfInterval(timestamp, INTERVAL 1 WEEK) AS week, "
        "toStartOfInterval(timestamp - INTERVAL 25000 DAY, INTERVAL 1 DAY) AS long_ago, count() "
        f"FROM metrics WHERE {YEARS} GROUP BY week, long_ago ORDER BY week"
    ),
    "odd_texts": (
        f"SELECT count() FROM metrics WHERE {YEARS} AND tags['it''s'] = '\\\\ \\t\\n''\"' "
        "AND tags['ü'] != '{p0:String}'"
    ),
    "spans": (
        "SELECT service_name, attributes['http.route'] AS route, count(), countIf(status = 'error') / count(), "
        f"quantile(0.95)(duration_ns) / 1e6 FROM spans WHERE {YEARS} AND attributes['http.route'] != '/2' "
        "GROUP BY service_name, route"
    ),
    "spans_one_by_one": (
        f"SELECT timestamp, trace_id, name, attributes, duration_ns > 1000000 AS slow FROM spans WHERE {YEARS} "
        "AND service_name = 'svc0' ORDER BY duration_ns DESC LIMIT 10"
    ),
}  # fmt: skip


def _of(table: str, *items: SelectItem, **other: object) -> CheckedSelect:
    where = Compare(">=", Column("timestamp"), Literal(0))
    return check(Select(table, items, where=where, **other), now_ms=ASKED_MS)  # type: ignore[arg-type]


def _rolled(table: str) -> CheckedSelect:
    names = (Column("service_name"), Column("metric_name"))
    return _of(
        table,
        *(SelectItem(name, name.name) for name in names),
        SelectItem(Call("sum", (Column("count"),)), "count"),
        SelectItem(Call("min", (Column("min"),)), "min"),
        SelectItem(Call("max", (Column("max"),)), "max"),
        group_by=names,
        order_by=tuple(map(Order, names)),
    )


def queries() -> dict[str, CheckedSelect]:
    """Every query by name; those that the text has no words for as trees."""
    result = {name: compile_query(text, now_ms=ASKED_MS).query for name, text in TEXTS.items()}
    method = SelectItem(Column("metric_name"), "metric")
    result["growth"] = _of(
        "metrics",
        method,
        SelectItem(Call("increase"), "grown"),
        group_by=(method.expr,),
        having=equals("metric_name", "m1"),
    )
    result["rollups_5m"] = _rolled("rollups_5m")
    result["rollups_1h"] = _rolled("rollups_1h")
    result["sketches"] = _of(
        "rollups_1h", method, SelectItem(Call("sketchQuantile", parameter=0.5), "p50"), group_by=(method.expr,)
    )
    return result
