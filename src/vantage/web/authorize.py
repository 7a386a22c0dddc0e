"""Authorization of everything but ingest: sender, rate and scope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from vantage.core.api_key import Scope
from vantage.core.clock import Clock
from vantage.core.errors import ForbiddenError
from vantage.web.auth import Authenticator, Principal, secret_of, session_of
from vantage.web.limits import Rates, TrustedProxies
from vantage.web.middleware import SAFE_METHODS

Connection = ASGIConnection[Any, Any, Any, Any]


@dataclass(slots=True)
class Authorizer:
    """Keys, proxies and buckets of one application, whose state has it as ``authorizer``."""

    authenticator: Authenticator
    proxies: TrustedProxies
    buckets: Rates
    sessions: Rates
    logins: Rates
    clock: Clock
    draining: bool = False

    async def authorize(self, connection: Connection, scope: Scope) -> Principal:
        """Return the sender of a request that is allowed. Signed-in pages have a rate of their own.

        Raises UnauthorizedError, RateLimited, ForbiddenError, or UnavailableError while keys cannot be checked.
        """
        headers = connection.scope["header_map"]  # type: ignore[typeddict-item]  # set by EdgeMiddleware
        peer = connection.client.host if connection.client else ""
        address = self.proxies.client(peer, headers)
        now_s = self.clock.monotonic_s()
        try:
            principal = self.authenticator.principal(secret_of(headers), session_of(headers))
        except ForbiddenError:
            await self._take(self.buckets, address, now_s)
            raise
        if principal.by_session:
            await self._take(self.sessions, principal.id, now_s)
        else:
            await self._take(self.buckets, address if principal.id == "local" else principal.id, now_s)
        if not principal.allows(scope):
            raise ForbiddenError(f"this key lacks the scope {scope.value!r}")
        return principal

    async def take_anonymous(self, connection: Connection) -> None:
        """Take a token of a sender that needs no key. Raises RateLimited."""
        headers = connection.scope["header_map"]  # type: ignore[typeddict-item]
        peer = connection.client.host if connection.client else ""
        await self._take(self.buckets, self.proxies.client(peer, headers), self.clock.monotonic_s())

    async def take_login(self, address: str) -> None:
        """Take a token for an attempt to sign in. Raises RateLimited."""
        await self._take(self.logins, address, self.clock.monotonic_s())

    async def _take(self, rates: Rates, owner: str, now_s: float) -> None:
        pending = rates.take(owner, now_s)
        if pending is not None:
            await pending

    def check_again(self, connection: Connection, scope: Scope) -> None:
        """Raise as ``authorize`` if an open connection may no longer stay: its key may have been revoked."""
        headers = connection.scope["header_map"]  # type: ignore[typeddict-item]
        if not self.authenticator.principal(secret_of(headers), session_of(headers)).allows(scope):
            raise ForbiddenError(f"this key lacks the scope {scope.value!r}")


async def require_scope(connection: Connection, handler: BaseRouteHandler) -> None:
    """Guard every handler but the open ones. ``opt["scope"]`` is the scope a handler needs, by default ``read``.

    Stores the principal in the connection's state. Raises as ``Authorizer.authorize``, and ForbiddenError for a change
    with a session's cookie alone: browsers send it for other sites' forms as well, and name these in ``Origin``, which
    ``EdgeMiddleware`` has compared.
    """
    authorizer: Authorizer = connection.app.state.authorizer
    principal = await authorizer.authorize(connection, handler.opt.get("scope", Scope.READ))
    changes = principal.by_session and connection.scope.get("method") not in SAFE_METHODS
    if changes and b"origin" not in connection.scope["header_map"]:  # type: ignore[typeddict-item]
        raise ForbiddenError("a change by a signed-in browser needs the header Origin")
    connection.state.principal = principal
