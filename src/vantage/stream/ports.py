"""What ingest hands batches to."""

from __future__ import annotations

from typing import Protocol

from vantage.core.batch import Batch


class Sink(Protocol):
    """Takes responsibility for batches."""

    async def publish(self, batch: Batch) -> None:
        """When it returns, the batch is durable: committed to the store's journal, or acknowledged by the broker.

        May be repeated with the same batch id. Raises BusyError when the queue is full and UnavailableError when it
        cannot be made durable; in both cases nothing of the batch is kept.
        """
        ...
