"""``DELETE /api/data``: forgetting a service or an environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from litestar import Request, delete
from litestar.di import NamedDependency
from litestar.params import Parameter

from vantage.core.api_key import Scope
from vantage.core.audit import AuditEntry
from vantage.core.errors import InputError
from vantage.query.context import QueryContext
from vantage.storage.ports import Selector
from vantage.web.api.params import problems


class DeletedOut(msgspec.Struct):
    """What is gone. ``bytes`` is what it occupied in memory, estimated."""

    samples: int
    spans: int
    series: int
    deployments: int
    bytes: int


class OnDeleted(msgspec.Struct):
    """What else must hear that data was forgotten."""

    notify: Callable[[], None]


@delete(
    "/api/data",
    summary="Forget a service or an environment",
    responses=problems(),
    status_code=200,
    tags=["operations"],
    opt={"scope": Scope.ADMIN},
)
async def delete_data(
    request: Request[Any, Any, Any],
    reads: NamedDependency[QueryContext],
    after_forget: NamedDependency[OnDeleted],
    service: Annotated[str, Parameter(description="The service to forget.", max_length=255)] = "",
    environment: Annotated[str, Parameter(description="The environment to forget.", max_length=255)] = "",
) -> DeletedOut:
    """Remove all samples, spans, series and deployments of a service, an environment, or of both together."""
    if not service and not environment:
        raise InputError("is missing: name a service, an environment, or both", field="service")
    selector = Selector(service, environment)
    try:
        gone = await reads.store.delete(selector)
    finally:  # also when it is not known what is gone
        reads.cache.clear()
    actor = request.state.principal.id
    deployments = await reads.metadata.remove_deployments(selector, actor=actor)
    after_forget.notify()
    detail = {"service": service, "environment": environment, "samples": str(gone.samples), "spans": str(gone.spans)}
    await reads.metadata.record_audit(
        AuditEntry(reads.clock.now_ms(), actor, "data.forget", service or environment, detail)
    )
    return DeletedOut(gone.samples, gone.spans, gone.series, deployments, gone.nbytes)


handlers = [delete_data]
