"""Starlette: each request, by the path of the route that matched it, with the paths it is mounted under."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

from vantage_agent._asgi import MARK, measured
from vantage_agent._patch import Patches


def patch(patches: Patches, module: ModuleType) -> None:
    """``starlette.applications`` and ``starlette.routing``."""
    if module.__name__ == "starlette.applications":
        wrap_application(patches, module.Starlette)
    else:
        # Its ``handle`` is asked rather than the scope: not every version puts the route there, and middleware may
        # hand on a copy.
        patches.wrap(module.Route, "handle", _make_route)
        patches.wrap(module.Mount, "handle", _make_mount)


def wrap_application(patches: Patches, application: Any) -> None:
    """``application`` is Starlette's class, or one made of it."""
    patches.wrap(application, "__call__", partial(measured, route=""))


def _make_route(handle: Any) -> Any:
    def wrapper(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        try:
            span = scope.get(MARK)
            if span is not None:
                span.route = span.mount + self.path
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
