"""Export: everything that is stored, batch by batch."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from vantage.core.batch import Batch
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.storage.ports import Selector


def export_batches(context: QueryContext, selector: Selector, time_range: TimeRange) -> AsyncGenerator[Batch, None]:
    """Yield samples and spans of a range in no particular order, '' in the selector meaning any.

    Close the generator when you stop early. Raises BusyError and StoreUnavailable.
    """
    return context.store.export(selector, time_range)
