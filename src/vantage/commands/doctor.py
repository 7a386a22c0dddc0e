"""``vantage doctor``: one line per check, and the disk usage."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Final

from vantage.commands.config import load
from vantage.commands.console import Progress, paint
from vantage.commands.disk_usage import show_usage
from vantage.config import Loaded, Settings
from vantage.core.clock import SystemClock
from vantage.core.errors import ConfigError, sentence
from vantage.core.number_format import duration_ms, size, utc
from vantage.core.printable import printable
from vantage.core.sample import FUTURE_MS_MAX
from vantage.storage.clickhouse.server_url import is_server_url
from vantage.storage.embedded.offline.folder_reader import FolderContents, ReadOnlyFolder
from vantage.storage.embedded.offline.restore import refuse_unfinished
from vantage.storage.embedded.offline.verify import verify_segments
from vantage.storage.open import chdb_folder, is_chdb, pending_on_server, store_folder
from vantage.storage.steady_time import STANDSTILL_MS_MAX
from vantage.storage.write_access import why_read_only

DISK_FREE_MIN: Final = 500_000_000
CLOCK_EARLIEST_MS: Final = 1_700_000_000_000  # a clock before this time was never set
FAULTS_SHOWN: Final = 20


class _Report:
    """Prints the result of each check, and records whether any failed."""

    failed = False

    def ok(self, name: str, text: str) -> None:
        print(f"{paint('ok', 'green', sys.stdout)}    {name}: {printable(text)}")

    def fail(self, name: str, text: object) -> None:
        self.failed = True
        print(f"{paint('FAIL', 'bold red', sys.stdout)}  {name}: {printable(str(text))}")

    def check(self, name: str, probe: Callable[[], str]) -> None:
        try:
            self.ok(name, probe())
        except Exception as error:  # noqa: BLE001 - a check that cannot be made has failed, and the others go on
            self.fail(name, sentence(error))


def run(arguments: argparse.Namespace) -> int:
    """Run every check; exit status 1 when one fails."""
    report = _Report()
    loaded: list[Loaded] = []

    def configuration() -> str:
        loaded.append(load(arguments))
        return f"{len(loaded[0].origins)} settings given, {len(loaded[0].warnings)} warnings"

    report.check("configuration", configuration)
    show = _check_data(report, loaded[0].settings, arguments) if loaded else None
    report.check("clock", _check_clock)
    if loaded and loaded[0].settings.rate_limit_url:
        report.check("rates", lambda: _check_rates(loaded[0].settings.rate_limit_url))
    if show is not None:
        show()
    return 1 if report.failed else 0


def _check_data(report: _Report, settings: Settings, arguments: argparse.Namespace) -> Callable[[], None] | None:
    """Return a function that prints the disk usage, None when it is unknown."""
    data = Path(settings.data)
    report.check("data folder", lambda: _check_folder(data))
    if is_chdb(settings.store_url) or is_server_url(settings.store_url):
        report.check("store", lambda: _check_clickhouse(settings, data))
        report.check("metadata", lambda: _check_metadata(settings.metadata_url, data))
        report.check("disk", lambda: _check_disk(data))
        return None
    folders: list[Path] = []

    newest_ms: list[int] = []

    def journal() -> str:
        folders.append(store_folder(settings.store_url, data=data))
        refuse_unfinished(folders[0])
        return _check_journal(folders[0], newest_ms)

    report.check("journal", journal)
    contents = _check_segments(report, folders[0], deep=arguments.deep) if folders else None
    report.check("metadata", lambda: _check_metadata(settings.metadata_url, data))
    report.check("disk", lambda: _check_disk(data))
    if contents is None:
        return None
    report.check(
        "newest data",
        lambda: _check_newest(newest_ms + [part.last_ms for segment in contents.segments for part in segment.parts]),
    )
    # With --data the usage is read from the folder itself: the server at the configured address may use another.
    return lambda: show_usage(folders[0], contents, server=None if arguments.data else settings)


def _check_clickhouse(settings: Settings, data: Path) -> str:
    url = settings.store_url
    if is_chdb(url):
        return f"ClickHouse's engine in {chdb_folder(url, data=data)}, which checks its own files"
    steps = pending_on_server(url, cluster=settings.clickhouse_cluster)
    return f"ClickHouse answers; {len(steps)} migrations to apply" if steps else "ClickHouse answers; schema is current"


def _check_folder(data: Path) -> str:
    if not data.exists():
        return f"{data} does not exist yet; `vantage serve` creates it"
    probe = data / f".doctor-{secrets.token_hex(4)}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        if reason := why_read_only((data,)):
            raise ConfigError(
                f"{data}: {reason}; `vantage serve` lets it be read, and answers ingest with 503"
            ) from error
        raise ConfigError(f"{data} cannot be written: {error.strerror}") from error
    return f"{data} can be written"


def _check_journal(folder: Path, newest_ms: list[int]) -> str:
    from vantage.storage.embedded.write.journal import check_journal

    path = folder / "journal.db"
    if not path.exists():
        return "empty"
    journal = check_journal(path, ReadOnlyFolder(folder).connect)
    if journal.problem:
        raise ConfigError(f"{path}: {journal.problem}")
    if journal.damaged:
        raise ConfigError(f"{path}: {journal.damaged} of {journal.commits} commits cannot be read")
    newest_ms.append(journal.newest_ms)
    return f"{journal.commits} commits, {journal.series} series, every checksum matches"


def _check_segments(report: _Report, folder: Path, *, deep: bool) -> FolderContents | None:
    """Return the contents of the segments, None when they cannot be read at all."""
    reader = ReadOnlyFolder(folder)
    try:
        contents = reader.segments()
    except Exception as error:  # noqa: BLE001 - as for any check
        report.fail("segments", sentence(error))
        return None
    for text in contents.damaged:
        report.fail("segments", text)
    for name in contents.quarantined:
        report.fail("segments", f"{name} is quarantined and not served: restore it from a backup, or remove it")
    parts = [part for segment in contents.segments for part in segment.parts]
    nbytes = sum(segment.path.stat().st_size for segment in contents.segments if segment.path.exists())
    report.ok(
        "segments",
        f"{len(contents.segments)} files, {sum(part.samples for part in parts)} samples, "
        f"{sum(part.spans for part in parts)} spans, {size(nbytes)}",
    )
    if deep:
        _check_rows(report, reader, contents)
    return contents


def _check_rows(report: _Report, reader: ReadOnlyFolder, contents: FolderContents) -> None:
    with Progress() as progress:
        faults = verify_segments(
            reader,
            contents,
            on_progress=lambda done, total: progress.show(
                f"{size(done)} of {size(total)} read", share=done / max(total, 1)
            ),
        )
        first_faults = list(islice(faults, FAULTS_SHOWN))
        more = sum(1 for _ in faults)
    for fault in first_faults:
        report.fail("rows", fault)
    if more:
        report.fail("rows", f"{more} more")
    if not first_faults:
        report.ok("rows", f"every row of {len(contents.segments)} files can be read and matches the others")


def _check_metadata(url: str, data: Path) -> str:
    from vantage.storage.metadata import migrate
    from vantage.storage.open import metadata_url

    steps = migrate.pending(metadata_url(url, data=data))
    return f"{len(steps)} migrations to apply; `vantage serve` applies them" if steps else "schema is current"


def _check_disk(data: Path) -> str:
    existing = next(folder for folder in (data.absolute(), *data.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < DISK_FREE_MIN:
        raise ConfigError(f"{size(free)} free on {existing}, at least {size(DISK_FREE_MIN)} are needed")
    return f"{size(free)} free"


def _check_rates(url: str) -> str:
    from vantage import log
    from vantage.telemetry import Telemetry
    from vantage.web.shared_rates import SharedRates

    log.configure(log_format="console", log_level="error")

    async def why_away() -> str:
        async with SharedRates(url, clock=SystemClock(), telemetry=Telemetry()) as rates:
            return rates.away

    if reason := asyncio.run(why_away()):
        raise ConfigError(reason)
    return "Redis answers"


def _check_newest(times_ms: list[int]) -> str:
    """Compare the clock with the newest data. Data ahead of the clock means that one of the two was wrong."""
    newest_ms = max(times_ms, default=0)
    if not newest_ms:
        return "none yet"
    ahead_ms = newest_ms - SystemClock().now_ms()
    if ahead_ms > FUTURE_MS_MAX:
        raise ConfigError(f"is of {utc(newest_ms)}, {duration_ms(ahead_ms)} ahead of the clock: is the clock right?")
    if ahead_ms < -STANDSTILL_MS_MAX:
        return f"{utc(newest_ms)}, {duration_ms(-ahead_ms)} ago: if data was sent since, the clock is wrong"
    return f"{utc(newest_ms)}, which agrees with the clock"


def _check_clock() -> str:
    now_ms = SystemClock().now_ms()
    if now_ms < CLOCK_EARLIEST_MS:
        raise ConfigError(f"the clock says {utc(now_ms)}: set it, or every sample is in the future")
    return utc(now_ms)
