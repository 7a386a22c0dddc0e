"""The smallest MetadataStore, for tests. Its methods never await, so each is one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from vantage.core.anomaly import Anomaly
from vantage.core.api_key import ApiKey
from vantage.core.audit import AuditEntry
from vantage.core.clock import Clock
from vantage.core.comparison import SavedComparison
from vantage.core.deployment import DETECTED, Deployment
from vantage.core.errors import ConflictError, NotFoundError, StoreUnavailable
from vantage.core.saved_query import SavedQuery
from vantage.core.stream_position import StreamPosition
from vantage.core.timerange import TimeRange
from vantage.storage.metadata import audit_entries
from vantage.storage.metadata.anomalies import ANOMALIES_MAX
from vantage.storage.metadata.comparisons import COMPARISONS_MAX
from vantage.storage.metadata.memory_alerts import MemoryAlerts
from vantage.storage.metadata.memory_availability import MemoryAvailability
from vantage.storage.metadata.memory_notices import MemoryNotices
from vantage.storage.ports import Selector


class MemoryMetadataStore:
    """Implements ``MetadataStore``. Data is kept while it is closed and opened again, and lost with the object."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open = False
        self.alerts = MemoryAlerts(clock, record_audit=self.record_audit, ping=self.ping)
        self.availability = MemoryAvailability(clock, record_audit=self.record_audit, ping=self.ping)
        self.notices = MemoryNotices(clock, self.alerts, record_audit=self.record_audit, ping=self.ping)
        self._keys: dict[str, ApiKey] = {}
        self._deployments: list[Deployment] = []
        self._deployments_ever = 0
        self._queries: dict[str, SavedQuery] = {}
        self._comparisons: list[SavedComparison] = []
        self._anomalies: dict[tuple[str, str, str, int], Anomaly] = {}
        self._anomalies_ever = 0
        self._audit: list[AuditEntry] = []
        self._positions: dict[tuple[str, int], StreamPosition] = {}

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False

    async def take_partition(self, topic: str, partition: int) -> StreamPosition:
        """Become the owner of a partition, and return its position."""
        await self.ping()
        position = self._positions.get((topic, partition), StreamPosition(0))
        self._positions[topic, partition] = replace(position, epoch=position.epoch + 1)
        return self._positions[topic, partition]

    async def move_partition(self, topic: str, partition: int, position: StreamPosition) -> bool:
        """Set the position. False: the partition has another owner."""
        await self.ping()
        if self._positions[topic, partition].epoch != position.epoch:
            return False
        self._positions[topic, partition] = position
        return True

    async def create_key(self, key: ApiKey, *, actor: str) -> None:
        """Store a key. Raises ConflictError when its id, its name (among active keys) or its hash is in use."""
        await self.ping()
        now_ms = self._clock.now_ms()

        if key.id in self._keys:
            raise ConflictError("is in use by another key", field="id")
        if any(stored.name == key.name and stored.is_active(now_ms) for stored in self._keys.values()):
            raise ConflictError("is in use by another key", field="name")
        if any(stored.secret_hash == key.secret_hash for stored in self._keys.values()):
            raise ConflictError("is in use by another key", field="secret")
        self._keys[key.id] = key
        await self.record_audit(audit_entries.key_created(key, actor=actor, at_ms=now_ms))

    async def keys(self) -> Sequence[ApiKey]:
        """Return all keys, including revoked and expired ones, oldest first, ties by id."""
        await self.ping()
        return sorted(self._keys.values(), key=lambda key: (key.created_ms, key.id))

    async def revoke_key(self, key_id: str, *, actor: str) -> ApiKey:
        """Revoke by id, or else by the name of an active key. Raises NotFoundError."""
        await self.ping()
        now_ms = self._clock.now_ms()
        named = (key for key in self._keys.values() if key.name == key_id and key.is_active(now_ms))
        key = self._keys.get(key_id) or next(named, None)
        if key is None:
            raise NotFoundError("no key has this id, and no active key this name", field="key")
        if key.revoked_ms is not None:
            return key
        self._keys[key.id] = revoked = replace(key, revoked_ms=now_ms)
        await self.record_audit(audit_entries.key_revoked(revoked, actor=actor, at_ms=now_ms))
        return revoked

    async def record_deployment(self, deployment: Deployment, *, actor: str) -> bool:
        """Store a deployment. Return False for a detected one that is known."""
        await self.ping()
        version = _version(deployment)
        if deployment.source == DETECTED:
            for index, stored in enumerate(self._deployments):
                if _version(stored) == version:
                    if stored.source == DETECTED and deployment.at_ms < stored.at_ms:
                        self._deployments[index] = replace(stored, at_ms=deployment.at_ms)
                    return False
        self._deployments_ever += 1
        self._deployments.append(replace(deployment, id=self._deployments_ever))
        now_ms = self._clock.now_ms()
        await self.record_audit(audit_entries.deployment_recorded(deployment, actor=actor, at_ms=now_ms))
        return True

    async def deployments(
        self, *, service: str = "", time_range: TimeRange | None = None, limit: int = 100
    ) -> Sequence[Deployment]:
        """Return up to ``limit`` deployments, the latest first; of equal times the one recorded last is first."""
        await self.ping()
        selected = [
            deployment
            for deployment in self._deployments
            if service in ("", deployment.service)
            and (time_range is None or time_range.start_ms <= deployment.at_ms < time_range.end_ms)
        ]
        return sorted(selected, key=lambda deployment: (-deployment.at_ms, -deployment.id))[: max(0, limit)]

    async def remove_deployments(self, selector: Selector, *, actor: str) -> int:
        """Remove those of a service or environment; return their number. Raises InputError for an empty selector."""
        await self.ping()
        audit_entries.require_selector(selector)
        remaining = [
            deployment
            for deployment in self._deployments
            if selector.service not in ("", deployment.service)
            or selector.environment not in ("", deployment.environment)
        ]
        removed = len(self._deployments) - len(remaining)
        self._deployments = remaining
        if removed:
            now_ms = self._clock.now_ms()
            entry = audit_entries.deployments_removed(selector, removed=removed, actor=actor, at_ms=now_ms)
            await self.record_audit(entry)
        return removed

    async def record_anomalies(self, anomalies: Sequence[Anomaly], *, since_ms: int) -> int:
        """Store anomalies, or replace those of the same series and start. Delete the old, and return their number."""
        await self.ping()
        for anomaly in anomalies:
            stored = self._anomalies.get(anomaly.key)
            if stored is None:
                self._anomalies_ever += 1
            self._anomalies[anomaly.key] = replace(anomaly, id=stored.id if stored else self._anomalies_ever)
        newest = await self.anomalies(time_range=TimeRange(since_ms - 1, 1 << 62), limit=ANOMALIES_MAX)
        removed = len(self._anomalies) - len(newest)
        self._anomalies = {anomaly.key: anomaly for anomaly in newest}
        return removed

    async def anomalies(
        self, *, service: str = "", time_range: TimeRange | None = None, limit: int = 100
    ) -> Sequence[Anomaly]:
        """Return up to ``limit`` anomalies that touch the range, the latest start first."""
        await self.ping()
        selected = [
            anomaly
            for anomaly in self._anomalies.values()
            if service in ("", anomaly.service)
            and (time_range is None or (anomaly.end_ms > time_range.start_ms and anomaly.start_ms < time_range.end_ms))
        ]
        return sorted(selected, key=lambda anomaly: (-anomaly.start_ms, -anomaly.id))[: max(0, limit)]

    async def anomaly(self, anomaly_id: int) -> Anomaly | None:
        """Return an anomaly by its id, None for an unknown one."""
        await self.ping()
        return next((anomaly for anomaly in self._anomalies.values() if anomaly.id == anomaly_id), None)

    async def remove_anomalies(self, service: str) -> int:
        """Remove those of a service; return their number."""
        await self.ping()
        keys = [key for key in self._anomalies if key[0] == service]
        for key in keys:
            del self._anomalies[key]
        return len(keys)

    async def save_query(self, query: SavedQuery) -> None:
        """Store a query, or replace that of its name. Raises ConflictError when there are too many."""
        await self.ping()
        if query.name not in self._queries:
            audit_entries.require_room(len(self._queries))
        self._queries[query.name] = query
        await self.record_audit(audit_entries.query_saved(query))

    async def saved_queries(self) -> Sequence[SavedQuery]:
        """Return all saved queries by name."""
        await self.ping()
        return [self._queries[name] for name in sorted(self._queries)]

    async def remove_query(self, name: str, *, actor: str) -> bool:
        """Remove a saved query. False: there is none of this name."""
        await self.ping()
        if self._queries.pop(name, None) is None:
            return False
        await self.record_audit(audit_entries.query_removed(name, actor=actor, at_ms=self._clock.now_ms()))
        return True

    async def save_comparison(self, saved: SavedComparison) -> SavedComparison:
        """Store a comparison, and return it, or the one that has its key."""
        await self.ping()
        if saved.key and (earlier := await self.comparison_of(saved.key)) is not None:
            return earlier
        self._comparisons.append(saved)
        surplus = self._by_age()[COMPARISONS_MAX:]
        self._comparisons = [item for item in self._comparisons if item not in surplus]
        return saved

    async def comparisons(self, *, service: str = "", limit: int = 100) -> Sequence[SavedComparison]:
        """Return comparisons without their documents, the latest first."""
        await self.ping()
        matching = [replace(item, document={}) for item in self._by_age() if service in ("", item.service)]
        return matching[: max(0, limit)]

    async def comparison(self, comparison_id: str) -> SavedComparison | None:
        """Return a comparison; None where there is none."""
        await self.ping()
        return next((item for item in self._comparisons if item.id == comparison_id), None)

    async def comparison_of(self, key: str) -> SavedComparison | None:
        """Return the comparison with a key; None where there is none."""
        await self.ping()
        return next((item for item in self._comparisons if item.key == key), None)

    def _by_age(self) -> list[SavedComparison]:
        return sorted(self._comparisons, key=lambda item: (-item.at_ms, item.id))

    async def record_audit(self, entry: AuditEntry) -> None:
        """Append an entry, with its ``at_ms``; its ``id`` is ignored."""
        await self.ping()
        self._audit.append(replace(entry, detail=dict(entry.detail), id=len(self._audit) + 1))

    async def audit(self, *, limit: int = 100, before_id: int | None = None) -> Sequence[AuditEntry]:
        """Return up to ``limit`` entries with an id below ``before_id``, the latest first."""
        await self.ping()
        entries = [entry for entry in reversed(self._audit) if before_id is None or entry.id < before_id]
        return entries[: max(0, limit)]

    async def last_change_id(self) -> int:
        """Return a number that grows with every change; 0 before the first."""
        await self.ping()
        return len(self._audit)

    async def ping(self) -> None:
        """Return if the store is open; raise StoreUnavailable if not."""
        if not self._open:
            raise StoreUnavailable("the metadata store is not open")


def _version(deployment: Deployment) -> tuple[str, str, str]:
    return deployment.service, deployment.environment, deployment.version
