"""Threads of executors run with the span of whoever submitted the work, as asyncio's tasks do by themselves."""

from __future__ import annotations

from contextvars import copy_context
from types import ModuleType
from typing import Any

from vantage_agent._context import current
from vantage_agent._patch import Patches


def patch(patches: Patches, module: ModuleType) -> None:
    """``concurrent.futures.thread``."""

    def make(submit: Any) -> Any:
        def wrapper(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            if current.get() is None:
                return submit(self, fn, *args, **kwargs)
            return submit(self, copy_context().run, fn, *args, **kwargs)

        return wrapper

    patches.wrap(module.ThreadPoolExecutor, "submit", make)
