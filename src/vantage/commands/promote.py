"""``vantage promote``: copy an embedded store to a ClickHouse server while it is served or of a stopped server, and
return from there."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec

from vantage.commands.config import load
from vantage.commands.console import Progress, notice
from vantage.commands.promote_on_server import promote_on_server
from vantage.config import Settings
from vantage.core.clock import SystemClock
from vantage.core.errors import ConfigError, ConflictError, DataFolderInUse, InputError, StartupError
from vantage.core.number_format import duration_s
from vantage.core.printable import printable
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.open import open_telemetry_store
from vantage.storage.promotion.record import (
    PromotionRecord,
    host_of,
    is_begun,
    read_record,
    record_for,
    remove_record,
    retained_since_ms,
    write_record,
)
from vantage.telemetry import Telemetry


def run(arguments: argparse.Namespace) -> int:
    """Copy, compare and switch; or return, print the state, or end it. Raises InputError, what the stores raise, and
    StartupError for a difference."""
    if arguments.url:
        return promote_on_server(arguments)
    settings = _settings(arguments)
    data = Path(settings.data)
    record = read_record(data)
    if arguments.status:
        print(_status(record))
        return 0
    if not data.is_dir():
        raise StartupError(f"{settings.data} is no folder")
    if not arguments.back and not arguments.abandon:
        record = record_for(arguments.to, record, data)
        return _run(_promote(settings, record, leave_rollups=arguments.leave_rollups))
    if record is None:
        raise InputError(f"{data} is not promoted: there is nothing to return from or to end")
    return _run(_return(settings, record) if arguments.back else _abandon(settings, record))


def _settings(arguments: argparse.Namespace) -> Settings:
    """Return the settings with the embedded store in the data folder. Raises ConfigError when they name another."""
    settings = load(arguments).settings
    record = read_record(Path(settings.data))
    if settings.store_url and (record is None or settings.store_url != record.url):
        raise ConfigError("promote copies the embedded store in the data folder, and store_url names another store")
    return msgspec.structs.replace(settings, store_url="")


def _run(work: Coroutine[None, None, str]) -> int:
    """Run a step to its end and print its sentence. Raises DataFolderInUse with what to do."""
    from vantage import log

    log.configure(log_format="console", log_level="error")
    try:
        print(printable(asyncio.run(work)))
    except DataFolderInUse as error:
        raise DataFolderInUse(f"{error}; with --url it is promoted while it serves") from error
    return 0


async def _promote(settings: Settings, record: PromotionRecord, *, leave_rollups: bool) -> str:
    from vantage.storage.promotion.copy import Copier

    data, began_s = Path(settings.data), time.monotonic()
    source, target = _stores(settings, record)
    async with source, target:  # the folder first: it is the one that refuses one in use
        if await source.raw_since_ms() and not leave_rollups:
            raise StartupError(
                "samples have expired by size and only their rollups are left, which cannot be copied: with "
                "--leave-rollups they stay in the data folder"
            )
        if not is_begun(data):
            if await target.list_series() or await target.services_with_spans():
                raise ConflictError(
                    f"{host_of(record)} has other data: name a database that is empty or does not exist"
                )
            write_record(data, record)
        with Progress() as progress:
            copier = Copier(
                source,
                target,
                data,
                record,
                clock=SystemClock(),
                oldest_ms=retained_since_ms(SystemClock().now_ms(), settings.retention_days),
                on_progress=_shown(progress, "compared"),
                on_wait=lambda reason: notice(f"waiting for ClickHouse: {reason}"),
            )
            await copier.run()
        record.phase = "switched"
        write_record(data, record)
    samples = sum(hour.samples for hour in record.hours.values())
    spans = sum(hour.spans for hour in record.hours.values())
    return (
        f"promoted to {host_of(record)}: {samples} samples and {spans} spans of {len(record.hours)} hours, compared, "
        f"in {duration_s(time.monotonic() - began_s)}; start the server, which now uses it"
    )


async def _return(settings: Settings, record: PromotionRecord) -> str:
    from vantage.storage.promotion.put_back import put_back

    data = Path(settings.data)
    if record.phase != "switched":
        raise ConflictError(f"the promotion to {host_of(record)} is unfinished: end it with --abandon")
    folder, server = _stores(settings, record)
    async with folder, server:
        with Progress() as progress:
            written, extra = await put_back(
                server,
                folder,
                record,
                oldest_ms=retained_since_ms(SystemClock().now_ms(), settings.retention_days),
                on_progress=_shown(progress, "compared"),
            )
        # The copy stays until it is ended. A new promotion compares all of it: the server may have deleted some.
        record.phase, record.hours = "copying", {}
        write_record(data, record)
    if extra:
        notice(f"{extra} samples and spans that were deleted on the server are in the folder: delete them again")
    return (
        f"returned from {host_of(record)} to {data}, with {written} samples and spans that came since; the copy on the "
        "server stays until `vantage promote --abandon`"
    )


async def _abandon(settings: Settings, record: PromotionRecord) -> str:
    from vantage.storage.promotion.copy import clear_all

    if record.phase == "switched":
        raise ConflictError(f"{settings.data} is promoted to {host_of(record)}: return with --back first")
    folder, server = _stores(settings, record)
    async with folder, server:
        await clear_all(server)
        remove_record(Path(settings.data))
    return f"the copy on {host_of(record)} is deleted; the data folder is as it was"


def _stores(settings: Settings, record: PromotionRecord) -> tuple[EmbeddedStore, ClickHouseStore]:
    """Return the store in the folder and that on the server, not yet opened."""
    clock = SystemClock()
    folder = open_telemetry_store(settings, clock=clock, telemetry=Telemetry())
    on_server = msgspec.structs.replace(settings, store_url=record.url)
    server = open_telemetry_store(on_server, clock=clock, telemetry=Telemetry())
    assert isinstance(folder, EmbeddedStore)
    assert isinstance(server, ClickHouseStore)
    return folder, server


def _shown(progress: Progress, verb: str) -> Callable[[int, int], None]:
    began_s = time.monotonic()

    def show(done: int, total: int) -> None:
        elapsed_s = max(time.monotonic() - began_s, 1e-3)
        left = f", {duration_s(elapsed_s / done * (total - done))} left" if done else ""
        rate = done / elapsed_s
        progress.show(f"{done} of {total} hours {verb}, {rate:.1f} hours/s{left}", share=done / max(total, 1))

    return show


def _status(record: PromotionRecord | None) -> str:
    if record is None:
        return "not promoted: the data is in the data folder"
    if record.phase == "switched":
        return f"promoted to {host_of(record)}: the server uses it"
    return f"copying to {host_of(record)}: {len(record.hours)} of {record.hours_total} hours are there; run it again"
