"""``/vql``: write a query, see its rows, as a chart where there are times, or what it would read."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.response import Redirect, Stream

from vantage.core.api_key import Scope
from vantage.core.errors import InputError, NotFoundError, QueryError, StoreUnavailable, VantageError
from vantage.core.saved_query import SavedQuery
from vantage.query.context import QueryContext
from vantage.query.deployments import WAIT_S
from vantage.query.saved_queries import NAME_LENGTH_MAX, SavedQueries
from vantage.query.table_formats import MEDIA_TYPES, PARQUET, PARQUET_MISSING, encode_table, has_parquet
from vantage.query.vql import VqlResult, run_vql
from vantage.vql.table import Table
from vantage.web.pages.charts import CHART_LINES_MAX, LINE_COLOURS, Chart, chart_of_points
from vantage.web.problems import NotAcceptable, problem_of
from vantage.web.render import query_string, render

ROWS_SHOWN_MAX: Final = 500
POINTS_MAX: Final = 20_000  # of a chart, lines times times
EXAMPLES: Final = {
    "Slowest endpoints of an hour": """SELECT
    service_name, tags['endpoint'] AS endpoint, quantile(0.95)(value) AS p95, count() AS requests
FROM metrics
WHERE metric_name = 'http.request.duration' AND timestamp >= now() - INTERVAL 1 HOUR
GROUP BY service_name, endpoint
ORDER BY p95 DESC
LIMIT 20""",
    "Requests a minute by service": """SELECT toStartOfMinute(timestamp) AS minute, service_name, count() AS requests
FROM metrics
WHERE metric_name = 'http.request.duration' AND timestamp >= now() - INTERVAL 1 HOUR
GROUP BY minute, service_name
ORDER BY minute""",
    "Failed spans": """SELECT timestamp, service_name, name, duration_ns / 1000000 AS duration_ms, trace_id
FROM spans
WHERE status = 'error' AND timestamp >= now() - INTERVAL 1 HOUR
ORDER BY timestamp DESC
LIMIT 50""",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a query has no result. ``at``: the offset in the text, in characters, None where unknown."""

    text: str
    at: int | None = None


@get("/vql", include_in_schema=False)
async def vql(
    request: Request[Any, Any, Any],
    context: NamedDependency[QueryContext],
    saved_queries: NamedDependency[SavedQueries],
) -> Response[str]:
    return await _page(request, context, saved_queries, request.query_params.get("query", ""))


@post("/vql/saved", include_in_schema=False, opt={"scope": Scope.ADMIN})
async def save(
    request: Request[Any, Any, Any],
    context: NamedDependency[QueryContext],
    saved_queries: NamedDependency[SavedQueries],
) -> Response[Any]:
    """Save the query of the form, and show it again."""
    form = await request.form()
    text, name = str(form.get("query", "")), str(form.get("save_as", ""))
    try:
        await saved_queries.save(name, text, actor=request.state.principal.id)
    except (InputError, StoreUnavailable) as error:
        return await _page(
            request, context, saved_queries, text, save_name=name, save_problem=f"Not saved: {error}", run=False
        )
    return Redirect(f"/vql{query_string({'query': text})}", status_code=303)


@post("/vql/saved/remove", include_in_schema=False, opt={"scope": Scope.ADMIN})
async def remove(request: Request[Any, Any, Any], saved_queries: NamedDependency[SavedQueries]) -> Redirect:
    form = await request.form()
    with contextlib.suppress(NotFoundError):  # somebody else did
        await saved_queries.remove(str(form.get("name", "")), actor=request.state.principal.id)
    return Redirect("/vql", status_code=303)


async def _page(
    request: Request[Any, Any, Any],
    context: QueryContext,
    saved_queries: SavedQueries,
    text: str,
    *,
    save_name: str = "",
    save_problem: str = "",
    run: bool = True,
) -> Response[str]:
    explain = request.query_params.get("explain") == "1"
    before = "EXPLAIN " if explain else ""
    result: VqlResult | None = None
    problem: Problem | None = None
    status = 400 if save_problem else 200
    if text.strip() and run:
        try:
            result = await run_vql(context, before + text, {})
        except QueryError as error:
            problem = Problem(str(error), None if error.at is None else max(0, error.at - len(before)))
        except InputError as error:
            problem = Problem(str(error))
        except VantageError as error:
            problem, status = Problem(str(error)), problem_of(error).status
    chart = await asyncio.to_thread(_chart, result.table) if result is not None and not explain else None
    return await render(
        request,
        "pages/vql.html",
        status=status,
        section="vql",
        text=text,
        explain=explain,
        result=result,
        rows=_rows(result.table) if result is not None else [],
        chart=chart,
        problem=problem,
        examples=EXAMPLES,
        saved=await _saved(saved_queries),
        may_save=(principal := request.state.get("principal")) is not None and principal.allows(Scope.ADMIN),
        save_name=save_name,
        save_problem=save_problem,
        name_length_max=NAME_LENGTH_MAX,
        has_parquet=has_parquet(),
        data_url=f"/vql/data{query_string({'query': text})}",
    )


@get("/vql/data", include_in_schema=False)
async def vql_data(request: Request[Any, Any, Any], context: NamedDependency[QueryContext]) -> Response[Any]:
    """Send the rows of a query as a file."""
    kind = request.query_params.get("format", "csv")
    if kind not in MEDIA_TYPES:
        raise InputError(f"is not one of {', '.join(MEDIA_TYPES)}", field="format")
    if kind == PARQUET and not has_parquet():
        raise NotAcceptable(PARQUET_MISSING)
    result = await run_vql(context, request.query_params.get("query", ""), {})
    body = await asyncio.to_thread(lambda: list(encode_table(result.table, kind)))
    return Stream(
        iter(body),
        media_type=MEDIA_TYPES[kind],
        headers={"Content-Disposition": f'attachment; filename="query.{kind}"'},
    )


async def _saved(saved_queries: SavedQueries) -> Sequence[SavedQuery]:
    """Return the saved queries; none while the metadata database is away, since the page is useful without them."""
    try:
        async with asyncio.timeout(WAIT_S):
            return await saved_queries.all_queries()
    except (StoreUnavailable, TimeoutError):
        return ()


def _rows(table: Table) -> list[tuple[Any, ...]]:
    return [row for _, row in zip(range(ROWS_SHOWN_MAX), table.rows(), strict=False)]


def _chart(table: Table) -> Chart | None:
    """Return a chart of a table that has one column of times and some of numbers: a line for each column, and for each
    combination of its texts. None where there is nothing to draw."""
    types = [column.type for column in table.columns]
    numbers = [index for index, kind in enumerate(types) if kind in ("float", "int")]
    if types.count("time") != 1 or not numbers or "map" in types or not len(table):
        return None
    times = table.data[types.index("time")]
    texts = [table.data[index] for index, kind in enumerate(types) if kind in ("string", "bool")]
    position = {at_ms: number for number, at_ms in enumerate(sorted({at_ms for at_ms in times if at_ms is not None}))}
    if len(position) < 2:
        return None
    lines: dict[str, list[float | None]] = {}
    for row, at_ms in enumerate(times):
        for index in numbers:
            names = [table.columns[index].name] if len(numbers) > 1 or not texts else []
            label = " ".join([*(str(column[row]) for column in texts), *names])
            if label not in lines and (len(lines) >= CHART_LINES_MAX or len(lines) * len(position) >= POINTS_MAX):
                continue
            line = lines.setdefault(label, [None] * len(position))
            if at_ms is not None:
                line[position[at_ms]] = table.data[index][row]
    colours = itertools.cycle(LINE_COLOURS)
    drawn = [(label, colour, values) for (label, values), colour in zip(lines.items(), colours, strict=False)]
    return chart_of_points(list(position), drawn)


handlers = [vql, vql_data, save, remove]
