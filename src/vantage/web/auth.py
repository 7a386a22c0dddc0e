"""Authentication: API keys, and browser sessions made from them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from vantage.core.api_key import ALL_SCOPES, ApiKey, Scope, hash_secret
from vantage.core.clock import Clock
from vantage.core.errors import ForbiddenError, UnauthorizedError, UnavailableError

SESSION_COOKIE: Final = "vantage_session"
SESSION_MS: Final = 30 * 86_400_000
ENVIRONMENT_KEY_ID: Final = "env"
SECRETS_CACHED_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Principal:
    """The sender of a request. ``id`` names them in the audit log and owns their rate."""

    id: str
    scopes: frozenset[Scope]
    by_session: bool = False

    def allows(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


LOCAL: Final = Principal("local", ALL_SCOPES)


class Authenticator:
    """The keys in use, in memory; ``refresh`` replaces them with those of the metadata store.

    Until they have been read once, a secret that is not in the settings cannot be checked, and raises UnavailableError:
    a server without its metadata database is never open to everybody.
    """

    def __init__(self, *, clock: Clock, auth: str, api_key: str) -> None:
        self._clock = clock
        self._auth = auth
        self._by_hash: dict[str, tuple[ApiKey, Principal]] = {}
        self._by_id: dict[str, ApiKey] = {}
        # Only of secrets in use: an unknown one raises, and what raises is not cached.
        self._by_secret = lru_cache(SECRETS_CACHED_MAX)(lambda secret: self._by_hash[hash_secret(secret)])
        self._fixed: list[ApiKey] = []
        self.known = auth == "off"  # whether keys can be checked
        if api_key:
            self._fixed.append(
                ApiKey(ENVIRONMENT_KEY_ID, "VANTAGE_API_KEY", ALL_SCOPES, hash_secret(api_key), clock.now_ms())
            )
        self._use(())

    def refresh(self, keys: Sequence[ApiKey]) -> None:
        """Use the keys of the metadata store."""
        self._use(keys)
        self.known = True

    def _use(self, keys: Sequence[ApiKey]) -> None:
        all_keys = [*self._fixed, *keys]
        self._by_hash = {key.secret_hash: (key, Principal(key.id, key.scopes)) for key in all_keys}
        self._by_id = {key.id: key for key in all_keys}
        self._by_secret.cache_clear()

    @property
    def required(self) -> bool:
        """Whether a request without a key is refused."""
        if self._auth == "auto":
            return bool(self._by_hash) or not self.known
        return self._auth == "required"

    def principal(self, secret: str, session: str = "") -> Principal:
        """Return the owner of a secret or a session. Raises UnauthorizedError, and UnavailableError while keys cannot
        be checked."""
        if secret:
            try:
                key, principal = self._by_secret(secret)
            except KeyError:
                pass
            else:
                if key.is_active(self._clock.now_ms()):
                    return principal
            if self.required:
                self._require_known()
                raise UnauthorizedError("the API key is unknown, expired or revoked")
            return LOCAL
        if not self.required:
            return LOCAL
        if session and (signed_by := self._session_key(session)) is not None:
            return Principal(signed_by.id, signed_by.scopes, by_session=True)
        self._require_known()
        raise UnauthorizedError("an API key is required: send it in the header X-API-Key")

    def _require_known(self) -> None:
        if not self.known:
            raise UnavailableError("keys cannot be checked: the metadata database has not answered yet")

    def start_session(self, secret: str) -> str:
        """Return the value of a session cookie for a secret. Raises UnauthorizedError and ForbiddenError."""
        principal = self.principal(secret)
        key = self._by_id.get(principal.id)
        if key is None:
            raise UnauthorizedError("no keys are in use: there is nothing to sign in to")
        if not principal.allows(Scope.READ):
            raise ForbiddenError("this key may not read")
        expires_ms = self._clock.now_ms() + SESSION_MS
        return f"{key.id}.{expires_ms}.{_signature(key, expires_ms)}"

    def _session_key(self, session: str) -> ApiKey | None:
        key_id, _, rest = session.partition(".")
        expires, _, signature = rest.partition(".")
        key = self._by_id.get(key_id)
        if key is None or not expires.isascii() or not expires.isdigit() or len(expires) > 15:
            return None
        now_ms = self._clock.now_ms()
        if not key.is_active(now_ms) or int(expires) < now_ms:
            return None
        expected = _signature(key, int(expires))
        return key if hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")) else None


def _signature(key: ApiKey, expires_ms: int) -> str:
    """Sign a session with HMAC-SHA-256 under the key's stored hash: revoking the key ends its sessions, and sessions
    need no storage."""
    text = f"session.{key.id}.{expires_ms}".encode()
    return hmac.new(key.secret_hash.encode(), text, hashlib.sha256).hexdigest()


def secret_of(headers: Mapping[bytes, bytes]) -> str:
    """Return the API key of a request, from ``X-API-Key`` or ``Authorization: Bearer``; '' without one."""
    if api_key := headers.get(b"x-api-key"):
        return api_key.decode("latin-1").strip()
    kind, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return value.strip() if kind.lower() == "bearer" else ""


def session_of(headers: Mapping[bytes, bytes]) -> str:
    """Return the session cookie of a request; '' without one."""
    for part in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        name, _, value = part.strip().partition("=")
        if name == SESSION_COOKIE:
            return value
    return ""
