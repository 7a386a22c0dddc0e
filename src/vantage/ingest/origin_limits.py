"""Limits on the services, versions and instances that senders may introduce: further ones become ``__overflow__``.

Series have limits of their own in the stores. These names need others, as spans belong to no series, and as pages,
lists and recorded deployments grow with them.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from vantage.core.clock import Clock
from vantage.core.sample import OVERFLOW
from vantage.telemetry import Telemetry

SERVICES_MAX: Final = 10_000  # one for each environment
NAMES_MAX: Final = 50_000  # versions of all services; instances likewise
NAMES_PER_SERVICE_MAX: Final = 1000  # versions of one service; instances likewise
UNUSED_S: Final = 24 * 3600.0  # a name that was not sent for so long makes room for another
SWEEP_EVERY_S: Final = 3600.0

Origin = tuple[str, str, str, str]  # service, environment, version, instance


class _RecentNames:
    """At most ``names_max`` names, of one owner at most ``owner_max``, with the time at which each was last sent."""

    def __init__(self, names_max: int, owner_max: int) -> None:
        self._names_max = names_max
        self._owner_max = owner_max
        self._sent_s: dict[tuple[str, str], float] = {}
        self._counts: Counter[str] = Counter()  # of names, by owner
        self._swept_s = float("-inf")

    def admit(self, owner: str, name: str, now_s: float) -> bool:
        """Return whether there is room for the name, which is then kept."""
        key = (owner, name)
        if key not in self._sent_s:
            if self._is_full(owner):
                self._drop_unused(now_s)
            if self._is_full(owner):
                return False
            self._counts[owner] += 1
        self._sent_s[key] = now_s
        return True

    def _is_full(self, owner: str) -> bool:
        return len(self._sent_s) >= self._names_max or self._counts[owner] >= self._owner_max

    def _drop_unused(self, now_s: float) -> None:
        if now_s - self._swept_s >= SWEEP_EVERY_S:
            self._swept_s = now_s
            self._sent_s = {key: sent_s for key, sent_s in list(self._sent_s.items()) if now_s - sent_s < UNUSED_S}
            self._counts = Counter(owner for owner, _ in self._sent_s)


class OriginLimits:
    """Any thread may call ``admit``."""

    def __init__(self, *, clock: Clock, telemetry: Telemetry, services_max: int = SERVICES_MAX) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._services = _RecentNames(services_max, services_max)
        self._versions = _RecentNames(NAMES_MAX, NAMES_PER_SERVICE_MAX)
        self._instances = _RecentNames(NAMES_MAX, NAMES_PER_SERVICE_MAX)

    def admit(self, service: str, environment: str, version: str, instance: str) -> Origin:
        """Return the names to record data under: those sent, or ``__overflow__`` for what is beyond a limit."""
        now_s = self._clock.monotonic_s()
        owner = f"{service}/{environment}"
        if service != OVERFLOW and not self._services.admit("", owner, now_s):
            self._telemetry.ingest_overflow.labels("service").inc()
            return OVERFLOW, environment, "", ""
        if version not in ("", OVERFLOW) and not self._versions.admit(owner, version, now_s):
            self._telemetry.ingest_overflow.labels("service_version").inc()
            version = OVERFLOW
        if instance not in ("", OVERFLOW) and not self._instances.admit(owner, instance, now_s):
            self._telemetry.ingest_overflow.labels("instance").inc()
            instance = OVERFLOW
        return service, environment, version, instance
