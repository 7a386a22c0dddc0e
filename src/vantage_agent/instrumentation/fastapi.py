"""FastAPI: as Starlette, of which it is made."""

from __future__ import annotations

from types import ModuleType

from vantage_agent._patch import Patches
from vantage_agent.instrumentation.starlette import wrap_application


def patch(patches: Patches, module: ModuleType) -> None:
    """``fastapi.applications``."""
    wrap_application(patches, module.FastAPI)
