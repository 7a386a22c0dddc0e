"""``/api/slos``: service level objectives, what is left of their budgets, and how fast these burn."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, delete, get, put
from litestar.di import NamedDependency
from litestar.params import Body, Parameter

from vantage.alerting.changes import AlertChanges
from vantage.alerting.slo import SloState, read_slo
from vantage.core.api_key import Scope
from vantage.core.errors import InputError
from vantage.core.slo import Slo, StoredSlo
from vantage.query.availability import find_slo, list_slos
from vantage.query.context import QueryContext
from vantage.web.api.params import examples, problems

ADMIN: Final = {"scope": Scope.ADMIN}
EXAMPLE: Final = {"name": "checkout answers", "kind": "errors", "service": "checkout", "objective": 99.9, "days": 30}
Name = Annotated[str, Parameter(description="The SLO's name.", max_length=100, examples=examples("checkout answers"))]


class SloIn(msgspec.Struct):
    """An SLO, and the `revision` that it replaces: 0 for none, null for any."""

    slo: Slo
    revision: int | None = None


class StoredSloOut(msgspec.Struct):
    """An SLO as stored: `author` changed it last, at `timestamp` (epoch milliseconds)."""

    slo: Slo
    revision: int
    author: str
    timestamp: int


class SlosOut(msgspec.Struct):
    slos: list[StoredSloOut]


class BurnOut(msgspec.Struct):
    """Burn rates over a long and a short window (ms), null without events; a rule of `speed` fires when both are at
    `limit` or above."""

    limit: float
    long_window: int
    short_window: int
    speed: str
    long: float | None
    short: float | None
    fires: bool


class SloStateOut(StoredSloOut):
    """With the share of `good` events (null: there are none), their number, and the share of the budget that is left:
    negative when the objective is missed."""

    good: float | None
    events: float
    bad: float
    budget_left: float
    burn_rates: list[BurnOut]


SavedBody = Annotated[SloIn, Body(examples=examples({"slo": EXAMPLE, "revision": None}))]


@get("/api/slos", summary="SLOs", responses=problems(), tags=["slos"])
async def list_all(context: NamedDependency[QueryContext]) -> SlosOut:
    """List all SLOs by name."""
    return SlosOut([_out(stored) for stored in await list_slos(context)])


@get("/api/slos/{name:str}", summary="An SLO", responses=problems(404), tags=["slos"])
async def show_slo(context: NamedDependency[QueryContext], name: Name) -> SloStateOut:
    """Return an SLO with what is left of its budget, and how fast it burns."""
    stored = await find_slo(context, name)
    state = await read_slo(context, stored.slo, at_ms=context.present().now_ms)
    return SloStateOut(
        stored.slo,
        stored.revision,
        stored.author,
        stored.at_ms,
        state.good,
        state.total,
        state.bad,
        state.budget_left,
        _burns(state),
    )


@put("/api/slos/{name:str}", summary="Save an SLO", responses=problems(409), tags=["slos"], opt=ADMIN)
async def save_slo(
    request: Request[Any, Any, Any], alerting: NamedDependency[AlertChanges], name: Name, data: SavedBody
) -> StoredSloOut:
    """Store an SLO under its name, in place of the one that has it."""
    if data.slo.name.strip() != name.strip():
        raise InputError("is not that of the address", field="slo.name")
    actor = request.state.principal.id
    return _out(await alerting.availability.save_slo(data.slo, actor=actor, revision=data.revision))


@delete("/api/slos/{name:str}", summary="Remove an SLO", responses=problems(404), tags=["slos"], opt=ADMIN)
async def remove_slo(request: Request[Any, Any, Any], alerting: NamedDependency[AlertChanges], name: Name) -> None:
    """Remove an SLO. Rules that name it cannot be evaluated any more."""
    await alerting.availability.remove_slo(name, actor=request.state.principal.id)


def _out(stored: StoredSlo) -> StoredSloOut:
    return StoredSloOut(stored.slo, stored.revision, stored.author, stored.at_ms)


def _burns(state: SloState) -> list[BurnOut]:
    return [
        BurnOut(burn.limit, burn.long_ms, burn.short_ms, burn.speed, burn.long, burn.short, burn.holds)
        for burn in state.burns
    ]


handlers = [list_all, show_slo, save_slo, remove_slo]
