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
    UPKEEP = "upkeep"
    SELF_TELEMETRY = "self telemetry"
    KEYS = "keys"
    DEPLOYMENTS = "deployments"
    LIVE = "live"
    LIVE_PUBLISHER = "live publisher"
    LIVE_FOLLOWER = "live follower"
    CONSUMER = "consumer"
    PROMOTION = "promotion"
    COMPARISONS = "comparisons"
    ANOMALIES = "anomalies"
    DETECTORS = "detectors"
    ALERTS = "alerts"
    CHECKS = "checks"
    NOTICES = "notices"
    DELIVERIES = "deliveries"


class Need(StrEnum):
    """Components that a role requires, as the setting that names each."""

    BROKER = "broker_url (kafka://HOST:9092)"
    SHARED_STORE = "store_url (clickhouse://HOST:9000/DATABASE)"
    SHARED_METADATA = "metadata_url (a database that all processes share)"


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
        frozenset({Need.BROKER, Need.SHARED_METADATA}),
    ),
    "worker": Role(
        frozenset({Routes.OPERATIONS}),
        frozenset(
            {
                Loop.CONSUMER,
                Loop.RETENTION,
                Loop.UPKEEP,
                Loop.SELF_TELEMETRY,
                Loop.DEPLOYMENTS,
                Loop.LIVE_PUBLISHER,
                Loop.COMPARISONS,
                Loop.ANOMALIES,
                Loop.DETECTORS,
                Loop.ALERTS,
                Loop.CHECKS,
                Loop.NOTICES,
                Loop.DELIVERIES,
            }
        ),
        frozenset(Need),
    ),
    "api": Role(
        frozenset({Routes.API, Routes.PAGES, Routes.OPERATIONS}),
        frozenset({Loop.SELF_TELEMETRY, Loop.KEYS, Loop.LIVE, Loop.LIVE_FOLLOWER}),
        frozenset({Need.SHARED_STORE, Need.SHARED_METADATA}),
    ),
}
