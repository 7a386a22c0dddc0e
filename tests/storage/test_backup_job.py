"""A backup that the running server makes: where it goes, and that it ends with the server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.samples import MovedClock, a_batch
from vantage.config import Settings
from vantage.core.errors import ConfigError
from vantage.storage import backup_job
from vantage.storage.backup_job import backup_of
from vantage.storage.embedded.store import EmbeddedStore
from vantage.telemetry import Telemetry


async def fill(folder: Path) -> None:
    async with EmbeddedStore(folder, clock=MovedClock(), telemetry=Telemetry()) as store:
        await store.write(a_batch(1.0, 2.0))


def nothing(_done: int, _total: int) -> None:
    return None


async def test_it_goes_beside_the_data_into_a_folder_of_its_time(tmp_path: Path) -> None:
    await fill(tmp_path / "data")
    make = backup_of(Settings(data=str(tmp_path / "data")), MovedClock())
    assert make is not None
    seen: list[tuple[int, int]] = []
    outcome = await make(lambda done, total: seen.append((done, total)))
    (backup,) = (tmp_path / "data-backups").iterdir()
    assert (backup / "backup.json").is_file()
    assert str(backup) in outcome
    assert seen[-1][0] == seen[-1][1] > 0


async def test_it_is_never_inside_what_it_copies(tmp_path: Path) -> None:
    await fill(tmp_path / "data")
    settings = Settings(data=str(tmp_path / "data"), backup_folder=str(tmp_path / "data" / "backups"))
    make = backup_of(settings, MovedClock())
    assert make is not None
    with pytest.raises(ConfigError, match="inside the data folder"):
        await make(nothing)


def test_a_store_that_is_elsewhere_has_none(tmp_path: Path) -> None:
    settings = Settings(data=str(tmp_path), store_url="clickhouse://user@host:9000/db")
    assert backup_of(settings, MovedClock()) is None


async def test_it_ends_with_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, ended = threading.Event(), threading.Event()

    def copy_forever(*_: Any, on_progress: Callable[[int, int], None], **_options: Any) -> None:
        began.set()
        try:
            while True:
                on_progress(1, 2)
        finally:
            ended.set()

    monkeypatch.setattr(backup_job, "make_backup", copy_forever)
    make = backup_of(Settings(data=str(tmp_path / "data")), MovedClock())
    assert make is not None
    task = asyncio.ensure_future(make(nothing))
    await asyncio.to_thread(began.wait, 10)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 10)
