"""Starlette: each request, by the path of the route that matched it, with the paths it is mounted under."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._asgi import MARK, call_asgi
from vantage_agent._patch import Patches
from vantage_agent._tracer import tracer


def patch(patches: Patches, module: ModuleType) -> None:
    """``starlette.applications`` and ``starlette.routing``."""
    if module.__name__ == "starlette.applications":
        wrap_application(patches, module.Starlette)
    else:
        wrap_route(patches, module.Route)
        patches.wrap(module.Mount, "handle", _make_mount)


def wrap_application(patches: Patches, application: Any) -> None:
    """``application`` is Starlette's class, or one made of it."""
    patches.wrap(application, "__call__", _make_application)


def wrap_route(patches: Patches, route: Any) -> None:
    """``route`` is Starlette's class, or one made of it. Its ``handle`` is asked rather than the scope: not every
    version puts the route there, and middleware may hand on a copy."""
    patches.wrap(route, "handle", _make_route)


def _make_application(call: Any) -> Any:
    async def wrapper(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        if not tracer.on:
            return await call(self, scope, receive, send)
        return await call_asgi(call.__get__(self), scope, receive, send, _route)

    return wrapper


def _route(scope: Any) -> str:
    return scope[MARK].route or ""


def _make_route(handle: Any) -> Any:
    def wrapper(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        try:
            span = scope.get(MARK)
            if span is not None:
                span.route = span.mount + _path(self, scope)
        except Exception:
            pass
        return handle(self, scope, receive, send)

    return wrapper


def _make_mount(handle: Any) -> Any:
    def wrapper(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        try:
            span = scope.get(MARK)
            if span is not None:
                span.mount += self.path
                # What has routes of its own tells later which one it is.
                span.route = "" if self.routes else span.mount + "/{path}"
        except Exception:
            pass
        return handle(self, scope, receive, send)

    return wrapper


def _path(route: Any, scope: Any) -> str:
    """FastAPI handles a route of an included router with the prefixes of the routers beside it."""
    beside = scope.get("fastapi")
    if beside:
        effective = beside.get("effective_route_context")
        if effective is not None and effective.original_route is route:
            route = effective
    path: str = route.path
    return path
