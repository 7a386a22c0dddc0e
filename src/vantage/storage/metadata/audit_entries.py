"""Rules that every implementation shares beside the port: the audit entry of each change, and required selectors."""

from __future__ import annotations

from vantage.core.api_key import ApiKey
from vantage.core.audit import AuditEntry
from vantage.core.deployment import Deployment
from vantage.core.errors import InputError
from vantage.storage.ports import Selector


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


def require_selector(selector: Selector) -> None:
    """Raise InputError for a selector that would select everything."""
    if not selector.service and not selector.environment:
        raise InputError("must name a service, an environment or both", field="selector")
