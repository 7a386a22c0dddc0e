"""FastAPI: as Starlette, of which it is made."""

from __future__ import annotations

from types import ModuleType

from vantage_agent._patch import Patches
from vantage_agent.instrumentation import starlette


def patch(patches: Patches, module: ModuleType) -> None:
    """``fastapi.applications``, ``fastapi.routing`` and ``starlette.routing``."""
    if module.__name__ == "fastapi.applications":
        starlette.wrap_application(patches, module.FastAPI)
    elif module.__name__ == "fastapi.routing":
        starlette.wrap_route(patches, module.APIRoute)
    else:
        starlette.patch(patches, module)
