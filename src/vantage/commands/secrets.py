"""``vantage secrets``: the keys that encrypt what channels must not reveal."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from vantage.commands.config import load
from vantage.commands.data_folder import make_folder
from vantage.config import Settings
from vantage.core.clock import SystemClock


def run(arguments: argparse.Namespace) -> int:
    """Print a new key, or encrypt all secrets with a new one. The server may run."""
    from vantage.alerting.secrets import new_key

    if arguments.action == "key":
        print(new_key())
        return 0
    settings = load(arguments).settings
    make_folder(Path(settings.data))
    return asyncio.run(_rotate(settings))


async def _rotate(settings: Settings) -> int:
    """Put a new key first where keys are in a file, and encrypt with the first key. Raises InputError, ConfigError,
    SecretUnreadable."""
    from vantage.alerting.channel_config import resealed
    from vantage.alerting.secrets import secrets_of
    from vantage.storage.open import open_metadata

    secrets = secrets_of(settings)
    if secrets.file is not None:
        secrets.rotate()
    async with open_metadata(settings.metadata_url, data=Path(settings.data), clock=SystemClock()) as metadata:
        channels = [channel for channel in await metadata.notices.channels() if channel.sealed]
        sealed = {channel.name: resealed(channel, secrets) for channel in channels}
        count = await metadata.notices.seal_again(sealed, before=channels)
    where = f"the newest key of {secrets.file}" if secrets.file is not None else "the first key of secret_key"
    print(f"the secrets of {count} of {len(channels)} channels are encrypted with {where}")
    if count < len(channels):
        print("others were changed meanwhile, and have it already or are rotated by running this again")
    return 0
