"""FastAPI: as Starlette, of which it is made."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._asgi import MARK
from vantage_agent._patch import Patches
from vantage_agent.instrumentation import starlette


def patch(patches: Patches, module: ModuleType) -> None:
    """``fastapi.applications``, ``fastapi.routing`` and ``starlette.routing``."""
    if module.__name__ == "fastapi.applications":
        starlette.wrap_application(patches, module.FastAPI)
    elif module.__name__ == "fastapi.routing":
        patches.wrap(module.APIRoute, "handle", _make_route)
    else:
        starlette.patch(patches, module)


def _make_route(handle: Any) -> Any:
    """A route of an included router is handled here, with the prefixes of the routers beside it in the scope; any
    other by Starlette's ``handle``."""

    def wrapper(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        try:
            beside = scope.get("fastapi")
            if beside:
                effective, span = beside.get("effective_route_context"), scope.get(MARK)
                if effective is not None and span is not None and effective.original_route is self:
                    span.route = span.mount + effective.path
        except Exception:
            pass
        return handle(self, scope, receive, send)

    return wrapper
