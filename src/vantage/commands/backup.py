"""``vantage backup`` and ``vantage restore``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from vantage import __version__
from vantage.commands.config import load
from vantage.commands.console import Progress, notice
from vantage.config import Settings
from vantage.core.clock import SystemClock
from vantage.core.errors import ConfigError, StartupError
from vantage.core.number_format import duration_s, size, utc
from vantage.storage.embedded.offline.backup import make_backup
from vantage.storage.embedded.offline.manifest import Manifest
from vantage.storage.embedded.offline.restore import restore_backup
from vantage.storage.open import metadata_url, store_folder


def run_backup(arguments: argparse.Namespace) -> int:
    """Copy the data folder, whether a server runs on it or not. Raises what ``make_backup`` raises, and StartupError
    when the backup was made and lacks a segment that cannot be read."""
    settings = load(arguments).settings
    target = Path(arguments.dest)
    began_s = time.monotonic()
    with Progress() as progress:
        made = make_backup(
            store_folder(settings.store_url, data=Path(settings.data)),
            target,
            metadata=_own_metadata(settings),
            version=__version__,
            now_ms=SystemClock().now_ms,
            on_progress=lambda done, total: progress.show(
                f"{size(done)} of {size(total)} copied", share=done / max(total, 1)
            ),
            on_wait=notice,
        )
    if _own_metadata(settings) is None:
        notice(f"not copied: the metadata database, which metadata_url names ({settings.metadata_url})")
    if made.quarantined:
        notice(f"not copied: {made.quarantined} damaged files that were put aside in segments/damaged")
    print(
        f"{target}: {_counts(made.manifest)}, in {duration_s(time.monotonic() - began_s)}; "
        f"segments stood still for {duration_s(made.locked_s)}"
    )
    if made.omitted:
        raise StartupError(f"the backup lacks what cannot be read: {'; '.join(made.omitted)}")
    return 0


def _own_metadata(settings: Settings) -> Path | None:
    """The metadata database when it is the one in the data folder."""
    from vantage.storage.metadata.sqlite import path_of

    own = Path(settings.data) / "metadata.db"
    named = path_of(metadata_url(settings.metadata_url, data=Path(settings.data)))
    return own if named.absolute() == own.absolute() else None


def run_restore(arguments: argparse.Namespace) -> int:
    """Put a backup into the data folder. Raises what ``restore_backup`` raises."""
    settings = load(arguments).settings
    data = Path(settings.data)
    if store_folder(settings.store_url, data=data).absolute() != data.absolute():
        raise ConfigError("a backup goes into one folder, and store_url names another one: leave it out for now")
    began_s = time.monotonic()
    with Progress() as progress:
        manifest = restore_backup(
            Path(arguments.source),
            data,
            on_verify=lambda done, total: progress.show(
                f"{size(done)} of {size(total)} verified", share=done / max(total, 1)
            ),
            on_copy=lambda done, total: progress.show(
                f"{size(done)} of {size(total)} restored", share=done / max(total, 1)
            ),
        )
    if "metadata.db" not in {one.path for one in manifest.files}:
        notice("the backup holds no metadata: there are no keys and no deployments")
    elif _own_metadata(settings) is None:
        notice(f"keys and deployments are in {data}/metadata.db, and metadata_url names another database")
    print(
        f"{data}: {_counts(manifest)} as of {utc(manifest.made_ms)}, in {duration_s(time.monotonic() - began_s)}; "
        "start it with vantage serve"
    )
    return 0


def _counts(manifest: Manifest) -> str:
    return f"{size(manifest.nbytes)} in {len(manifest.files)} files, {manifest.segments} of them segments"
