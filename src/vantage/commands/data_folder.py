"""The data folder of the commands that work on it directly."""

from __future__ import annotations

from pathlib import Path

from vantage.core.errors import StartupError


def make_folder(data: Path) -> None:
    """Create the data folder, readable by its owner alone. Raises StartupError."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StartupError(f"the data folder {data} cannot be created: {error.strerror}") from error
