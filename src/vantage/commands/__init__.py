"""What the commands do. Imported once the dependencies are known to be there."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Final, cast

from vantage import __version__

# Where each command is; imported when it is run, so that none waits for the libraries of another.
_HOMES: Final = {
    "serve": "serve",
    "migrate": "serve",
    "demo": "demo",
    "healthcheck": "healthcheck",
    "config": "config",
    "doctor": "doctor",
    "keys": "keys",
    "backup": "backup",
    "restore": "backup",
    "query": "query",
    "export": "export_data",
    "import": "import_data",
}


def run(arguments: argparse.Namespace) -> int:
    """Run the parsed command; the exit status. Raises VantageError."""
    if arguments.version:
        print(f"vantage {__version__}")
        return 0
    name = arguments.command or "serve"
    module = import_module(f"{__name__}.{_HOMES[name]}")
    return cast(Callable[[argparse.Namespace], int], getattr(module, f"run_{name}"))(arguments)
