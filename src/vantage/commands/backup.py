"""``vantage backup``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from vantage import __version__
from vantage.commands.config import load
from vantage.commands.console import Progress, notice
from vantage.core.clock import SystemClock
from vantage.core.errors import InputError, StartupError
from vantage.core.number_format import duration_s, size
from vantage.core.printable import printable
from vantage.storage.embedded.offline.backup import make_backup
from vantage.storage.embedded.offline.manifest import Manifest
from vantage.storage.open import own_metadata, store_folder


def run(arguments: argparse.Namespace) -> int:
    """Copy the data folder, beside a running server or without one. Raises what ``make_backup`` raises, and
    StartupError when the backup is complete but for segments that cannot be read."""
    settings = load(arguments).settings
    target = Path(arguments.dest)
    _refuse_inside(target, (Path(settings.data), store_folder(settings.store_url, data=Path(settings.data))))
    began_s = time.monotonic()
    with Progress() as progress:
        backup = make_backup(
            store_folder(settings.store_url, data=Path(settings.data)),
            target,
            metadata=own_metadata(settings),
            version=__version__,
            now_ms=SystemClock().now_ms,
            on_progress=lambda done, total: progress.show(
                f"{size(done)} of {size(total)} copied", share=done / max(total, 1)
            ),
            on_wait=notice,
        )
    if own_metadata(settings) is None:
        notice(
            f"not copied: the metadata database, which is elsewhere by metadata_url ({_where(settings.metadata_url)})"
        )
    if backup.quarantined:
        notice(f"not copied: {backup.quarantined} quarantined files in segments/damaged")
    print(
        f"{printable(str(target))}: {counts(backup.manifest)}, in {duration_s(time.monotonic() - began_s)}; "
        f"segments were locked for {duration_s(backup.locked_s)}"
    )
    if backup.omitted:
        raise StartupError(f"the backup lacks files that cannot be read: {'; '.join(backup.omitted)}")
    return 0


def _where(metadata_url: str) -> str:
    """Return what metadata_url names and how it is copied, without its password."""
    from vantage.storage.metadata.postgres import is_postgres, parse_url

    if is_postgres(metadata_url):
        return f"PostgreSQL at {parse_url(metadata_url).where}: copy it with pg_dump"
    return metadata_url


def _refuse_inside(target: Path, folders: Sequence[Path]) -> None:
    """Raise InputError for a backup inside what is backed up: it would become part of the data."""
    for folder in folders:
        if target.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{target} is inside the data folder {folder}: choose a folder elsewhere", field="DEST")


def counts(manifest: Manifest) -> str:
    """Return the size of a backup in words."""
    return f"{size(manifest.nbytes)} in {len(manifest.files)} files, {manifest.segments} of them segments"
