"""The data folder of the commands that work on it directly."""

from __future__ import annotations

from pathlib import Path

from vantage.config import Settings
from vantage.core.errors import StartupError
from vantage.storage.open import metadata_url


def make_folder(data: Path) -> None:
    """Create the data folder, readable by its owner alone. Raises StartupError."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StartupError(f"the data folder {data} cannot be created: {error.strerror}") from error


def own_metadata(settings: Settings) -> Path | None:
    """Return the metadata database when it is the one in the data folder."""
    from vantage.storage.metadata.postgres import is_postgres
    from vantage.storage.metadata.sqlite import path_of

    if is_postgres(settings.metadata_url):
        return None
    own = Path(settings.data) / "metadata.db"
    named = path_of(metadata_url(settings.metadata_url, data=Path(settings.data)))
    return own if named.absolute() == own.absolute() else None
