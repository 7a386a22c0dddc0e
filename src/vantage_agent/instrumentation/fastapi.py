"""FastAPI: like Starlette, on which it is based."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._patch import Patches
from vantage_agent._request import MARK
from vantage_agent.instrumentation import starlette


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``fastapi.applications``, ``fastapi.routing`` or one of Starlette's."""
    if module.__name__ == "fastapi.applications":
        starlette.wrap_application(patches, module.FastAPI)
    elif module.__name__ == "fastapi.routing":
        patches.wrap(module.APIRoute, "handle", _make_route)
        starlette.wrap_threads(patches, module)
    else:
        starlette.patch(patches, module)


def _make_route(handle: Any) -> Any:
    """Wrap the ``handle`` of routes in included routers, whose prefixes are in the scope; Starlette's ``handle`` has
    the others."""

    def wrapper(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        try:
            included = scope.get("fastapi")
            if included:
                effective, span = included.get("effective_route_context"), scope.get(MARK)
                if effective is not None and span is not None and effective.original_route is self:
                    span.route = span.mount + effective.path
        except Exception:
            pass
        return handle(self, scope, receive, send)

    return wrapper
