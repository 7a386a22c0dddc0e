"""Deployments: read them, and report one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from vantage.core.deployment import REPORTED, Deployment
from vantage.core.errors import StoreUnavailable
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.storage.metadata.ports import MetadataStore

LATEST_MAX = 100
WAIT_S: Final = 1.0


async def list_deployments(
    context: QueryContext, *, service: str = "", time_range: TimeRange | None = None, limit: int = LATEST_MAX
) -> Sequence[Deployment]:
    """Return up to ``limit`` deployments, the latest first."""
    return await context.metadata.deployments(service=service, time_range=time_range, limit=limit)


async def deployments_if_known(
    context: QueryContext, *, service: str = "", time_range: TimeRange | None = None, limit: int = LATEST_MAX
) -> Sequence[Deployment]:
    """Do as ``list_deployments`` for an answer that is useful without them: return none while the metadata database
    is unavailable, or takes longer than WAIT_S."""
    try:
        async with asyncio.timeout(WAIT_S):
            return await list_deployments(context, service=service, time_range=time_range, limit=limit)
    except (StoreUnavailable, TimeoutError):
        return ()


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
