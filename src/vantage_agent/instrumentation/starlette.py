"""Starlette: each request, by the path of the route that matched, with the paths it is mounted under."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

from vantage_agent._asgi import MARK, measured
from vantage_agent._patch import Patches


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``starlette.applications`` or ``starlette.routing``."""
    if module.__name__ == "starlette.applications":
        wrap_application(patches, module.Starlette)
    else:
        # Wrap ``handle`` rather than read the scope: not every version stores the route there, and middleware may copy
        # the scope.
        patches.wrap(module.Route, "handle", _make_route)
        patches.wrap(module.Mount, "handle", _make_mount)


def wrap_application(patches: Patches, application: Any) -> None:
    """Patch ``application``, Starlette's class or a subclass."""
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
                # An application with routes of its own sets the route later.
                span.route = "" if self.routes else span.mount + "/{path}"
        except Exception:
            pass
        return handle(self, scope, receive, send)

    return wrapper
