"""API keys: scopes, secrets and their hashes. Only a hash of a secret is ever stored."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SECRET_PREFIX: Final = "vtg_"  # noqa: S105 - the public part


class Scope(StrEnum):
    """What a key may do. ``admin`` includes the other two."""

    INGEST = "ingest"
    READ = "read"
    ADMIN = "admin"


ALL_SCOPES: Final = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as stored. ``id`` is public; ``expires_ms`` and ``revoked_ms`` are None when unset."""

    id: str
    name: str
    scopes: frozenset[Scope]
    secret_hash: str
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None

    def is_active(self, now_ms: int) -> bool:
        """Return whether the key is neither revoked nor expired."""
        return self.revoked_ms is None and (self.expires_ms is None or now_ms < self.expires_ms)

    def allows(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


def new_secret() -> str:
    """Return a new secret: 256 random bits behind a prefix that secret scanners can recognise."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def hash_secret(secret: str) -> str:
    """Return SHA-256 in hex. A random 256-bit secret needs no slow hash: there is nothing to guess."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
