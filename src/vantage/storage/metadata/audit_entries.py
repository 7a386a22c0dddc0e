"""Rules that every implementation shares beside the port: the audit entry of each change, and required selectors."""

from __future__ import annotations

from typing import Final

from vantage.core.api_key import ApiKey
from vantage.core.audit import AuditEntry
from vantage.core.deployment import Deployment
from vantage.core.errors import ConflictError, InputError
from vantage.core.saved_query import SavedQuery
from vantage.storage.ports import Selector

SAVED_QUERIES_MAX: Final = 500


def key_created(key: ApiKey, *, actor: str, at_ms: int) -> AuditEntry:
    """Return the entry of a new key, without its hash: more people see the log than the keys."""
    return AuditEntry(at_ms, actor, "key.create", key.id, {"name": key.name, "scopes": ",".join(sorted(key.scopes))})


def key_revoked(key: ApiKey, *, actor: str, at_ms: int) -> AuditEntry:
    return AuditEntry(at_ms, actor, "key.revoke", key.id, {"name": key.name})


def deployment_recorded(deployment: Deployment, *, actor: str, at_ms: int) -> AuditEntry:
    detail = {
        "environment": deployment.environment,
        "version": deployment.version,
        "source": deployment.source,
    }
    return AuditEntry(at_ms, actor, "deployment.record", deployment.service, detail)


def deployments_removed(selector: Selector, *, removed: int, actor: str, at_ms: int) -> AuditEntry:
    detail = {"service": selector.service, "environment": selector.environment, "removed": str(removed)}
    return AuditEntry(at_ms, actor, "deployment.remove", selector.service or selector.environment, detail)


def query_saved(query: SavedQuery) -> AuditEntry:
    return AuditEntry(query.at_ms, query.author, "query.save", query.name)


def query_removed(name: str, *, actor: str, at_ms: int) -> AuditEntry:
    return AuditEntry(at_ms, actor, "query.remove", name)


def require_room(saved: int) -> None:
    """Raise ConflictError when no further query may be saved."""
    if saved >= SAVED_QUERIES_MAX:
        raise ConflictError(f"there are {SAVED_QUERIES_MAX} saved queries: remove one first", field="name")


def require_selector(selector: Selector) -> None:
    """Raise InputError for a selector that would select everything."""
    if not selector.service and not selector.environment:
        raise InputError("must name a service, an environment or both", field="selector")
