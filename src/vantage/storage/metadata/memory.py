"""The smallest MetadataStore, for tests. Nothing here awaits, so every method is one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from vantage.core.api_key import ApiKey
from vantage.core.audit import AuditEntry
from vantage.core.clock import Clock
from vantage.core.deployment import DETECTED, Deployment
from vantage.core.errors import ConflictError, NotFoundError, StoreUnavailable
from vantage.core.timerange import TimeRange
from vantage.storage.metadata import audit_entries
from vantage.storage.ports import Selector


class MemoryMetadataStore:
    """Implements ``MetadataStore``; what it holds outlives closing and opening again, but not the object."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open = False
        self._keys: dict[str, ApiKey] = {}
        self._deployments: list[Deployment] = []
        self._deployments_ever = 0
        self._audit: list[AuditEntry] = []

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False

    async def create_key(self, key: ApiKey, *, actor: str) -> None:
        """Keep a key. Raises ConflictError when its id, its name (among usable keys) or its hash is taken."""
        await self.ping()
        now_ms = self._clock.now_ms()
        others = self._keys.values()
        if key.id in self._keys:
            raise ConflictError("is taken by another key", field="id")
        if any(other.name == key.name and other.is_active(now_ms) for other in others):
            raise ConflictError("is taken by another key", field="name")
        if any(other.secret_hash == key.secret_hash for other in others):
            raise ConflictError("is taken by another key", field="secret")
        self._keys[key.id] = key
        await self.record_audit(audit_entries.key_created(key, actor=actor, at_ms=now_ms))

    async def keys(self) -> Sequence[ApiKey]:
        """All keys, revoked and expired ones too, oldest first, ties by id."""
        await self.ping()
        return sorted(self._keys.values(), key=lambda key: (key.created_ms, key.id))

    async def revoke_key(self, key_id: str, *, actor: str) -> ApiKey:
        """Revoke by id, or else by the name of a usable key. Raises NotFoundError."""
        await self.ping()
        now_ms = self._clock.now_ms()
        named = (key for key in self._keys.values() if key.name == key_id and key.is_active(now_ms))
        key = self._keys.get(key_id) or next(named, None)
        if key is None:
            raise NotFoundError("no key has this id, and no usable key this name", field="key")
        if key.revoked_ms is not None:
            return key
        self._keys[key.id] = revoked = replace(key, revoked_ms=now_ms)
        await self.record_audit(audit_entries.key_revoked(revoked, actor=actor, at_ms=now_ms))
        return revoked

    async def record_deployment(self, deployment: Deployment, *, actor: str) -> bool:
        """Keep a deployment; False when it was only seen, and is known already."""
        await self.ping()
        version = _version(deployment)
        if deployment.source == DETECTED:
            for place, other in enumerate(self._deployments):
                if _version(other) == version:
                    if other.source == DETECTED and deployment.at_ms < other.at_ms:
                        self._deployments[place] = replace(other, at_ms=deployment.at_ms)
                    return False
        self._deployments_ever += 1
        self._deployments.append(replace(deployment, id=self._deployments_ever))
        now_ms = self._clock.now_ms()
        await self.record_audit(audit_entries.deployment_recorded(deployment, actor=actor, at_ms=now_ms))
        return True

    async def deployments(
        self, *, service: str = "", time_range: TimeRange | None = None, limit: int = 100
    ) -> Sequence[Deployment]:
        """Up to ``limit`` deployments, the latest first, of two at one time the one recorded later first."""
        await self.ping()
        found = [
            deployment
            for deployment in self._deployments
            if service in ("", deployment.service)
            and (time_range is None or time_range.start_ms <= deployment.at_ms < time_range.end_ms)
        ]
        return sorted(found, key=lambda deployment: (-deployment.at_ms, -deployment.id))[: max(0, limit)]

    async def remove_deployments(self, selector: Selector, *, actor: str) -> int:
        """Remove those of a service or environment; how many. Raises InputError for a selector without any name."""
        await self.ping()
        audit_entries.require_selector(selector)
        kept = [
            deployment
            for deployment in self._deployments
            if selector.service not in ("", deployment.service)
            or selector.environment not in ("", deployment.environment)
        ]
        removed = len(self._deployments) - len(kept)
        self._deployments = kept
        if removed:
            now_ms = self._clock.now_ms()
            entry = audit_entries.deployments_removed(selector, removed=removed, actor=actor, at_ms=now_ms)
            await self.record_audit(entry)
        return removed

    async def record_audit(self, entry: AuditEntry) -> None:
        """Append an entry; its ``at_ms`` is kept, its ``id`` is ignored."""
        await self.ping()
        self._audit.append(replace(entry, detail=dict(entry.detail), id=len(self._audit) + 1))

    async def audit(self, *, limit: int = 100, before_id: int | None = None) -> Sequence[AuditEntry]:
        """Up to ``limit`` entries with an id below ``before_id``, the latest first."""
        await self.ping()
        found = [entry for entry in reversed(self._audit) if before_id is None or entry.id < before_id]
        return found[: max(0, limit)]

    async def last_change_id(self) -> int:
        """A number that has grown when anything was changed; 0 before the first change."""
        await self.ping()
        return len(self._audit)

    async def ping(self) -> None:
        """Return when the store is open; raises StoreUnavailable when not."""
        if not self._open:
            raise StoreUnavailable("the metadata store is not open")


def _version(deployment: Deployment) -> tuple[str, str, str]:
    return deployment.service, deployment.environment, deployment.version
