"""Print checked queries as ClickHouse SQL.

Columns of the result are named c0, c1, …; a grouped query names its keys k0 … and its aggregates a0 … in an inner
query, so that each is printed once. Conditions on names and times use the table's own columns, so that the primary key
and the partitions can skip data; tags come from the few series, by a join.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from vantage.core.timerange import TimeRange
from vantage.storage.clickhouse.engine import Statement
from vantage.storage.clickhouse.expressions import Params, Printer, Scope, Term, grouping_key, is_fixed
from vantage.vql.check import CheckedSelect, aggregates_of
from vantage.vql.signatures import SERIES_COLUMNS, SPANS
from vantage.vql.tree import Column, Expr, TagValue, children, conjuncts

TABLES: Final = {"metrics": "samples", "spans": "spans", "rollups_5m": "rollups_5m", "rollups_1h": "rollups_1h"}
DATETIME_MS_MAX: Final = 10_413_791_999_999  # 2299-12-31: DateTime64 ends there
_LINE_MAX: Final = 100
_NS_MAX: Final = (1 << 63) - 1
# Samples of the same time have no order: the smaller value counts as the earlier.
_WINDOW: Final = "PARTITION BY series_id ORDER BY timestamp, value ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
_TIME_MS: Final = Term("toUnixTimestamp64Milli(timestamp)", "time")
_ROLLUP_TABLES: Final = {
    "count": Term("toInt64(count)", "int"),
    "sum": Term("ifNotFinite(sum, NULL)", "float", nullable=True),
    "min": Term("min", "float"),
    "max": Term("max", "float"),
}


def print_select(query: CheckedSelect) -> Statement:
    """Return the statement of a query, which reads one row beyond the limit. Raises InputError for a number that does
    not fit 64 bits."""
    params = Params()
    rows = _Rows(query, params)
    text = _grouped(query, params, rows) if query.grouped else _columns(query, params, rows)
    return Statement(text, params.values)


def print_estimate(query: CheckedSelect) -> tuple[Statement, str]:
    """Return the statement that estimates what a query would read, and its table."""
    statement = print_select(query)
    return Statement(f"EXPLAIN ESTIMATE\n{statement.text}", statement.params), TABLES[query.select.table]


def bounds(time_range: TimeRange, params: Params, *, spans: bool) -> list[str]:
    """Return conditions on the column that determines the partitions."""
    if spans:
        start = params.bind(min(time_range.start_ms * 1_000_000, _NS_MAX), "Int64")
        end = params.bind(min(time_range.end_ms * 1_000_000, _NS_MAX), "Int64")
        return [f"start_ns >= {start}", f"start_ns < {end}"]
    return [
        f"timestamp {op} fromUnixTimestamp64Milli({params.bind(min(max(0, at), DATETIME_MS_MAX), 'Int64')}, 'UTC')"
        for op, at in ((">=", time_range.start_ms), ("<", time_range.end_ms))
    ]


def series_scope(params: Params) -> Scope:
    """Return the scope of names in the table of series."""

    def column(name: str) -> Term:
        return Term(name, SERIES_COLUMNS[name])

    return Scope(column, lambda key: Term(f"tags[{params.bind(key, 'String')}]", "string"))


@dataclass(slots=True)
class _Rows:
    """The rows that a query reads. Printing in ``scope`` records the columns they must have: call ``source`` last."""

    query: CheckedSelect
    params: Params
    columns: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    needs_all_tags: bool = False

    @property
    def scope(self) -> Scope:
        return Scope(self._column, self._tag)

    def _column(self, name: str) -> Term:
        table = self.query.select.table
        if table == "spans":
            if name == "timestamp":
                return Term("intDiv(start_ns, 1000000)", "time")
            return Term(name, SPANS[name])
        if name == "tags":
            self.needs_all_tags = True
            return Term("tags", "map")
        self.columns.add(name)
        if name == "timestamp":
            return _TIME_MS
        if table != "metrics" and name in _ROLLUP_TABLES:
            return _ROLLUP_TABLES[name]
        return Term(name, "float" if name == "value" else "string")

    def _tag(self, key: str) -> Term:
        if self.query.select.table == "spans":
            return Term(f"attributes[{self.params.bind(key, 'String')}]", "string")
        return Term(self.tags.setdefault(key, f"tag{len(self.tags)}"), "string")

    def source(self) -> str:
        """Print FROM and WHERE."""
        query, table = self.query, TABLES[self.query.select.table]
        is_spans = query.select.table == "spans"
        where = bounds(query.time_range, self.params, spans=is_spans)
        series = conjuncts(query.series_where)
        names = Printer(self.params, Scope(lambda name: Term(name, SERIES_COLUMNS[name]), self._tag))
        where += [names.condition(part) for part in series if not _uses_tags(part)]
        if any(map(_uses_tags, series)):
            where.append(f"series_id IN (SELECT series_id FROM series WHERE {self._on_series(series)})")
        rows = [Printer(self.params, self.scope).condition(part) for part in conjuncts(query.row_where)]
        grows = any(call.function == "increase" for call in aggregates_of(query.select))
        joined = bool(self.tags) or self.needs_all_tags
        if not joined and not grows:
            return _from(table, [*where, *rows])
        if grows:
            self.columns |= {"timestamp", "value"}
        columns = ", ".join(sorted(self.columns | {"series_id"}))
        if any(call.function == "sketchQuantile" for call in aggregates_of(query.select)):
            columns += ", sketch"
        needs_tags = joined and query.row_where is not None and _uses_tags(query.row_where)
        read = f"SELECT {columns}\n{_from(table, where if needs_tags else where + rows)}"
        text = f"FROM (\n{_indented(read)}\n) AS selected"
        if joined:
            text += f"\n{self._join_tags(self._on_series(series))}"
        if needs_tags:
            text += f"\nWHERE {_all(rows)}"
        return _with_growth(text) if grows else text

    def _on_series(self, parts: list[Expr]) -> str:
        printer = Printer(self.params, series_scope(self.params))
        return " AND ".join(printer.condition(part) for part in parts)

    def _join_tags(self, on_series: str) -> str:
        """Print the join with the tags of series."""
        tags = [f"tags[{self.params.bind(key, 'String')}] AS {name}" for key, name in self.tags.items()]
        columns = ", ".join(["series_id", *(["tags"] if self.needs_all_tags else []), *tags])
        where = f" WHERE {on_series}" if on_series else ""
        return f"ANY LEFT JOIN (SELECT {columns} FROM series{where}) AS tagged USING (series_id)"


def _with_growth(source: str) -> str:
    """Print rows with the growth of their series' running total: a fall is a reset, after which all is growth."""
    numbered = (
        f"SELECT *, row_number() OVER per_series AS number, lagInFrame(value) OVER per_series AS previous\n{source}\n"
        f"WINDOW per_series AS ({_WINDOW})"
    )
    growth = "if(number = 1, NULL, if(value < previous, value, value - previous))"
    grown = f"SELECT *, {growth} AS growth\nFROM (\n{_indented(numbered)}\n)"
    return f"FROM (\n{_indented(grown)}\n)"


def _columns(query: CheckedSelect, params: Params, rows: _Rows) -> str:
    """Print a query of one row per record."""
    printer = Printer(params, rows.scope)
    items = [printer.term(item.expr) for item in query.select.items]
    order = _order(query, printer, items)
    return "\n".join([_select(_named_items(items)), rows.source(), *order, f"LIMIT {query.limit + 1}"])


def _grouped(query: CheckedSelect, params: Params, rows: _Rows) -> str:
    """Print a query of one row per group."""
    inner = Printer(params, rows.scope)
    keys = [grouping_key(inner.term(key), fixed=is_fixed(key)) for key in query.select.group_by]
    calls = aggregates_of(query.select)
    aggregates = [inner.term(call) for call in calls]
    known: dict[Expr, Term] = {}
    for letter, exprs, terms in (("k", query.select.group_by, keys), ("a", calls, aggregates)):
        for number, (expr, term) in enumerate(zip(exprs, terms, strict=True)):
            known[expr] = Term(f"{letter}{number}", term.type, term.nullable)
    named = [f"{term.text} AS k{number}" for number, term in enumerate(keys)]
    named += [f"{_quoted(term)} AS a{number}" for number, term in enumerate(aggregates)]
    groups = [f"GROUP BY {', '.join(f'k{number}' for number in range(len(keys)))}"] if keys else []
    # Without keys there is one group even without rows: count() makes the engine see an aggregate in any case.
    text = "\n".join([_select(named or ["count() AS rows"]), rows.source(), *groups])
    outer = Printer(params, rows.scope, known)
    items = [outer.term(item.expr) for item in query.select.items]
    having = [] if query.select.having is None else [f"WHERE {outer.condition(query.select.having)}"]
    order = _order(query, outer, items) if keys else []
    return "\n".join(
        [
            _select(_named_items(items)),
            f"FROM (\n{_indented(text)}\n)",
            *having,
            *order,
            f"LIMIT {query.limit + 1}",
        ]
    )


def _order(query: CheckedSelect, printer: Printer, items: list[Term]) -> list[str]:
    """Print the requested order, then every column, so that LIMIT selects the same rows on every store."""
    names = {item.expr: f"c{number}" for number, item in reversed(list(enumerate(query.select.items)))}
    terms: dict[str, str] = {}
    for order in query.select.order_by:
        if is_fixed(order.expr):
            continue
        text = names.get(order.expr) or printer.term(order.expr).text
        terms.setdefault(text, f"{text} {'DESC' if order.descending else 'ASC'} NULLS LAST")
    for number, (item, term) in enumerate(zip(query.select.items, items, strict=True)):
        name = names[item.expr]
        if is_fixed(item.expr) or name != f"c{number}":
            continue
        if term.type == "map":
            terms.setdefault(name, f"mapKeys({name}) ASC, mapValues({name}) ASC")
        else:
            terms.setdefault(name, f"{name} ASC NULLS LAST")
    return [f"ORDER BY {', '.join(terms.values())}"] if terms else []


def _named_items(items: list[Term]) -> list[str]:
    return [f"{_quoted(term)} AS c{number}" for number, term in enumerate(items)]


def _select(columns: list[str]) -> str:
    """Print SELECT, in one line if it is short."""
    line = f"SELECT {', '.join(columns)}"
    return line if len(line) <= _LINE_MAX else "SELECT\n" + ",\n".join(f"    {column}" for column in columns)


def _quoted(term: Term) -> str:
    return "CAST(NULL AS Nullable(Float64))" if term.type == "null" else term.text


def _uses_tags(expr: Expr) -> bool:
    return isinstance(expr, TagValue) or expr == Column("tags") or any(map(_uses_tags, children(expr)))


def _from(table: str, where: list[str]) -> str:
    return f"FROM {table}\nWHERE {_all(where)}"


def _all(conditions: list[str]) -> str:
    return "\n  AND ".join(conditions)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
