"""logging: the number of records of each level, with the trace of the latest one."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._context import running
from vantage_agent._counters import counters
from vantage_agent._patch import Patches
from vantage_agent._tracer import tracer

METRIC = "log.records"
OWN_LOGGER = "vantage_agent"


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``logging``. Inside a span a record gets ``trace_id`` and ``span_id``, for formatters."""

    def make(call_handlers: Any) -> Any:
        def wrapper(self: Any, record: Any) -> Any:
            if tracer.on:
                try:
                    if record.name != OWN_LOGGER:
                        span = running()
                        if span is not None and not hasattr(record, "trace_id"):
                            record.trace_id, record.span_id = span.trace_id, span.span_id
                        counters.add(METRIC, (("level", record.levelname),), span)
                except Exception:
                    pass
            return call_handlers(self, record)

        return wrapper

    # Called with the records that pass the logger's level and filters.
    patches.wrap(module.Logger, "callHandlers", make)
