"""Admission to everything but ingest: who is asking, at what rate, and with which scope."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from vantage.core.api_key import Scope
from vantage.core.errors import ForbiddenError
from vantage.web.auth import Authenticator, Principal, secret_of, session_of
from vantage.web.limits import TokenBuckets, TrustedProxies

Connection = ASGIConnection[Any, Any, Any, Any]


@dataclass(slots=True)
class Authorizer:
    """Keys, proxies and buckets of one application; stands in its state under ``admission``."""

    access: Authenticator
    proxies: TrustedProxies
    buckets: TokenBuckets
    sessions: TokenBuckets
    logins: TokenBuckets
    draining: bool = False

    def authorize(self, connection: Connection, scope: Scope) -> Principal:
        """Raises UnauthorizedError, RateLimited or ForbiddenError. Signed-in pages have a rate of their own."""
        headers = connection.scope["header_map"]  # type: ignore[typeddict-item]  # put there by the edge
        peer = connection.client.host if connection.client else ""
        address = self.proxies.client(peer, headers)
        now_s = time.monotonic()
        try:
            principal = self.access.principal(secret_of(headers), session_of(headers))
        except ForbiddenError:
            self.buckets.take(address, now_s)
            raise
        if principal.by_session:
            self.sessions.take(principal.id, now_s)
        else:
            self.buckets.take(address if principal.id == "local" else principal.id, now_s)
        if not principal.allows(scope):
            raise ForbiddenError(f"this key lacks the scope {scope.value!r}")
        return principal

    def check_again(self, connection: Connection, scope: Scope) -> None:
        """Whether a connection that was let in may stay: its key may have been revoked since. Raises as ``admit``."""
        headers = connection.scope["header_map"]  # type: ignore[typeddict-item]
        if not self.access.principal(secret_of(headers), session_of(headers)).allows(scope):
            raise ForbiddenError(f"this key lacks the scope {scope.value!r}")


async def require_scope(connection: Connection, handler: BaseRouteHandler) -> None:
    """The guard of every handler but the open ones: ``opt["scope"]`` names the scope it needs, read when it is silent.
    Leaves the principal in the connection's state."""
    admission: Authorizer = connection.app.state.admission
    connection.state.principal = admission.authorize(connection, handler.opt.get("scope", Scope.READ))
