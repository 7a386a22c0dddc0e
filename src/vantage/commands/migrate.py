"""``vantage migrate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from vantage.commands.config import load
from vantage.commands.data_folder import make_folder


def run(arguments: argparse.Namespace) -> int:
    """Bring the metadata database and a ClickHouse server to the current schema, or print what would be applied."""
    from vantage.storage.clickhouse.server_url import is_server_url
    from vantage.storage.metadata import migrate
    from vantage.storage.open import metadata_url, migrate_server, pending_on_server

    settings = load(arguments).settings
    if not arguments.dry_run:
        make_folder(Path(settings.data))
    url = metadata_url(settings.metadata_url, data=Path(settings.data))
    steps = {"metadata": migrate.pending(url) if arguments.dry_run else migrate.upgrade(url)}
    if is_server_url(settings.store_url):
        server_steps = pending_on_server if arguments.dry_run else migrate_server
        steps["ClickHouse"] = server_steps(settings.store_url, cluster=settings.clickhouse_cluster)
    verb = "would be applied" if arguments.dry_run else "applied"
    for name, applied in steps.items():
        for step in applied:
            print(f"{name}: {step} {verb}")
        if not applied:
            print(f"{name}: nothing to do")
    return 0
