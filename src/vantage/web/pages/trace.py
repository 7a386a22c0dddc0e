"""``/traces/{trace_id}``: one trace as a waterfall."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from vantage.core.errors import NotFoundError
from vantage.core.sample import id_problem
from vantage.query.context import QueryContext
from vantage.query.traces import trace_tree
from vantage.web.pages.waterfall import waterfall
from vantage.web.render import render

SAMPLES_MAX: Final = 200


@get("/traces/{trace_id:str}", include_in_schema=False)
async def trace(
    request: Request[Any, Any, Any], context: NamedDependency[QueryContext], trace_id: FromPath[str]
) -> Response[str]:
    if id_problem(trace_id):
        raise NotFoundError(f"there is no trace {trace_id[:64]!r}", field="trace_id")
    tree = await trace_tree(context, trace_id)
    drawn = await asyncio.to_thread(waterfall, tree)
    tops = [node.span for node in sorted(tree.roots, key=lambda node: node.orphan)]  # roots before orphans
    return await render(
        request,
        "pages/trace.html",
        section="traces",
        tree=tree,
        drawn=drawn,
        root=tops[0] if tops else None,
        samples=tree.samples[:SAMPLES_MAX],
        samples_omitted=max(0, len(tree.samples) - SAMPLES_MAX),
    )


handlers = [trace]
