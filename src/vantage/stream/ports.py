"""The port to which ingest publishes batches."""

from __future__ import annotations

from typing import Protocol

from vantage.core.batch import Batch


class Sink(Protocol):
    """Takes responsibility for batches."""

    async def publish(self, batch: Batch) -> None:
        """Make the batch durable: committed to the store's journal, or acknowledged by the broker, when it returns.

        May be repeated with the same batch id. Raises BusyError when the queue is full and UnavailableError when the
        batch cannot be made durable; in both cases nothing of it is stored.
        """
        ...
