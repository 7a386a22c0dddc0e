"""``/api/promotion``: move the data of this server to ClickHouse while it serves."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from vantage.core.api_key import Scope
from vantage.query.promotion import Promotion
from vantage.web.api.params import problems


class PromotionIn(msgspec.Struct):
    """``to`` is the URL of the server; empty continues the promotion that is unfinished. ``leave_rollups``: although
    rollups whose samples have expired by size stay in the data folder."""

    to: Annotated[str, msgspec.Meta(max_length=2000, examples=["clickhouse://vantage@clickhouse:9000/vantage"])]
    leave_rollups: bool = False


class PromotionOut(msgspec.Struct):
    """``phase`` is ``none``, ``copying``, ``following`` (what came meanwhile), ``switching``, ``switched`` or
    ``failed``; ``to`` is the server and database, ``hours`` of ``hours_total`` are copied and compared, ``problem`` is
    why it waits or failed. ``serving``: this process reads and writes there."""

    phase: str
    to: str
    hours: int
    hours_total: int
    problem: str
    serving: bool


@get(
    "/api/promotion",
    summary="How far a promotion is",
    responses=problems(),
    tags=["operations"],
    opt={"scope": Scope.ADMIN},
)
async def show_promotion(promotion: NamedDependency[Promotion]) -> PromotionOut:
    """Return how far the promotion to a ClickHouse server is."""
    return _out(promotion)


@post(
    "/api/promotion",
    summary="Promote to a ClickHouse server",
    responses=problems(409),
    status_code=200,
    tags=["operations"],
    opt={"scope": Scope.ADMIN},
)
async def start_promotion(
    request: Request[Any, Any, Any], promotion: NamedDependency[Promotion], data: JSONBody[PromotionIn]
) -> PromotionOut:
    """Copy the embedded store to a ClickHouse server, or continue that, then switch. Returns once the copy begins."""
    await promotion.start(data.to, leave_rollups=data.leave_rollups, actor=request.state.principal.id)
    return _out(promotion)


@delete(
    "/api/promotion",
    summary="End a promotion",
    responses=problems(409),
    status_code=200,
    tags=["operations"],
    opt={"scope": Scope.ADMIN},
)
async def abandon_promotion(request: Request[Any, Any, Any], promotion: NamedDependency[Promotion]) -> PromotionOut:
    """End a promotion that has not switched yet, and delete what was copied."""
    await promotion.abandon(actor=request.state.principal.id)
    return _out(promotion)


def _out(promotion: Promotion) -> PromotionOut:
    progress = promotion.progress()
    return PromotionOut(
        progress.phase, progress.to, progress.hours, progress.hours_total, progress.problem, serving=promotion.serving
    )


handlers = [show_promotion, start_promotion, abandon_promotion]
