"""The services of a block of spans, with what finds their failed and their slowest spans: ``span_block.services``.

JSON: an object with ``[failed spans, longest duration in ns]`` for each service. Blocks of earlier versions have an
array of names instead, until their parts are merged.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from vantage.core.span import SpanStatus
from vantage.core.span_table import SpanTable


class ServiceFigures(NamedTuple):
    """How many spans of a service failed, and the longest duration of all its spans, or upper bounds of both."""

    failed: int
    longest_ns: int


def services_of_block(table: SpanTable) -> str:
    """Return the text for the spans of a block."""
    column = table.service_name.compacted()
    size = len(column.values)
    has_failed = table.status.codes == table.status.code_of(SpanStatus.ERROR.value)
    failed = np.bincount(column.codes[has_failed], minlength=size)
    longest_ns = np.zeros(size, np.int64)
    np.maximum.at(longest_ns, column.codes, table.duration_ns)
    figures = zip(column.values, failed.tolist(), longest_ns.tolist(), strict=True)
    return json.dumps({name: [count, longest] for name, count, longest in sorted(figures)}, separators=(",", ":"))


def figures_of_service(text: str, service: str, longest_ns: int) -> ServiceFigures | None:
    """Return the figures of one service, None where it has no spans in the block; ``longest_ns`` is the longest
    duration of all spans of the block."""
    services: Any = json.loads(text)
    if service not in services:
        return None
    return ServiceFigures(*services[service]) if isinstance(services, dict) else ServiceFigures(1, longest_ns)


def check_services(text: str, table: SpanTable) -> bool:
    """Return whether a block's text is that of its spans, in the form of today or the earlier one."""
    expected = services_of_block(table)
    services: Any = json.loads(text)
    names: Any = json.loads(expected)
    return bool(services == names if isinstance(services, dict) else sorted(services) == sorted(names))
