"""A backup that the running server makes of its own data folder."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from vantage import __version__
from vantage.config import Settings
from vantage.core.clock import Clock
from vantage.core.errors import ConfigError, StartupError
from vantage.core.number_format import size
from vantage.core.turns import wait_in_thread
from vantage.storage.embedded.offline.backup import make_backup
from vantage.storage.open import own_metadata, store_folder


def backup_of(settings: Settings, clock: Clock) -> Callable[[Callable[[int, int], None]], Awaitable[str]] | None:
    """Return what makes a backup of these settings' data folder in a new folder of ``backup_folder``, reports bytes
    done and in all, and returns its outcome in words; None where the store is not in a folder of ours. It raises what
    ``make_backup`` raises."""
    data = Path(settings.data)
    try:
        folder = store_folder(settings.store_url, data=data)
    except ConfigError:
        return None
    home = Path(settings.backup_folder) if settings.backup_folder else data.with_name(f"{data.absolute().name}-backups")

    def run(on_progress: Callable[[int, int], None]) -> str:
        if home.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"backup_folder: {home} is inside the data folder")
        target = home / datetime.fromtimestamp(clock.now_ms() / 1000, UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
        try:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StartupError(f"{home} cannot be created: {error.strerror}") from error
        metadata = own_metadata(settings)
        result = make_backup(
            folder, target, metadata=metadata, version=__version__, now_ms=clock.now_ms, on_progress=on_progress
        )
        notes = [] if metadata is not None else ["the metadata database is elsewhere and was not copied"]
        notes += [f"not readable, left out: {', '.join(result.omitted)}"] if result.omitted else []
        return "; ".join([f"{size(result.manifest.nbytes)} in {target}", *notes])

    async def make(on_progress: Callable[[int, int], None]) -> str:
        stopping = threading.Event()

        def report(done: int, total: int) -> None:
            if stopping.is_set():
                raise StartupError("the server stopped: nothing of this backup is left")
            on_progress(done, total)

        try:
            return await wait_in_thread(run, report)
        finally:
            stopping.set()  # a copy of minutes must not keep the process from its end

    return make
