"""Map errors to HTTP: the one table of status codes, and problem details (RFC 9457)."""

from __future__ import annotations

import errno
import math
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from vantage.core.errors import (
    BusyError,
    ConflictError,
    ForbiddenError,
    InputError,
    NotFoundError,
    QueryError,
    StoreTimeout,
    UnauthorizedError,
    UnavailableError,
    VantageError,
)
from vantage.ingest.body import BodyTooLarge, UnknownEncoding
from vantage.ingest.receive import UnknownMediaType
from vantage.web.limits import RateLimited

SHORTAGE_RETRY_S: Final = 5.0
_SHORTAGES: Final = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE})
_NO_THREAD: Final = "can't start new thread"  # Python's words, when memory for a stack is missing
MEDIA_TYPE: Final = "application/problem+json"


class MethodNotAllowed(VantageError):
    """The path exists, the method does not. ``allowed`` goes into the Allow header."""

    def __init__(self, allowed: str) -> None:
        super().__init__(f"use {allowed} here")
        self.allowed = allowed


class NotAcceptable(VantageError):
    """The requested format is not available."""


# The first class that matches gives the status and a short title.
_STATUS: Final[tuple[tuple[type[VantageError], int, str], ...]] = (
    (MethodNotAllowed, 405, "Method not allowed"),
    (NotAcceptable, 406, "Not acceptable"),
    (BodyTooLarge, 413, "Body too large"),
    (UnknownEncoding, 415, "Unsupported content encoding"),
    (UnknownMediaType, 415, "Unsupported media type"),
    (NotFoundError, 404, "Not found"),
    (ConflictError, 409, "Conflict"),
    (InputError, 400, "Bad request"),
    (UnauthorizedError, 401, "Key needed"),
    (ForbiddenError, 403, "Forbidden"),
    (RateLimited, 429, "Too many requests"),
    (BusyError, 503, "Busy"),
    (UnavailableError, 503, "Unavailable"),
    (StoreTimeout, 504, "Query timed out"),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """An HTTP response that describes an error."""

    status: int
    title: str
    detail: str
    field: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    more: tuple[tuple[str, str | int], ...] = ()  # members of its own kind

    def body(self, request_id: str) -> bytes:
        content: dict[str, Any] = {"type": "about:blank", "title": self.title, "status": self.status}
        content["detail"] = self.detail
        if self.field:
            content["field"] = self.field
        content.update(self.more)
        if request_id:
            content["request_id"] = request_id
        return msgspec.json.encode(content)


def problem_of(error: Exception) -> Problem:
    """Return the response to an error, whatever it is: the table of every boundary."""
    if not isinstance(error, VantageError):
        error = _as_ours(error)
    status, title = next(((status, title) for kind, status, title in _STATUS if isinstance(error, kind)), (500, ""))
    headers: list[tuple[str, str]] = []
    if isinstance(error, (BusyError, UnavailableError)):
        headers.append(("retry-after", str(max(1, math.ceil(error.retry_after_s)))))
    if isinstance(error, MethodNotAllowed):
        headers.append(("allow", error.allowed))
    if status == 401:
        headers.append(("www-authenticate", "Bearer"))
    if status == 500:
        return Problem(500, "Internal error", "something went wrong inside Vantage; the log has the details")
    if isinstance(error, InputError):
        return Problem(status, title, error.reason, error.field, tuple(headers), _query_members(error))
    return Problem(status, title, str(error), "", tuple(headers))


def _as_ours(error: Exception) -> VantageError:
    """Return the error of ours that says the same to a client; a plain VantageError for a fault of Vantage."""
    if isinstance(error, RecursionError):
        return InputError("is nested too deeply", field="body")
    if isinstance(error, UnicodeDecodeError):  # msgspec raises it for the keys of JSON
        return InputError("is not UTF-8", field="body")
    if is_shortage(error):
        return BusyError("the server is short of memory", retry_after_s=SHORTAGE_RETRY_S)
    return VantageError(str(error))


def is_shortage(error: Exception) -> bool:
    """Return whether the process lacks memory, threads or files for now."""
    if isinstance(error, OSError):
        return error.errno in _SHORTAGES
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and str(error) == _NO_THREAD)


def _query_members(error: InputError) -> tuple[tuple[str, str | int], ...]:
    """Return the position in a query, and a suggestion."""
    if not isinstance(error, QueryError):
        return ()
    members = (("line", error.line), ("column", error.column), ("suggestion", error.suggestion))
    return tuple((name, value) for name, value in members if value)


def reason_of(error: Exception) -> str:
    """Return a short label of an error's kind, for counters."""
    problem = problem_of(error)
    return problem.title.lower().replace(" ", "_")
