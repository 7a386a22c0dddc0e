"""``promotion.json`` in the data folder: where its data goes, which hours are there, and whether that is served."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final, Literal

import msgspec

from vantage.core.errors import ConflictError, FormatTooNew, InputError, StartupError
from vantage.core.rollup import HOUR_MS
from vantage.storage.clickhouse.server_url import is_server_url, parse_server_url
from vantage.storage.embedded.offline.manifest import sync_folder
from vantage.storage.promotion.hour_summary import HourSummary

DAY_MS: Final = 24 * HOUR_MS
NAME: Final = "promotion.json"
FORMAT: Final = 1


class PromotionRecord(msgspec.Struct):
    """The state of a promotion. ``hours`` maps an hour since 1970 to what was copied and compared of it; ``url``
    contains the password, and only the owner can read the file. ``by_server``: a running server copies, and continues
    when it starts again."""

    url: str
    promotion_id: str
    phase: Literal["copying", "switched"] = "copying"
    by_server: bool = False
    hours: dict[int, HourSummary] = {}
    hours_total: int = 0
    format: int = FORMAT


class _Format(msgspec.Struct):
    format: int


def read_record(data: Path) -> PromotionRecord | None:
    """Return the record of a data folder, None when there is no promotion. Raises FormatTooNew, StartupError."""
    path = data / NAME
    try:
        text = path.read_bytes()
        if msgspec.json.decode(text, type=_Format).format > FORMAT:
            raise FormatTooNew(f"{path} was written by a newer Vantage: nothing was touched")
        return msgspec.json.decode(text, type=PromotionRecord)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise StartupError(f"{path} is damaged: {error}") from error


def write_record(data: Path, record: PromotionRecord) -> None:
    """Write the record durably, all of it or nothing. Raises StartupError."""
    half = data / f"{NAME}.part"
    try:
        half.unlink(missing_ok=True)
        with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        half.rename(data / NAME)
        sync_folder(data)
    except OSError as error:
        raise StartupError(f"{data / NAME} cannot be written: {error.strerror}") from error


def remove_record(data: Path) -> None:
    """Remove the record durably. Raises StartupError."""
    try:
        (data / NAME).unlink(missing_ok=True)
        sync_folder(data)
    except OSError as error:
        raise StartupError(f"{data / NAME} cannot be removed: {error.strerror}") from error


def is_begun(data: Path) -> bool:
    """Return whether a data folder has a record."""
    return (data / NAME).exists()


def record_for(url: str, record: PromotionRecord | None, data: Path) -> PromotionRecord:
    """Return the ``record`` to continue from, or a new one for ``url``. Raises InputError, ConflictError,
    ConfigError."""
    if record is None:
        if not is_server_url(url):
            raise InputError("give --to clickhouse://USER:PASSWORD@HOST:9000/DATABASE")
        parse_server_url(url)
        return PromotionRecord(url, secrets.token_hex(8))
    if record.phase == "switched":
        raise ConflictError(f"{data} is promoted already, to {host_of(record)}: return with `vantage promote --back`")
    if url:
        new, known = parse_server_url(url), parse_server_url(record.url)
        if (new.hosts, new.database) != (known.hosts, known.database):
            raise ConflictError(
                f"a promotion to {host_of(record)} is unfinished: continue it, or end it with --abandon"
            )
        record.url = url  # the password may be another
    return record


def retained_since_ms(now_ms: int, retention_days: int | None) -> int:
    """Return the start of the day before which data expires on the server, 0 where none does."""
    return 0 if retention_days is None else now_ms // DAY_MS * DAY_MS - retention_days * DAY_MS


def host_of(record: PromotionRecord) -> str:
    """Return the server and the database, without user and password."""
    url = parse_server_url(record.url)
    return f"{url.where}/{url.database}"
