"""Deployments: versions of services going live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Source = Literal["detected", "reported"]
DETECTED: Final = "detected"  # new in the data
REPORTED: Final = "reported"  # posted by somebody


@dataclass(frozen=True, slots=True)
class Deployment:
    """A version of a service going live, at ``at_ms`` (epoch milliseconds)."""

    service: str
    environment: str
    version: str
    at_ms: int
    source: Source
    description: str = ""
    id: int = 0  # given by the store
