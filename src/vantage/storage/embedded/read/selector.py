"""Which spans a deletion or an export selects."""

from __future__ import annotations

import numpy as np

from vantage.core.arrays import Mask
from vantage.core.span_table import SpanTable


def selected_rows(table: SpanTable, service: str, environment: str) -> Mask:
    """Return which spans belong to a service, an environment or both ('' means any)."""
    selected = np.ones(len(table), np.bool_)
    for column, text in ((table.service_name, service), (table.environment, environment)):
        if text:
            selected &= column.codes == column.code_of(text)
    return selected
