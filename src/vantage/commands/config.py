"""The settings of a command, and ``vantage config``, which prints them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from vantage import config
from vantage.commands.console import notice, print_table
from vantage.config import Loaded
from vantage.core.errors import ConfigError
from vantage.storage.promotion.record import NAME as RECORD_NAME
from vantage.storage.promotion.record import read_record

_FLAGS: Final = ("role", "host", "port", "data", "workers")


def load(arguments: argparse.Namespace) -> Loaded:
    """Return the settings in effect and print their warnings on standard error. Raises ConfigError."""
    flags = {name: getattr(arguments, name, None) for name in _FLAGS}
    file = getattr(arguments, "config", None)
    loaded = follow_promotion(config.load(file=Path(file) if file else None, flags=flags))
    for warning in loaded.warnings:
        notice(f"warning: {warning}")
    return loaded


def follow_promotion(loaded: Loaded) -> Loaded:
    """Return the settings with the store to which the data folder was promoted. Raises ConfigError when the settings
    name another one, and what ``read_record`` raises."""
    settings = loaded.settings
    path = Path(settings.data) / RECORD_NAME
    record = read_record(Path(settings.data)) if settings.role == "all" and path.exists() else None
    if record is None or record.phase != "switched":
        return loaded
    if settings.store_url and settings.store_url != record.url:
        raise ConfigError(
            f"store_url (from {loaded.origins.get('store_url', 'clickhouse_host')}) contradicts {path}, by which the "
            "data is on another ClickHouse server: leave store_url empty, or return with `vantage promote --back`"
        )
    return replace(
        loaded,
        settings=msgspec.structs.replace(settings, store_url=record.url),
        origins={**loaded.origins, "store_url": str(path)},
    )


def run(arguments: argparse.Namespace) -> int:
    """Print every setting with its value and origin, or an example of an ``.env`` file."""
    if arguments.example:
        print(config.example(), end="")
        return 0
    print_table(["setting", "value", "from"], [list(row) for row in load(arguments).masked_rows()])
    return 0
