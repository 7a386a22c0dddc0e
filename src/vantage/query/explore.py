"""Questions that people put together in the browser: up to four queries of metrics, arithmetic of them, and the same
some time before; and each question as VQL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from vantage.core.arrays import F64
from vantage.core.errors import InputError
from vantage.core.sample import Kind
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.formula import Points, Tags, evaluate, parse_formula
from vantage.query.timeseries import Timeseries, timeseries
from vantage.query.timeseries_query import TimeseriesQuery
from vantage.query.vql_text import has_tag, key_text, quoted, time_text
from vantage.vql.table import Table, TableColumn

LETTERS: Final = ("a", "b", "c", "d")
FORMULA: Final = "formula"
LINES_MAX: Final = 200
_RESERVED: Final = frozenset(
    {"time", "value", "timestamp", "tags", "service_name", "metric_name", "trace_id", "span_id"}
)


@dataclass(frozen=True, slots=True)
class Question:
    """``queries`` by letter, all of one range and step; ``where`` has the texts of their conditions. ``formula`` is
    arithmetic of letters, '' for none. ``compare_ms``: how long before the same is read as well, 0 for not."""

    queries: Mapping[str, TimeseriesQuery]
    where: Mapping[str, str] = field(default_factory=dict)
    formula: str = ""
    compare_ms: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A series of the answer: of a query (its letter) or the formula. ``is_earlier``: of the time before. Values are
    NaN in buckets without data; the summary is None without any."""

    of: str
    tags: Tags
    unit: str
    values: F64
    is_earlier: bool = False

    @property
    def key(self) -> tuple[str, Tags, bool]:
        """Return what tells it from the others."""
        return self.of, self.tags, self.is_earlier

    @property
    def label(self) -> str:
        return ", ".join(f"{key}={value or '(none)'}" for key, value in self.tags)

    @property
    def summary(self) -> tuple[float, float, float, float] | None:
        """Return the least, mean, greatest and last value."""
        there = self.values[np.isfinite(self.values)]
        if not len(there):
            return None
        return float(there.min()), float(there.mean()), float(there.max()), float(there[-1])


@dataclass(frozen=True, slots=True)
class Answer:
    """``lines``: those of the largest values first, of each query in turn. ``problems``: why a query has no answer, by
    its letter or FORMULA. ``vql``: each question as text."""

    time_range: TimeRange
    step_ms: int
    lines: tuple[Line, ...]
    warnings: tuple[str, ...]
    problems: Mapping[str, str]
    vql: Mapping[str, str]
    approximate: bool

    def of(self, what: str) -> tuple[Line, ...]:
        """Return the lines of a query or of the formula."""
        return tuple(line for line in self.lines if line.of == what)

    def table(self) -> Table:
        """Return the points as a table: a row for each bucket with a value."""
        rows: list[tuple[object, ...]] = []
        times = range(self.time_range.start_ms, self.time_range.end_ms, self.step_ms)
        for line in self.lines:
            name = f"{line.of} before" if line.is_earlier else line.of
            rows += [
                (at_ms, name, dict(line.tags), value)
                for at_ms, value in zip(times, line.values.tolist(), strict=False)
                if value == value
            ]
        names = (("time", "time"), ("query", "string"), ("tags", "map"), ("value", "float"))
        columns = tuple(TableColumn(name, kind) for name, kind in names)  # type: ignore[arg-type]
        return Table(columns, tuple(list(column) for column in zip(*rows, strict=True)) or ([], [], [], []))


async def ask(context: QueryContext, question: Question, time_range: TimeRange, step_ms: int) -> Answer:
    """Answer a question. What is wrong with one of its queries is among the problems, and the others are answered.
    Raises BusyError, StoreTimeout."""
    answers: dict[str, Timeseries] = {}
    earlier: dict[str, Timeseries] = {}
    problems: dict[str, str] = {}
    for letter, query in question.queries.items():
        query = replace(query, time_range=time_range, step_ms=step_ms)
        try:
            answers[letter] = await timeseries(context, query)
            if question.compare_ms:
                before = TimeRange(time_range.start_ms - question.compare_ms, time_range.end_ms - question.compare_ms)
                earlier[letter] = await timeseries(context, replace(query, time_range=before))
        except InputError as error:
            problems[letter] = f"{error.field}: {error}" if error.field else str(error)
    kinds = {letter: await _kind(context, answer.query) for letter, answer in answers.items()}
    aligned = time_range.aligned(step_ms)
    return await asyncio.to_thread(_build, question, aligned, step_ms, answers, earlier, problems, kinds)


async def _kind(context: QueryContext, query: TimeseriesQuery) -> Kind:
    infos = await context.store.list_series(service=query.service, metric=query.metric)
    return max(infos, key=lambda info: info.samples).series.kind if infos else Kind.GAUGE


def _build(
    question: Question,
    time_range: TimeRange,
    step_ms: int,
    answers: Mapping[str, Timeseries],
    earlier: Mapping[str, Timeseries],
    problems: dict[str, str],
    kinds: Mapping[str, Kind],
) -> Answer:
    lines: list[Line] = []
    for is_earlier, series in ((False, answers), (True, earlier)):
        points = {letter: _points(answer) for letter, answer in series.items()}
        for letter, of_letter in points.items():
            lines += _lines(letter, of_letter, series[letter].unit, is_earlier=is_earlier)
        if question.formula and (not is_earlier or question.compare_ms):
            try:
                tree = parse_formula(question.formula, frozenset(points))
                lines += _lines(FORMULA, evaluate(tree, points), "", is_earlier=is_earlier)
            except InputError as error:
                problems[FORMULA] = str(error)
    warnings = [f"{letter}: {warning}" for letter, answer in answers.items() for warning in answer.warnings]
    return Answer(
        time_range,
        step_ms,
        tuple(lines),
        tuple(dict.fromkeys(warnings)),
        problems,
        {
            letter: as_vql(answer.query, time_range, step_ms, kinds[letter], where=question.where.get(letter, ""))
            for letter, answer in answers.items()
        },
        any(answer.approximate for answer in answers.values()),
    )


def _points(answer: Timeseries) -> Points:
    return {
        tuple(group.tags.items()): np.array([np.nan if value is None else value for value in group.points])
        for group in answer.groups
    }


def _lines(of: str, points: Points, unit: str, *, is_earlier: bool) -> list[Line]:
    lines = [Line(of, tags, unit, values, is_earlier) for tags, values in points.items()]
    lines.sort(key=lambda line: (-(line.summary or (0, 0, -np.inf, 0))[2], line.tags))
    return lines[:LINES_MAX]


def as_vql(query: TimeseriesQuery, time_range: TimeRange, step_ms: int, kind: Kind, *, where: str = "") -> str:
    """Return a query as VQL that gives the same numbers; ``where`` is the text of its condition. '' for the growth of a
    running total, which VQL does not know."""
    if query.agg == "rate" and kind is Kind.CUMULATIVE:
        return ""
    names = _names(query.group_by)
    keys = [f"{key_text(key)} AS {name}" for key, name in zip(query.group_by, names, strict=True)]
    conditions = [f"service_name = {quoted(query.service)}", f"metric_name = {quoted(query.metric)}"]
    conditions += [has_tag(key, value) for key, value in query.tags]
    conditions += [f"({where.strip()})"] if where.strip() else []
    conditions += [f"timestamp >= {time_text(time_range.start_ms)}", f"timestamp < {time_text(time_range.end_ms)}"]
    items = ",\n    ".join([f"{_bucket(step_ms)} AS time", *keys, f"{_aggregate(query.agg, kind, step_ms)} AS value"])
    all_of = "\n    AND ".join(conditions)
    grouped = ", ".join(["time", *names])
    return f"SELECT\n    {items}\nFROM metrics\nWHERE\n    {all_of}\nGROUP BY {grouped}\nORDER BY {grouped}"


def _bucket(step_ms: int) -> str:
    number, unit = next((step_ms // ms, unit) for ms, unit in _UNITS if step_ms % ms == 0)
    return f"toStartOfInterval(timestamp, INTERVAL {number} {unit})"


def _aggregate(agg: str, kind: Kind, step_ms: int) -> str:
    if agg == "rate":
        total = "sum(value)" if kind is Kind.COUNTER else "count()"
        return f"{total} / {step_ms / 1000:g}"
    if agg == "last":
        return "argMax(value, timestamp)"
    if agg.startswith("p"):
        return f"quantile({int(agg[1:]) / 100:g})(value)"
    return "count()" if agg == "count" else f"{agg}(value)"


_UNITS: Final = ((604_800_000, "WEEK"), (86_400_000, "DAY"), (3_600_000, "HOUR"), (60_000, "MINUTE"), (1000, "SECOND"))


def _names(keys: Sequence[str]) -> list[str]:
    """Return a name of its own for each key that a query groups by."""
    names: list[str] = []
    for key in keys:
        name = re.sub(r"[^A-Za-z0-9_]", "_", key)
        if not name[:1].isalpha() or name in names or name in _RESERVED:
            name = f"key_{len(names) + 1}"
        names.append(name)
    return names
