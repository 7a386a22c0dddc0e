"""``DELETE /api/data``: delete a service or an environment."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, delete
from litestar.di import NamedDependency
from litestar.params import Parameter

from vantage.core.api_key import Scope
from vantage.query.deletion import Deletion
from vantage.web.api.params import problems


class DeletedOut(msgspec.Struct):
    """How much was deleted. ``bytes`` is what it took in memory or on disk, estimated."""

    samples: int
    spans: int
    series: int
    deployments: int
    bytes: int


@delete(
    "/api/data",
    summary="Delete a service or an environment",
    responses=problems(),
    status_code=200,
    tags=["operations"],
    opt={"scope": Scope.ADMIN},
)
async def delete_data(
    request: Request[Any, Any, Any],
    deletion: NamedDependency[Deletion],
    service: Annotated[str, Parameter(description="The service to delete.", max_length=255)] = "",
    environment: Annotated[str, Parameter(description="The environment to delete.", max_length=255)] = "",
) -> DeletedOut:
    """Delete all samples, spans, series and deployments of a service, an environment, or of both together."""
    deleted = await deletion.delete(service, environment, actor=request.state.principal.id)
    return DeletedOut(deleted.samples, deleted.spans, deleted.series, deleted.deployments, deleted.nbytes)


handlers = [delete_data]
