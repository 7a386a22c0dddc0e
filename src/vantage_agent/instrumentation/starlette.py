"""Starlette: each request, by the path of the route that matched it, with the paths it is mounted under."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._asgi import call_asgi
from vantage_agent._patch import Patches
from vantage_agent._tracer import tracer


def patch(patches: Patches, module: ModuleType) -> None:
    """``starlette.applications``."""
    wrap_application(patches, module.Starlette)


def wrap_application(patches: Patches, application: Any) -> None:
    """``application`` is Starlette's class, or one made of it."""

    def make(call: Any) -> Any:
        async def wrapper(self: Any, scope: Any, receive: Any, send: Any) -> Any:
            if not tracer.on:
                return await call(self, scope, receive, send)
            return await call_asgi(call.__get__(self), scope, receive, send, _route)

        return wrapper

    patches.wrap(application, "__call__", make)


def _route(scope: Any) -> str:
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else ""
