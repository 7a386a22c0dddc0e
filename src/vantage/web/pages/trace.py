"""``/traces/{trace_id}``: one trace as a waterfall."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Literal

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from vantage.core.errors import NotFoundError
from vantage.core.sample import id_problem
from vantage.query.clocks import clock_skews, shifted
from vantage.query.context import QueryContext
from vantage.query.traces import trace_tree
from vantage.web.pages.waterfall import waterfall
from vantage.web.render import render

SAMPLES_MAX: Final = 200


@get("/traces/{trace_id:str}", include_in_schema=False)
async def trace(
    request: Request[Any, Any, Any],
    context: NamedDependency[QueryContext],
    trace_id: FromPath[str],
    clocks: FromQuery[Literal["", "shifted"]] = "",
) -> Response[str]:
    if id_problem(trace_id):
        raise NotFoundError(f"there is no trace {trace_id[:64]!r}", field="trace_id")
    tree = await trace_tree(context, trace_id)
    skews = await asyncio.to_thread(clock_skews, tree)
    if clocks == "shifted":
        tree = await asyncio.to_thread(shifted, tree, skews)
    drawn = await asyncio.to_thread(waterfall, tree, {} if clocks == "shifted" else skews)
    tops = [node.span for node in sorted(tree.roots, key=lambda node: node.orphan)]  # roots before orphans
    return await render(
        request,
        "pages/trace.html",
        section="traces",
        tree=tree,
        drawn=drawn,
        skewed=bool(skews),
        is_shifted=clocks == "shifted",
        root=tops[0] if tops else None,
        samples=tree.samples[:SAMPLES_MAX],
        samples_omitted=max(0, len(tree.samples) - SAMPLES_MAX),
    )


handlers = [trace]
