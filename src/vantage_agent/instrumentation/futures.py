"""Threads of executors run with the span of whoever submitted the work, as asyncio's tasks do by themselves."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._context import current
from vantage_agent._patch import Patches
from vantage_agent._span import Span
from vantage_agent._tracer import tracer


def patch(patches: Patches, module: ModuleType) -> None:
    """``concurrent.futures.thread``."""

    def make(submit: Any) -> Any:
        def wrapper(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            span = current.get() if tracer.on else None
            if span is None:
                return submit(self, fn, *args, **kwargs)
            return submit(self, _run, span, fn, args, kwargs)

        return wrapper

    patches.wrap(module.ThreadPoolExecutor, "submit", make)


def _run(span: Span, fn: Any, args: Any, kwargs: Any) -> Any:
    """The span alone goes along: variables of the application's own are where it put them."""
    token = current.set(span)
    try:
        return fn(*args, **kwargs)
    finally:
        current.reset(token)
