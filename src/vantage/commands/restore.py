"""``vantage restore``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from vantage.commands.backup import counts
from vantage.commands.config import load
from vantage.commands.console import Progress, notice
from vantage.core.errors import ConfigError
from vantage.core.number_format import duration_s, size, utc
from vantage.core.printable import printable
from vantage.storage.embedded.offline.restore import restore_backup
from vantage.storage.open import own_metadata, store_folder


def run(arguments: argparse.Namespace) -> int:
    """Restore a backup into the data folder. Raises what ``restore_backup`` raises."""
    settings = load(arguments).settings
    data = Path(settings.data)
    if store_folder(settings.store_url, data=data).absolute() != data.absolute():
        raise ConfigError("a backup is restored into one folder, and store_url names another: unset it for now")
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
    if "metadata.db" not in {file.path for file in manifest.files}:
        notice("the backup contains no metadata: there are no keys and no deployments")
    elif own_metadata(settings) is None:
        notice(f"keys and deployments are in {data}/metadata.db, and metadata_url names another database")
    print(
        f"{printable(str(data))}: {counts(manifest)} as of {utc(manifest.made_ms)}, "
        f"in {duration_s(time.monotonic() - began_s)}; start it with vantage serve"
    )
    return 0
