"""Executors: work runs in a thread with the span of its submitter, as asyncio's tasks do by themselves."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._context import current, running, running_around
from vantage_agent._patch import Patches
from vantage_agent._span import Span
from vantage_agent._tracer import tracer


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``concurrent.futures.thread``."""

    def make(submit: Any) -> Any:
        def wrapper(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            span = running() if tracer.on else None
            if span is None:
                return submit(self, fn, *args, **kwargs)
            return submit(self, _run, span, fn, args, kwargs)

        return wrapper

    patches.wrap(module.ThreadPoolExecutor, "submit", make)


def _run(span: Span, fn: Any, args: Any, kwargs: Any) -> Any:
    """Call ``fn`` with the span alone, if it still runs: the application's own context variables stay unchanged."""
    before = current.get()
    current.set(running_around(span))
    try:
        return fn(*args, **kwargs)
    finally:
        current.set(running_around(before))
