"""``/api/deployments``."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, Parameter

from vantage.core.api_key import Scope
from vantage.core.deployment import REPORTED, Deployment
from vantage.core.errors import InputError
from vantage.core.sample import metric_name_problem, service_name_problem, text_problem, time_problem
from vantage.query.context import QueryContext
from vantage.query.deployments import DeploymentReports
from vantage.query.deployments import list_deployments as read_deployments
from vantage.web.api.params import End, Start, problems, time_range


class DeploymentOut(msgspec.Struct):
    """A version of a service going live. ``source`` is ``detected`` (new in the data) or ``reported``."""

    service: str
    environment: str
    version: str
    timestamp: int
    source: str
    description: str


class DeploymentsOut(msgspec.Struct):
    deployments: list[DeploymentOut]


class DeploymentIn(msgspec.Struct):
    """``timestamp`` (epoch milliseconds) is now when absent; ``source`` can only be ``reported``."""

    service: Annotated[str, msgspec.Meta(examples=["my-api"])]
    version: Annotated[str, msgspec.Meta(examples=["2.5.0"])]
    environment: Annotated[str, msgspec.Meta(examples=["production"])] = "default"
    timestamp: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None
    description: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    source: str = REPORTED


_EARLIER_SOURCES: Final = {"told": "reported", "seen": "detected"}


@get("/api/deployments", summary="Deployments", responses=problems(), tags=["deployments"])
async def list_deployments(
    context: NamedDependency[QueryContext],
    service: Annotated[str, Parameter(description="Only of this service.", max_length=255)] = "",
    start: Start = "now-30d",
    end: End = "now",
    limit: Annotated[int, Parameter(description="Maximum number of deployments.", ge=1, le=1000)] = 100,
) -> DeploymentsOut:
    """Return the latest deployments, detected in the data or reported."""
    in_range = time_range(start, end, now_ms=context.present().now_ms)
    latest = await read_deployments(context, service=service, time_range=in_range, limit=limit)
    return DeploymentsOut([_out(deployment) for deployment in latest])


@post(
    "/api/deployments",
    summary="Report a deployment",
    responses=problems(),
    tags=["deployments"],
    opt={"scope": Scope.INGEST},
)
async def report_deployment(
    request: Request[Any, Any, Any],
    context: NamedDependency[QueryContext],
    deployment_reports: NamedDependency[DeploymentReports],
    data: JSONBody[DeploymentIn],
) -> DeploymentOut:
    """Record that a version goes live, from a delivery pipeline for example."""
    now_ms = context.clock.now_ms()
    at_ms = now_ms if data.timestamp is None else data.timestamp
    for field, reason in (
        ("service", service_name_problem(data.service)),
        ("version", text_problem(data.version, 255) if data.version else "is empty"),
        ("environment", metric_name_problem(data.environment)),
        ("timestamp", time_problem(at_ms, now_ms=now_ms)),
        ("description", text_problem(data.description, 1000)),
        ("source", _source_problem(data.source)),
    ):
        if reason:
            raise InputError(reason, field=field)
    deployment = await deployment_reports.report(
        data.service, data.environment, data.version, at_ms, data.description, actor=request.state.principal.id
    )
    return _out(deployment)


def _source_problem(source: str) -> str:
    if source == REPORTED:
        return ""
    if (present := _EARLIER_SOURCES.get(source)) is not None:
        return f"{source!r} is now called {present!r}"
    return f"must be {REPORTED!r} or absent"


def _out(deployment: Deployment) -> DeploymentOut:
    return DeploymentOut(
        deployment.service,
        deployment.environment,
        deployment.version,
        deployment.at_ms,
        deployment.source,
        deployment.description,
    )


handlers = [list_deployments, report_deployment]
