"""The settings of a command, and ``vantage config``, which prints them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from vantage import config
from vantage.commands.console import notice, print_table
from vantage.config import Loaded

_FLAGS: Final = ("role", "host", "port", "data", "workers")


def load(arguments: argparse.Namespace) -> Loaded:
    """Return the settings in effect and print their warnings on standard error. Raises ConfigError."""
    flags = {name: getattr(arguments, name, None) for name in _FLAGS}
    file = getattr(arguments, "config", None)
    loaded = config.load(file=Path(file) if file else None, flags=flags)
    for warning in loaded.warnings:
        notice(f"warning: {warning}")
    return loaded


def run(arguments: argparse.Namespace) -> int:
    """Print every setting with its value and origin, or an example of an ``.env`` file."""
    if arguments.example:
        print(config.example(), end="")
        return 0
    print_table(["setting", "value", "from"], [list(row) for row in load(arguments).masked_rows()])
    return 0
