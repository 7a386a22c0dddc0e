"""``vantage keys``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from vantage.commands.config import load
from vantage.commands.console import print_table
from vantage.commands.data_folder import make_folder
from vantage.core.api_key import ApiKey
from vantage.core.clock import SystemClock
from vantage.core.errors import InputError
from vantage.core.number_format import date_time


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
    from vantage.query.api_keys import create_key

    try:
        key, secret = await create_key(
            metadata,
            SystemClock(),
            arguments.name,
            arguments.scope or ["ingest", "read"],
            expires_days=arguments.expires,
            actor="cli",
        )
    except InputError as error:
        if error.field == "expires":
            error = InputError(error.reason, field="--expires")
        raise error from None
    print(f"key {key.id} ({key.name}) may {', '.join(sorted(key.scopes))}", file=sys.stderr)
    print("The secret is printed this once:", file=sys.stderr)
    print(secret)
    return 0


def _state(key: ApiKey) -> str:
    if key.revoked_ms is not None:
        return "revoked"
    return "usable" if key.is_active(SystemClock().now_ms()) else "expired"
