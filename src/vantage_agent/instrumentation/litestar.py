"""Litestar: each request, by the template of its path."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._asgi import call_asgi
from vantage_agent._patch import Patches
from vantage_agent._tracer import tracer


def patch(patches: Patches, module: ModuleType) -> None:
    """``litestar.app``."""

    def make(call: Any) -> Any:
        async def wrapper(self: Any, scope: Any, receive: Any, send: Any) -> Any:
            if not tracer.on:
                return await call(self, scope, receive, send)
            return await call_asgi(call.__get__(self), scope, receive, send, _template)

        return wrapper

    patches.wrap(module.Litestar, "__call__", make)


def _template(scope: Any) -> str:
    return scope.get("path_template") or ""
