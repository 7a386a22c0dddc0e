"""``vantage migrate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from vantage.commands.config import load
from vantage.commands.data_folder import make_folder


def run(arguments: argparse.Namespace) -> int:
    """Bring the metadata database to the current schema, or print what would be applied."""
    from vantage.storage.metadata import migrate
    from vantage.storage.open import metadata_url

    settings = load(arguments).settings
    if not arguments.dry_run:
        make_folder(Path(settings.data))
    url = metadata_url(settings.metadata_url, data=Path(settings.data))
    steps = migrate.pending(url) if arguments.dry_run else migrate.upgrade(url)
    verb = "would be applied" if arguments.dry_run else "applied"
    for step in steps:
        print(f"metadata: {step} {verb}")
    if not steps:
        print("metadata: nothing to do")
    return 0
