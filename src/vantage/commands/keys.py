"""``vantage keys``."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from pathlib import Path
from typing import Any

from vantage.commands.config import load
from vantage.commands.console import print_table
from vantage.commands.data_folder import make_folder
from vantage.core.api_key import ApiKey, Scope, hash_secret, new_secret
from vantage.core.clock import SystemClock
from vantage.core.errors import InputError
from vantage.core.number_format import date_time
from vantage.core.retention import DAYS_MAX


def run(arguments: argparse.Namespace) -> int:
    """Create, list or revoke keys."""
    from vantage.storage.open import open_metadata

    settings = load(arguments).settings
    data = Path(settings.data)
    make_folder(data)

    async def apply() -> int:
        async with open_metadata(settings.metadata_url, data=data, clock=SystemClock()) as metadata:
            if arguments.action == "create":
                return await _create_key(arguments, metadata)
            if arguments.action == "revoke":
                key = await metadata.revoke_key(arguments.key, actor="cli")
                print(f"revoked {key.id} ({key.name}); running servers refuse it within seconds")
                return 0
            rows = [
                [
                    key.id,
                    key.name,
                    " ".join(sorted(key.scopes)),
                    date_time(key.created_ms),
                    "never" if key.expires_ms is None else date_time(key.expires_ms),
                    _state(key),
                ]
                for key in await metadata.keys()
            ]
            print_table(["id", "name", "scopes", "created", "expires", "state"], rows)
            return 0

    return asyncio.run(apply())


async def _create_key(arguments: argparse.Namespace, metadata: Any) -> int:
    now_ms = SystemClock().now_ms()
    if arguments.expires is not None and not 1 <= arguments.expires <= DAYS_MAX:
        raise InputError(f"must be 1 to {DAYS_MAX} days", field="--expires")
    name = arguments.name.strip()
    if not name or len(name) > 100 or not name.isprintable():
        raise InputError("must be 1 to 100 printable characters", field="name")
    secret = new_secret()
    key = ApiKey(
        id=secrets.token_hex(4),
        name=name,
        scopes=frozenset(Scope(scope) for scope in arguments.scope or ["ingest", "read"]),
        secret_hash=hash_secret(secret),
        created_ms=now_ms,
        expires_ms=None if arguments.expires is None else now_ms + arguments.expires * 86_400_000,
    )
    await metadata.create_key(key, actor="cli")
    print(f"key {key.id} ({key.name}) may {', '.join(sorted(key.scopes))}", file=sys.stderr)
    print("The secret is printed this once:", file=sys.stderr)
    print(secret)
    return 0


def _state(key: ApiKey) -> str:
    if key.revoked_ms is not None:
        return "revoked"
    return "usable" if key.is_active(SystemClock().now_ms()) else "expired"
