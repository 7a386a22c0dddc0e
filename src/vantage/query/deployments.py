"""Deployments: read them, and report one."""

from __future__ import annotations

from collections.abc import Sequence

from vantage.core.deployment import REPORTED, Deployment
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.storage.ports import MetadataStore

LATEST_MAX = 100


async def list_deployments(
    context: QueryContext, *, service: str = "", time_range: TimeRange | None = None, limit: int = LATEST_MAX
) -> Sequence[Deployment]:
    """Return up to ``limit`` deployments, the latest first."""
    return await context.metadata.deployments(service=service, time_range=time_range, limit=limit)


class DeploymentReports:
    """Takes the deployments that people and pipelines report."""

    def __init__(self, metadata: MetadataStore) -> None:
        self._metadata = metadata

    async def report(
        self, service: str, environment: str, version: str, at_ms: int, description: str, *, actor: str
    ) -> Deployment:
        """Record and return a deployment. Durable when it returns."""
        deployment = Deployment(service, environment, version, at_ms, REPORTED, description)
        await self._metadata.record_deployment(deployment, actor=actor)
        return deployment
