"""``vantage backup``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from vantage import __version__
from vantage.commands.config import load
from vantage.commands.console import Progress, notice
from vantage.commands.data_folder import own_metadata
from vantage.core.clock import SystemClock
from vantage.core.errors import StartupError
from vantage.core.number_format import duration_s, size
from vantage.storage.embedded.offline.backup import make_backup
from vantage.storage.embedded.offline.manifest import Manifest
from vantage.storage.open import store_folder


def run(arguments: argparse.Namespace) -> int:
    """Copy the data folder, whether a server runs on it or not. Raises what ``make_backup`` raises, and StartupError
    when the backup was made and lacks a segment that cannot be read."""
    settings = load(arguments).settings
    target = Path(arguments.dest)
    began_s = time.monotonic()
    with Progress() as progress:
        made = make_backup(
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
        notice(f"not copied: the metadata database, which metadata_url names ({settings.metadata_url})")
    if made.quarantined:
        notice(f"not copied: {made.quarantined} damaged files that were put aside in segments/damaged")
    print(
        f"{target}: {counts(made.manifest)}, in {duration_s(time.monotonic() - began_s)}; "
        f"segments stood still for {duration_s(made.locked_s)}"
    )
    if made.omitted:
        raise StartupError(f"the backup lacks what cannot be read: {'; '.join(made.omitted)}")
    return 0


def counts(manifest: Manifest) -> str:
    """Return how much a backup contains, in words."""
    return f"{size(manifest.nbytes)} in {len(manifest.files)} files, {manifest.segments} of them segments"
