"""Writing through a query context, which itself can only read: tests fill the stores that it was built with."""

from __future__ import annotations

from typing import cast

from vantage.core.batch import Batch
from vantage.core.deployment import Deployment
from vantage.query.context import QueryContext
from vantage.storage.metadata.ports import MetadataStore
from vantage.storage.ports import TelemetryStore


async def write_batch(context: QueryContext, batch: Batch) -> bool:
    """Write to the context's store; returns whether the batch was new."""
    return await cast(TelemetryStore, context.store).write(batch)


async def record_deployment(context: QueryContext, deployment: Deployment, *, actor: str = "system") -> None:
    """Record a deployment in the context's metadata store."""
    await cast(MetadataStore, context.metadata).record_deployment(deployment, actor=actor)
