"""``/api/queries``: saved queries."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, Parameter

from vantage.core.api_key import Scope
from vantage.core.saved_query import SavedQuery
from vantage.query.saved_queries import SavedQueries
from vantage.web.api.params import examples, problems

Name = Annotated[str, Parameter(description="The query's name.", examples=examples("requests"))]


class SavedQueryOut(msgspec.Struct):
    """``author`` changed it last, at ``timestamp`` (epoch milliseconds)."""

    name: str
    query: str
    author: str
    timestamp: int


class SavedQueriesOut(msgspec.Struct):
    queries: list[SavedQueryOut]


class SavedQueryIn(msgspec.Struct):
    query: Annotated[str, msgspec.Meta(examples=["SELECT count() AS n FROM metrics"])]


@get("/api/queries", summary="Saved queries", responses=problems(), tags=["queries"])
async def list_saved_queries(saved_queries: NamedDependency[SavedQueries]) -> SavedQueriesOut:
    """List the queries that have names, by name."""
    return SavedQueriesOut([_out(query) for query in await saved_queries.all_queries()])


@put(
    "/api/queries/{name:str}",
    summary="Save a query",
    responses=problems(409),
    tags=["queries"],
    opt={"scope": Scope.ADMIN},
)
async def save_query(
    request: Request[Any, Any, Any],
    saved_queries: NamedDependency[SavedQueries],
    name: Name,
    data: JSONBody[SavedQueryIn],
) -> SavedQueryOut:
    """Save a query under a name, in place of the one that has it."""
    return _out(await saved_queries.save(name, data.query, actor=request.state.principal.id))


@delete(
    "/api/queries/{name:str}",
    summary="Remove a saved query",
    responses=problems(404),
    tags=["queries"],
    opt={"scope": Scope.ADMIN},
)
async def remove_query(
    request: Request[Any, Any, Any], saved_queries: NamedDependency[SavedQueries], name: Name
) -> None:
    """Remove a query by its name."""
    await saved_queries.remove(name, actor=request.state.principal.id)


def _out(query: SavedQuery) -> SavedQueryOut:
    return SavedQueryOut(query.name, query.text, query.author, query.at_ms)


handlers = [list_saved_queries, save_query, remove_query]
