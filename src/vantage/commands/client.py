"""Talking to a running server: asking, streaming, and posting with patience."""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from vantage import config
from vantage.config import Settings
from vantage.core.errors import (
    ForbiddenError,
    InputError,
    NotFoundError,
    QueryError,
    StoreTimeout,
    UnauthorizedError,
    UnavailableError,
    VantageError,
)

TIMEOUT_S: Final = 60.0
PATIENCE_S: Final = 600.0  # with a server that says it is busy, or has gone away while it was being written to
ANSWER_NBYTES_MAX: Final = 64 << 20
_RETRY_S: Final = 0.5  # after a connection broke; doubled up to the next
_RETRY_S_MAX: Final = 5.0


def client_key(arguments: argparse.Namespace) -> str | None:
    """The key given, or that of the settings."""
    return arguments.api_key or config.load().settings.api_key or None


def local_url(settings: Settings | None = None) -> str:
    """Where a server with these settings (those in effect here) listens on this machine."""
    settings = settings or config.load().settings
    return f"{'https' if settings.tls_certificate else 'http'}://127.0.0.1:{settings.port}"


def open_client(arguments: argparse.Namespace) -> Client:
    """The server that ``--url`` or the settings name. Raises InputError."""
    return Client(arguments.url or local_url(), api_key=client_key(arguments))


def unchecked_context() -> ssl.SSLContext:
    """For this machine's own server: the question is never whether its certificate names 127.0.0.1."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Client:
    """One kept connection. Every method raises UnavailableError when the server is away, and for what it refuses the
    error of the status: UnauthorizedError, ForbiddenError, NotFoundError, or InputError."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        timeout_s: float = TIMEOUT_S,
        sleep: Callable[[float], None] = time.sleep,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens nothing. Raises InputError when the URL is none."""
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise InputError(f"must look like http://127.0.0.1:8000, not {url!r}", field="--url")
        self._connection: http.client.HTTPConnection
        if parts.scheme == "http":
            self._connection = http.client.HTTPConnection(parts.hostname, port, timeout=timeout_s)
        else:
            context = unchecked_context() if parts.hostname == "127.0.0.1" else ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(parts.hostname, port, timeout=timeout_s, context=context)
        self._path = parts.path
        self._headers = {"X-API-Key": api_key} if api_key else {}
        self._sleep = sleep
        self._monotonic_s = monotonic_s
        self._has_answered = False

    def close(self) -> None:
        self._connection.close()

    def request(self, path: str, body: bytes | None = None) -> Any:
        """The decoded answer to a GET, or to one POST of a JSON body."""
        try:
            return _decoded(self.stream(path, body).read(ANSWER_NBYTES_MAX))
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._away(error) from error

    def stream(self, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
        """The answer to a GET, or to one POST of a JSON body, of which nothing is read yet."""
        method, headers = ("GET", {}) if body is None else ("POST", {"Content-Type": "application/json"})
        try:
            answer = self._exchange(method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._away(error) from error
        if answer.status != 200:
            try:
                text = answer.read(ANSWER_NBYTES_MAX)
            except (OSError, http.client.HTTPException) as error:
                raise self._away(error) from error
            raise error_from_response(answer.status, text, self.url)
        return answer

    def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, on_wait: Callable[[str], None] = lambda _: None
    ) -> Any:
        """Post something that may be repeated, until the server has taken it. ``waiting`` is told why it takes
        long."""
        began_s, retry_s = self._monotonic_s(), _RETRY_S
        while True:
            try:
                answer = self._exchange("POST", path, body, headers)
                text = answer.read(ANSWER_NBYTES_MAX)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                failure: VantageError = self._away(error)
                if not self._has_answered:
                    raise failure from error
                wait_s, retry_s = retry_s, min(retry_s * 2, _RETRY_S_MAX)
            else:
                self._has_answered = True
                if answer.status < 300:
                    return _decoded(text)
                failure = error_from_response(answer.status, text, self.url)
                if answer.status not in (429, 503):
                    raise failure
                wait_s = _retry_after_s(answer)
            if self._monotonic_s() + wait_s > began_s + PATIENCE_S:
                raise failure
            on_wait(str(failure))
            self._sleep(wait_s)

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        self._connection.request(method, self._path + path, body, {**self._headers, **headers})
        return self._connection.getresponse()

    def _away(self, error: Exception) -> UnavailableError:
        reason = "it did not answer in time" if isinstance(error, socket.timeout | TimeoutError) else str(error)
        return UnavailableError(f"{self.url} cannot be reached: {reason or type(error).__name__}")


def _decoded(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UnavailableError("the server's answer is no JSON: is it Vantage?") from error


def _retry_after_s(answer: http.client.HTTPResponse) -> float:
    try:
        return min(60.0, max(0.1, float(answer.getheader("Retry-After") or 1)))
    except ValueError:
        return 5.0


def _query_error(problem: Mapping[str, Any]) -> QueryError:
    error = QueryError(str(problem.get("detail")))
    for name in ("line", "column"):
        if isinstance(problem.get(name), int):
            setattr(error, name, problem[name])
    return error


def error_from_response(status: int, text: bytes, url: str) -> VantageError:
    """The error of a status, with what the server's problem details say."""
    try:
        problem = json.loads(text)
        if status == 400 and problem.get("field") == "query":
            return _query_error(problem)
        field = f"{problem['field']}: " if problem.get("field") else ""
        detail = field + str(problem.get("detail") or problem.get("title") or status)
    except (ValueError, AttributeError, KeyError):
        detail = f"HTTP status {status}"
    if status == 401:
        return UnauthorizedError(f"{url} wants an API key: {detail}")
    if status == 403:
        return ForbiddenError(f"{url} does not allow that: {detail}")
    if status == 404:
        return NotFoundError(f"{url} does not know this address, is it Vantage? ({detail})")
    if status == 504:
        return StoreTimeout(f"{url}: {detail}")
    if status == 429 or status >= 500:
        return UnavailableError(f"{url} cannot take it now ({status}): {detail}")
    return InputError(f"{url} refused it: {detail}")
