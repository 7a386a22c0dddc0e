"""Requests to a running server: single ones, streamed responses, and posts that wait for a busy server."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

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
from vantage.http_client import ConnectionFailed, HttpClient, ResponseStream

CREATED: Final = 201
NO_CONTENT: Final = 204
TIMEOUT_S: Final = 60.0
PATIENCE_S: Final = 600.0  # with a server that is busy, or disappears during an import
_RETRY_S: Final = 0.5  # after a broken connection; doubled up to the next
_RETRY_S_MAX: Final = 5.0


def client_key(arguments: argparse.Namespace) -> str | None:
    """Return the key of the options, or that of the settings."""
    return arguments.api_key or config.load().settings.api_key or None


def local_url(settings: Settings | None = None) -> str:
    """Return where a server with these settings (those in effect here) listens on this machine."""
    settings = settings or config.load().settings
    return f"{'https' if settings.tls_certificate else 'http'}://127.0.0.1:{settings.port}"


def open_client(arguments: argparse.Namespace, *, timeout_s: float = TIMEOUT_S) -> Client:
    """Return a client of the server that ``--url`` or the settings name. Raises InputError."""
    return Client(arguments.url or local_url(), api_key=client_key(arguments), timeout_s=timeout_s)


class Client:
    """One connection to a server. Every method raises UnavailableError when the server is away, and for what it
    refuses the error of the status: UnauthorizedError, ForbiddenError, NotFoundError, or InputError."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        timeout_s: float = TIMEOUT_S,
        sleep: Callable[[float], None] = time.sleep,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect to nothing yet. Raises InputError for an address or a key that cannot be used."""
        self._http = HttpClient(url, api_key=api_key, timeout_s=timeout_s)
        self.url = self._http.url
        self._sleep = sleep
        self._monotonic_s = monotonic_s
        self._has_answered = False

    def close(self) -> None:
        self._http.close()

    def request(self, path: str, body: bytes | None = None, *, method: str | None = None) -> Any:
        """Return the decoded response to a GET, to one POST of a JSON body, or to another method."""
        response = self.stream(path, body, method=method)
        text = response.read()
        return None if response.status == NO_CONTENT else _decoded(text)

    def stream(self, path: str, body: bytes | None = None, *, method: str | None = None) -> ResponseStream:
        """Return the response to a GET, to one POST of a JSON body, or to another method, with its body unread."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        response = self._http.stream(method or ("GET" if body is None else "POST"), path, body, headers)
        if response.status not in (200, CREATED, NO_CONTENT):
            raise error_from_response(response.status, response.read(), self.url)
        return response

    def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, on_wait: Callable[[str], None] = lambda _: None
    ) -> Any:
        """Post what may be repeated until the server accepts it, and return the decoded response. ``on_wait`` gets
        the reason before each wait."""
        began_s, retry_s = self._monotonic_s(), _RETRY_S
        while True:
            try:
                response = self._http.request("POST", path, body, headers)
            except ConnectionFailed as error:
                failure: VantageError = error
                if not self._has_answered:
                    raise
                wait_s, retry_s = retry_s, min(retry_s * 2, _RETRY_S_MAX)
            else:
                self._has_answered = True
                if response.status < 300:
                    return _decoded(response.body)
                failure = error_from_response(response.status, response.body, self.url)
                if response.status not in (429, 503):
                    raise failure
                wait_s = response.retry_after_s()
            if self._monotonic_s() + wait_s > began_s + PATIENCE_S:
                raise failure
            on_wait(str(failure))
            self._sleep(wait_s)


def _decoded(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnavailableError("the server's response is not JSON: is it Vantage?") from error


def _query_error(problem: Mapping[str, Any]) -> QueryError:
    error = QueryError(str(problem.get("detail")))
    for name in ("line", "column"):
        if isinstance(problem.get(name), int):
            setattr(error, name, problem[name])
    return error


def error_from_response(status: int, text: bytes, url: str) -> VantageError:
    """Return the error of a status, with the server's problem details."""
    try:
        problem = json.loads(text)
        if status == 400 and problem.get("field") == "query":
            return _query_error(problem)
        field = f"{problem['field']}: " if problem.get("field") else ""
        detail = field + str(problem.get("detail") or problem.get("title") or status)
    except (ValueError, AttributeError, KeyError, RecursionError):
        detail = f"HTTP status {status}"
    if status == 401:
        return UnauthorizedError(f"{url} requires an API key: {detail}")
    if status == 403:
        return ForbiddenError(f"{url} does not allow that: {detail}")
    if status == 404:
        return NotFoundError(f"{url} has no such address, is it Vantage? ({detail})")
    if status == 504:
        return StoreTimeout(f"{url}: {detail}")
    if status == 429 or status >= 500:
        return UnavailableError(f"{url} cannot accept it now ({status}): {detail}")
    return InputError(f"{url} refused it: {detail}")
