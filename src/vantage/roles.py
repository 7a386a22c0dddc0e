"""Roles as data: the route groups and background loops of each, and what it needs. Only ``parts`` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Routes(StrEnum):
    """Groups of routes."""

    INGEST = "ingest"
    API = "api"
    PAGES = "pages"
    OPERATIONS = "operations"


class Loop(StrEnum):
    """Background loops."""

    RETENTION = "retention"
    SELF_TELEMETRY = "self telemetry"
    KEYS = "keys"
    DEPLOYMENTS = "deployments"
    LIVE = "live"


class Need(StrEnum):
    """Components that a role requires."""

    BROKER = "a Kafka-compatible broker"
    SHARED_STORE = "ClickHouse as its store"


@dataclass(frozen=True, slots=True)
class Role:
    routes: frozenset[Routes]
    loops: frozenset[Loop]
    needs: frozenset[Need] = frozenset()


ROLES: Final[Mapping[str, Role]] = {
    "all": Role(frozenset(Routes), frozenset(Loop)),
    "ingest": Role(
        frozenset({Routes.INGEST, Routes.OPERATIONS}),
        frozenset({Loop.SELF_TELEMETRY, Loop.KEYS}),
        frozenset({Need.BROKER}),
    ),
    "worker": Role(
        frozenset({Routes.OPERATIONS}),
        frozenset({Loop.RETENTION, Loop.SELF_TELEMETRY, Loop.DEPLOYMENTS}),
        frozenset({Need.BROKER, Need.SHARED_STORE}),
    ),
    "api": Role(
        frozenset({Routes.API, Routes.PAGES, Routes.OPERATIONS}),
        frozenset({Loop.SELF_TELEMETRY, Loop.KEYS, Loop.LIVE}),
        frozenset({Need.BROKER, Need.SHARED_STORE}),
    ),
}
