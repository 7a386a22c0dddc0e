"""``vantage delete``: all data of a service, an environment, or both, on a server or in a data folder."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from vantage.commands.client import local_url, open_client
from vantage.commands.config import load
from vantage.config import Settings
from vantage.core.clock import SystemClock
from vantage.core.errors import DataFolderInUse, InputError, StartupError, UnavailableError
from vantage.core.number_format import size
from vantage.core.printable import printable

TIMEOUT_S: Final = 600.0  # every file with such data is rewritten before the server answers


def run(arguments: argparse.Namespace) -> int:
    """Delete after confirmation and print how much; exit status 1 when it was refused. Raises InputError for options
    that exclude each other, and what the client and the stores raise."""
    if arguments.url and arguments.data:
        raise InputError("give --url or --data, not both")
    service, environment = arguments.service, arguments.environment
    if not service and not environment:
        raise InputError("give --service, --environment, or both")
    if not arguments.yes and not _confirm(service, environment, arguments.data or arguments.url or local_url()):
        print("nothing was deleted", file=sys.stderr)
        return 1
    delete = _delete_in_folder if arguments.data else _delete_on_server
    deleted = delete(arguments, service, environment)
    print(
        f"deleted {deleted['samples']} samples, {deleted['spans']} spans, {deleted['series']} series and "
        f"{deleted['deployments']} deployments: about {size(deleted['bytes'])}"
    )
    return 0


def _confirm(service: str, environment: str, where: str) -> bool:
    """Request a yes on the terminal. Raises InputError when there is none."""
    if not sys.stdin.isatty():
        raise InputError("without a terminal nobody can confirm: give --yes to delete")
    scope = [f"service {service!r}"] if service else []
    scope += [f"environment {environment!r}"] if environment else []
    prompt = f"Delete all samples, spans and deployments of {' in '.join(scope)} on {where}, for good? [y/N] "
    print(printable(prompt), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _delete_on_server(arguments: argparse.Namespace, service: str, environment: str) -> Mapping[str, int]:
    client = open_client(arguments, timeout_s=TIMEOUT_S)
    selector = {"service": service, "environment": environment}
    query = urlencode({name: value for name, value in selector.items() if value})
    try:
        deleted: Any = client.request(f"/api/data?{query}", method="DELETE")
        return {name: int(deleted[name]) for name in ("samples", "spans", "series", "deployments", "bytes")}
    except (KeyError, TypeError, ValueError) as error:
        raise UnavailableError(f"{client.url} answered something else: is it Vantage?") from error
    finally:
        client.close()


def _delete_in_folder(arguments: argparse.Namespace, service: str, environment: str) -> Mapping[str, int]:
    settings = load(arguments).settings
    if not Path(settings.data).is_dir():
        raise StartupError(f"{settings.data} is no folder")
    try:
        return asyncio.run(_delete_directly(settings, service, environment))
    except DataFolderInUse as error:
        raise DataFolderInUse(f"{error}; delete through that server instead, with --url or without --data") from error


async def _delete_directly(settings: Settings, service: str, environment: str) -> Mapping[str, int]:
    from vantage import log
    from vantage.query.deletion import Deletion
    from vantage.storage.open import open_metadata, open_telemetry_store
    from vantage.telemetry import Telemetry

    log.configure(log_format="console", log_level="error")
    clock = SystemClock()
    store = open_telemetry_store(settings, clock=clock, telemetry=Telemetry())
    metadata = open_metadata(settings.metadata_url, data=Path(settings.data), clock=clock)
    async with store, metadata:  # the store first: it is the one that refuses a folder in use
        deleted = await Deletion(store, metadata, clock).delete(service, environment, actor="cli")
    return {
        "samples": deleted.samples,
        "spans": deleted.spans,
        "series": deleted.series,
        "deployments": deleted.deployments,
        "bytes": deleted.nbytes,
    }
