"""Every error Vantage raises on purpose, one class per decision the caller can take.

    VantageError
    ├── InputError            mend the input: names the field and the reason
    │   ├── NotFoundError     the thing named does not exist
    │   ├── ConflictError     it exists already, or is in another state
    │   └── QueryError        mend the query: says where in its text
    ├── ForbiddenError        mend the credentials
    │   └── UnauthorizedError no key, or a key nobody knows
    ├── BusyError             slow down, then send the same again (carries retry_after_s)
    ├── UnavailableError      a component is away: try again later (carries retry_after_s)
    │   └── StoreUnavailable  the telemetry or metadata store cannot answer or cannot write
    ├── StoreTimeout          the query ran past its deadline: ask for less
    └── StartupError          give up: the process cannot run like this
        ├── ConfigError       a setting is wrong
        ├── DataFolderInUse   another process holds the data folder
        └── FormatTooNew      the data was written by a newer version; nothing was touched

HTTP status codes are given in ``vantage.web.problems`` and nowhere else; ``sentence`` says any error on one line.
"""

from __future__ import annotations

import traceback
from pathlib import Path


class VantageError(Exception):
    """Root of the tree; ``str(error)`` is one sentence for a person."""


class InputError(VantageError):
    """The caller must fix the input. ``field`` is a path such as ``metrics[3].value``; empty for the complete input."""

    def __init__(self, reason: str, *, field: str = "") -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.reason = reason
        self.field = field


class NotFoundError(InputError):
    """The named thing does not exist."""


class ConflictError(InputError):
    """The named thing exists already, or its state changed meanwhile."""


class QueryError(InputError):
    """The caller must fix the query.

    ``line`` and ``column`` count from 1 and are None where unknown; ``at`` is the same as an offset. ``suggestion`` is
    what was probably meant, '' for none; ``reason`` ends with it.
    """

    def __init__(self, reason: str, *, at: int | None = None, suggestion: str = "", field: str = "query") -> None:
        super().__init__(f"{reason}: {suggestion}" if suggestion else reason, field=field)
        self.at = at
        self.suggestion = suggestion
        self.line: int | None = None
        self.column: int | None = None

    def locate(self, text: str) -> None:
        """Compute line and column from the offset into ``text``."""
        if self.at is not None:
            before = text[: self.at]
            self.line = before.count("\n") + 1
            self.column = len(before) - before.rfind("\n")

    def __str__(self) -> str:
        position = f" (line {self.line}, column {self.column})" if self.line is not None else ""
        return f"{self.reason}{position}" if self.field in ("", "query") else f"{self.field}: {self.reason}{position}"


class ForbiddenError(VantageError):
    """The key is known but lacks the scope, or the origin is not allowed."""


class UnauthorizedError(ForbiddenError):
    """No key was given, or it is unknown, expired or revoked."""


class BusyError(VantageError):
    """A limit is reached; the same request may succeed after ``retry_after_s`` seconds."""

    def __init__(self, reason: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class UnavailableError(VantageError):
    """A component is unavailable; nothing was half-done. Repeat after ``retry_after_s`` seconds."""

    def __init__(self, reason: str, *, retry_after_s: float = 5.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class StoreUnavailable(UnavailableError):
    """The store cannot write or answer now (disk full, read-only, closed, database unavailable)."""


class StoreTimeout(VantageError):
    """The query ran past its deadline."""


class StartupError(VantageError):
    """The process cannot start or go on; the message says what to change."""


class ConfigError(StartupError):
    """A setting is unknown or its value cannot be used."""


class DataFolderInUse(StartupError):
    """Another process uses the data folder."""


class FormatTooNew(StartupError):
    """The data folder was written by a newer version of Vantage; nothing in it was touched."""


def sentence(error: BaseException) -> str:
    """Return what an error says to a person: the sentence of ours, or for any other what and where it was."""
    if isinstance(error, VantageError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, RecursionError):
        return "the input is nested too deeply"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
