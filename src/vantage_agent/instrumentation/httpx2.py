"""httpx2: as httpx, whose names it has kept."""

from __future__ import annotations

from vantage_agent.instrumentation.httpx import patch

__all__ = ["patch"]
