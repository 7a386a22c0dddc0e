"""Starlette: each request, by the path of the route that matched, with the paths it is mounted under."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

from vantage_agent._asgi import measured
from vantage_agent._context import running
from vantage_agent._patch import Patches
from vantage_agent._request import MARK, note_cause, running_request
from vantage_agent._stream import Stream


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``starlette.applications``, ``routing``, ``responses`` or ``_exception_handler``."""
    if module.__name__ == "starlette.applications":
        wrap_application(patches, module.Starlette)
    elif module.__name__ == "starlette.responses":
        wrap_threads(patches, module)
    elif module.__name__ == "starlette._exception_handler":
        patches.wrap(module, "_lookup_exception_handler", _make_lookup)
    else:
        # Wrap ``handle`` rather than read the scope: not every version stores the route there, and middleware may copy
        # the scope.
        patches.wrap(module.Route, "handle", _make_route)
        patches.wrap(module.Mount, "handle", _make_mount)


def wrap_application(patches: Patches, application: Any) -> None:
    """Patch ``application``, Starlette's class or a subclass."""
    patches.wrap(application, "__call__", partial(measured, route=""))


def wrap_threads(patches: Patches, module: ModuleType) -> None:
    """Patch ``iterate_in_threadpool`` as ``module`` knows it: each piece of a stream runs in a copy of the context."""
    patches.wrap(module, "iterate_in_threadpool", _make_iterate)


def _make_iterate(iterate: Any) -> Any:
    def wrapper(iterator: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            span = running()
            if span is not None:
                iterator = Stream(iterator, span)
        except Exception:
            pass
        return iterate(iterator, *args, **kwargs)

    return wrapper


def _make_lookup(lookup: Any) -> Any:
    """Wrap the search for a handler, which every exception passes but those that stand for a status."""

    def wrapper(handlers: Any, error: Any) -> Any:
        try:
            note_cause(running_request(), error)
        except Exception:
            pass
        return lookup(handlers, error)

    return wrapper


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
