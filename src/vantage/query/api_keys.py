"""Create keys, for the command line and the page of settings."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Final

from vantage.core.api_key import ApiKey, Scope, hash_secret, new_secret
from vantage.core.clock import Clock
from vantage.core.errors import InputError
from vantage.core.retention import DAYS_MAX
from vantage.storage.metadata.ports import MetadataStore

NAME_LENGTH_MAX: Final = 100


async def create_key(
    metadata: MetadataStore,
    clock: Clock,
    name: str,
    scopes: Iterable[str],
    *,
    expires_days: int | None,
    actor: str,
) -> tuple[ApiKey, str]:
    """Store a new key, and return it with its secret, which is nowhere else. Raises InputError, ConflictError,
    StoreUnavailable."""
    now_ms = clock.now_ms()
    if expires_days is not None and not 1 <= expires_days <= DAYS_MAX:
        raise InputError(f"must be 1 to {DAYS_MAX} days", field="expires")
    name = name.strip()
    if not name or len(name) > NAME_LENGTH_MAX or not name.isprintable():
        raise InputError(f"must be 1 to {NAME_LENGTH_MAX} printable characters", field="name")
    try:
        chosen = frozenset(Scope(scope) for scope in scopes)
    except ValueError as error:
        raise InputError(str(error), field="scope") from None
    if not chosen:
        raise InputError("choose at least one", field="scope")
    secret = new_secret()
    key = ApiKey(
        id=secrets.token_hex(4),
        name=name,
        scopes=chosen,
        secret_hash=hash_secret(secret),
        created_ms=now_ms,
        expires_ms=None if expires_days is None else now_ms + expires_days * 86_400_000,
    )
    await metadata.create_key(key, actor=actor)
    return key, secret
