"""The commands: a module each, named after it, with ``run(arguments)``. Imported once the dependencies are there."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Final, cast

from vantage import __version__

_SUFFIXED: Final = frozenset({"import", "export"})  # a keyword of Python, and its counterpart: import_data, export_data


def run(arguments: argparse.Namespace) -> int:
    """Run the parsed command and return the exit status. Raises VantageError.

    The module is imported only now, so that no command waits for the libraries of another.
    """
    if arguments.version:
        print(f"vantage {__version__}")
        return 0
    name = arguments.command or "serve"
    module = import_module(f"{__name__}.{name.replace('-', '_')}{'_data' if name in _SUFFIXED else ''}")
    return cast(Callable[[argparse.Namespace], int], module.run)(arguments)
