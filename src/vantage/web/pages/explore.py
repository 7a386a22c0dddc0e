"""``/explore``: metrics over time, chosen, filtered, grouped and compared; the same as a file and as VQL."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.response import Stream

from vantage.core.deployment import Deployment
from vantage.core.errors import InputError
from vantage.core.semconv import DURATION
from vantage.core.timerange import TimeRange, auto_step_ms
from vantage.query import catalogue
from vantage.query.context import QueryContext
from vantage.query.deployments import deployments_if_known
from vantage.query.explore import FORMULA, LETTERS, Answer, Line, Question, ask
from vantage.query.formula import Tags
from vantage.query.table_formats import MEDIA_TYPES, PARQUET, PARQUET_MISSING, encode_table, has_parquet
from vantage.query.timeseries import AGGREGATIONS
from vantage.query.timeseries_query import TimeseriesQuery
from vantage.vql.text.compile import compile_condition
from vantage.web.pages.charts import CHART_LINES_MAX, LINE_COLOURS, Chart, Evidence, band_url, chart_of_lines
from vantage.web.pages.ranges import PageRange, read_range
from vantage.web.problems import NotAcceptable
from vantage.web.render import query_string, shared_page

POINTS: Final = 200
SERVICES_MAX: Final = 1000
TEXT_LENGTH_MAX: Final = 500
COMPARISONS: Final = {"": 0, "1h": 3_600_000, "1d": 86_400_000, "7d": 604_800_000}
DEFAULT_AGGREGATIONS: Final = {"counter": "rate", "cumulative": "rate", "histogram": "p95", "gauge": "avg"}


@dataclass(frozen=True, slots=True)
class Row:
    """The fields of one query, as typed, and what may be chosen in them."""

    letter: str
    service: str
    metric: str
    agg: str
    by: tuple[str, ...]
    tags: tuple[str, ...]
    where: str
    metrics: tuple[catalogue.Metric, ...] = ()
    pairs: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        return bool(self.service and self.metric)

    @property
    def tag_keys(self) -> tuple[str, ...]:
        keys = {key for metric in self.metrics if metric.name == self.metric for key in metric.tag_keys}
        return tuple(sorted(keys | set(self.by)))

    def state(self) -> dict[str, str | tuple[str, ...]]:
        """Return the parameters of the URL."""
        fields: dict[str, str | tuple[str, ...]] = {"service": self.service, "metric": self.metric, "agg": self.agg}
        fields |= {"by": self.by, "tag": self.tags, "where": self.where}
        return {f"{self.letter}.{name}": value for name, value in fields.items() if value}


@get("/explore", include_in_schema=False)
async def explore(request: Request[Any, Any, Any], context: NamedDependency[QueryContext]) -> Response[bytes]:
    return await shared_page(request, "pages/explore.html", lambda: _read(request, context))


@get("/explore/data", include_in_schema=False)
async def explore_data(request: Request[Any, Any, Any], context: NamedDependency[QueryContext]) -> Response[Any]:
    """Send the points of a question as a file."""
    kind = request.query_params.get("format", "csv")
    if kind not in MEDIA_TYPES:
        raise InputError(f"is not one of {', '.join(MEDIA_TYPES)}", field="format")
    if kind == PARQUET and not has_parquet():
        raise NotAcceptable(PARQUET_MISSING)
    page_range = await read_range(request, context)
    rows = [row for row in _rows(request) if row.is_complete]
    question, problems = await _question(context, request, rows)
    answer = await ask(context, question, page_range.time_range, _step_ms(page_range.time_range))
    for field, problem in {**problems, **answer.problems}.items():
        raise InputError(problem, field=field)
    body = await asyncio.to_thread(lambda: list(encode_table(answer.table(), kind)))
    return Stream(
        iter(body),
        media_type=MEDIA_TYPES[kind],
        headers={"Content-Disposition": f'attachment; filename="vantage.{kind}"'},
    )


async def _read(request: Request[Any, Any, Any], context: QueryContext) -> dict[str, Any]:
    page_range = await read_range(request, context)
    services = [service.name for service in await catalogue.services(context)]
    rows = [await _with_choices(context, row) for row in await _first_question(context, _rows(request), services)]
    complete = [row for row in rows if row.is_complete]
    question, problems = await _question(context, request, complete)
    answer: Answer | None = None
    if question.queries:
        answer = await ask(context, question, page_range.time_range, _step_ms(page_range.time_range))
        problems |= answer.problems
    state = {name: value for row in rows for name, value in row.state().items()}
    state |= {FORMULA: question.formula, "compare": request.query_params.get("compare", "")}
    drawn = _drawn(answer) if answer else []
    unused = [letter for letter in LETTERS if letter not in {row.letter for row in rows}]
    return {
        "section": "explore",
        "range": page_range,
        "rows": rows,
        "next_row": Row(unused[0], complete[-1].service if complete else "", "", "", (), (), "") if unused else None,
        "services": services[:SERVICES_MAX],
        "aggregations": AGGREGATIONS,
        "comparisons": tuple(filter(None, COMPARISONS)),
        "formula": question.formula,
        "compare": request.query_params.get("compare", ""),
        "problems": problems,
        "answer": answer,
        "charts": _charts(answer, drawn, complete, await _deployments(context, page_range, complete)) if answer else [],
        "colours": _colours(drawn),
        "left_out": len(answer.lines) - len(drawn) if answer else 0,
        "filters": state,
        "live_service": _watched(page_range, complete),
        "text_length_max": TEXT_LENGTH_MAX,
        "data_url": f"/explore/data{query_string({**page_range.state, **state})}",
        "has_parquet": has_parquet(),
    }


def _rows(request: Request[Any, Any, Any]) -> list[Row]:
    """Return the queries of the URL, such as ``a.service=…&a.metric=…``."""
    params = request.query_params
    rows = []
    for letter in LETTERS:

        def texts(name: str, letter: str = letter) -> tuple[str, ...]:
            values = params.getall(f"{letter}.{name}", [])
            return tuple(dict.fromkeys(value.strip()[:TEXT_LENGTH_MAX] for value in values if value.strip()))

        def text(name: str, letter: str = letter) -> str:
            return params.get(f"{letter}.{name}", "").strip()[:TEXT_LENGTH_MAX]

        by = tuple(key.strip() for value in texts("by") for key in value.split(",") if key.strip())
        row = Row(letter, text("service"), text("metric"), text("agg"), by, texts("tag"), text("where"))
        if row.service or row.metric:
            rows.append(row)
    return rows


async def _first_question(context: QueryContext, rows: list[Row], services: Sequence[str]) -> list[Row]:
    """Return the queries, or where there are none one to begin with: durations of the first service that has them."""
    if rows or not services:
        return rows
    service = next((name for name in services if name != "vantage"), services[0])
    metrics = await catalogue.metrics(context, service)
    names = [metric.name for metric in metrics]
    metric = DURATION if DURATION in names else names[0] if names else ""
    return [Row(LETTERS[0], service, metric, "", (), (), "")]


async def _with_choices(context: QueryContext, row: Row) -> Row:
    metrics = await catalogue.metrics(context, row.service) if row.service else []
    pairs = await catalogue.tag_pairs(context, service=row.service, metric=row.metric) if row.is_complete else ()
    kind = next((metric.kind for metric in metrics if metric.name == row.metric), "gauge")
    agg = row.agg if row.agg in AGGREGATIONS else DEFAULT_AGGREGATIONS.get(kind, "avg")
    return replace(row, agg=agg, metrics=tuple(metrics), pairs=tuple(pairs))


async def _question(
    context: QueryContext, request: Request[Any, Any, Any], rows: Sequence[Row]
) -> tuple[Question, dict[str, str]]:
    """Return the question, and what is wrong with its fields, by letter."""
    now_ms = context.present().now_ms
    queries: dict[str, TimeseriesQuery] = {}
    where: dict[str, str] = {}
    problems: dict[str, str] = {}
    for row in rows:
        condition = None
        pairs = [tuple(pair.split(":", 1)) for pair in row.tags]
        if wrong := next((pair for pair in pairs if len(pair) != 2 or not pair[0]), None):
            problems[row.letter] = f"filter: {wrong[0]!r} is not in the form key:value"
            continue
        if row.where:
            try:
                condition = await asyncio.to_thread(compile_condition, row.where, now_ms=now_ms)
            except InputError as error:
                problems[row.letter] = f"condition: {error}"
                continue
        tags = tuple((key, value) for key, value in pairs)
        agg = row.agg or "avg"
        queries[row.letter] = TimeseriesQuery(
            row.service, row.metric, TimeRange(0, 1), agg, None, row.by, tags, condition
        )
        where[row.letter] = row.where
    formula = request.query_params.get(FORMULA, "").strip()
    return Question(queries, where, formula, COMPARISONS.get(request.query_params.get("compare", ""), 0)), problems


def _step_ms(time_range: TimeRange) -> int:
    return auto_step_ms(time_range, points=POINTS)


def _drawn(answer: Answer) -> list[Line]:
    """Return the lines that are drawn: of the formula alone where there is one."""
    lines = answer.of(FORMULA) or answer.lines
    return list(lines[:CHART_LINES_MAX])


async def _deployments(context: QueryContext, page_range: PageRange, rows: Sequence[Row]) -> Sequence[Deployment]:
    """Return those of the services in question."""
    per_service = [
        await deployments_if_known(context, service=service, time_range=page_range.time_range)
        for service in {row.service for row in rows}
    ]
    deployments = (deployment for listed in per_service for deployment in listed)
    return sorted(deployments, key=lambda deployment: deployment.at_ms)


def _charts(
    answer: Answer, drawn: Sequence[Line], rows: Sequence[Row], deployments: Sequence[Deployment]
) -> list[Chart]:
    """Return a chart for each unit."""
    by_letter = {row.letter: row for row in rows}
    services = {row.service for row in rows}
    traces = f"/traces{query_string({'service': services.pop()})}" if len(services) == 1 else ""
    colours = _colours(drawn)
    several = len({line.of for line in drawn}) > 1
    charts = []
    for unit in dict.fromkeys(line.unit for line in drawn):
        of_unit = [line for line in drawn if line.unit == unit]
        lines = [
            (_label(line, several=several), LINE_COLOURS[colours[line.key]], line.values.tolist(), line.is_earlier)
            for line in of_unit
        ]
        evidence = Evidence(traces, tuple(_exemplars_url(line, by_letter.get(line.of)) for line in of_unit))
        charts.append(
            chart_of_lines(
                answer.time_range,
                answer.step_ms,
                unit,
                lines,
                deployments=deployments,
                evidence=evidence,
                expected=_band_url(answer, of_unit, by_letter),
            )
        )
    return charts


def _band_url(answer: Answer, lines: Sequence[Line], by_letter: Mapping[str, Row]) -> str:
    """Return where the expected band of a chart is: of one line that shows what is watched of a metric; '' for none."""
    row = by_letter.get(lines[0].of) if len(lines) == 1 else None
    if row is None or row.by or row.tags or row.where:
        return ""
    kind = next((metric.kind for metric in row.metrics if metric.name == row.metric), "")
    start_ms, end_ms = answer.time_range.start_ms, answer.time_range.end_ms
    if row.metric == DURATION:
        return band_url(start_ms, end_ms, row.service, "p95" if row.agg == "p95" else "")
    is_watched = row.agg == ("rate" if kind == "counter" else "avg") and kind != "cumulative"
    return band_url(start_ms, end_ms, row.service, "metric" if is_watched else "", row.metric)


def _exemplars_url(line: Line, row: Row | None) -> str:
    """Return where the traces behind a line are, '' where there is no one place: arithmetic, and the time before."""
    if row is None or line.is_earlier:
        return ""
    tags = (*row.tags, *(f"{key}:{value}" for key, value in line.tags if value))
    query = {"service": row.service, "metric": row.metric, "tag": tags, "where": row.where}
    return f"/api/metrics/exemplars{query_string(query)}"


def _colours(drawn: Sequence[Line]) -> dict[tuple[str, Tags, bool], int]:
    """Return the number of each line's colour: a series and what it was before have the same."""
    numbers: dict[tuple[str, Tags], int] = {}
    for line in drawn:
        numbers.setdefault((line.of, line.tags), len(numbers) % len(LINE_COLOURS))
    return {line.key: numbers[line.of, line.tags] for line in drawn}


def _label(line: Line, *, several: bool) -> str:
    parts = [line.of if several or not line.label else "", line.label, "before" if line.is_earlier else ""]
    return " ".join(filter(None, parts))


def _watched(page_range: PageRange, rows: Sequence[Row]) -> str:
    """Return whose data refreshes the page: a service, '*' for several, '' for none."""
    services = {row.service for row in rows}
    if not page_range.is_live or not services:
        return ""
    return services.pop() if len(services) == 1 else "*"


handlers = [explore, explore_data]
