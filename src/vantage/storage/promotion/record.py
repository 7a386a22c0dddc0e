"""``promotion.json`` in the data folder: where its data goes, which hours are there, and whether that is served."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

import msgspec

from vantage.core.errors import FormatTooNew, StartupError
from vantage.storage.embedded.offline.manifest import sync_folder
from vantage.storage.promotion.hour_summary import HourSummary

NAME: Final = "promotion.json"
FORMAT: Final = 1


class PromotionRecord(msgspec.Struct):
    """The state of a promotion. ``hours`` maps an hour since 1970 to what was copied and compared of it; ``url``
    contains the password, and only the owner can read the file."""

    url: str
    promotion_id: str
    phase: Literal["copying", "switched"] = "copying"
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
