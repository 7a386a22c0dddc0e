"""The HTTP client of the command line: one connection, bounded responses, errors of one line without a secret."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

import httpx2

from vantage import __version__
from vantage.core.errors import InputError, UnavailableError

RESPONSE_NBYTES_MAX: Final = 64 << 20
RETRY_AFTER_S_MAX: Final = 60.0
_LOCAL: Final = "127.0.0.1"
_HEADER_VALUE: Final = re.compile(r"[!-~\x80-\xff](?:[ -~\x80-\xff]*[!-~\x80-\xff])?")


class ConnectionFailed(UnavailableError):
    """The server cannot be reached, did not answer in time, or broke the connection off."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response that was read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def retry_after_s(self) -> float:
        """Return the seconds to wait before the next attempt: those of Retry-After, 1 without it, at least 0.1."""
        try:
            return min(RETRY_AFTER_S_MAX, max(0.1, float(self.headers.get("retry-after") or 1)))
        except ValueError:  # a date
            return 5.0


class ResponseStream:
    """A response whose body is read piece by piece. Close it, or read it to its end, before the next request."""

    def __init__(self, response: httpx2.Response, url: str) -> None:
        self._response = response
        self._url = url
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body as it arrives. Raises ConnectionFailed."""
        try:
            yield from self._response.iter_raw()
        except httpx2.HTTPError as error:
            raise _connection_failed(self._url, error) from error
        finally:
            self._response.close()

    def read(self) -> bytes:
        """Return the rest of the body. Raises UnavailableError when it is too long, and ConnectionFailed."""
        pieces, nbytes = [], 0
        for piece in self:
            pieces.append(piece)
            nbytes += len(piece)
            if nbytes > RESPONSE_NBYTES_MAX:
                self._response.close()
                raise UnavailableError(f"{self._url} answered with more than {RESPONSE_NBYTES_MAX >> 20} MiB")
        return b"".join(pieces)


class HttpClient:
    """Sends requests to one server over one connection that stays open. No status is an error here.

    The environment's proxies and .netrc are ignored: the server is often on this machine.
    """

    def __init__(self, url: str, *, api_key: str | None, timeout_s: float, follow_redirects: bool = False) -> None:
        """Connect to nothing yet. Raises InputError for a URL or a key that cannot be used."""
        parts = _split(url)
        # Without a password, as errors show it.
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"vantage/{__version__}"}
        if api_key:
            headers["X-API-Key"] = _checked_key(api_key)
        try:
            self._client = httpx2.Client(
                base_url=f"{parts.scheme}://{parts.netloc}{parts.path}",
                headers=httpx2.Headers(headers, encoding="latin-1"),
                verify=_unchecked_context() if parts.hostname == _LOCAL else ssl.create_default_context(),
                trust_env=False,
                timeout=timeout_s,
                limits=httpx2.Limits(max_connections=1, keepalive_expiry=None),
                follow_redirects=follow_redirects,
            )
        except httpx2.InvalidURL as error:
            raise _no_url(url) from error

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send a request and read its response. Raises ConnectionFailed, UnavailableError for an endless response."""
        stream = self.stream(method, path, body, headers)
        return Response(stream.status, stream.headers, stream.read())

    def stream(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> ResponseStream:
        """Send a request and return its response, of which only the headers are read. Raises ConnectionFailed."""
        try:
            request = self._client.build_request(method, path, content=body, headers=headers)
            return ResponseStream(self._client.send(request, stream=True), self.url)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError) as error:
            raise _connection_failed(self.url, error) from error


def _split(url: str) -> SplitResult:
    """Return the parts of an address. Raises InputError."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise _no_url(url) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _no_url(url)
    return parts


def _no_url(url: str) -> InputError:
    return InputError(f"must look like http://127.0.0.1:8000, not {url!r}", field="--url")


def _checked_key(api_key: str) -> str:
    # Checked here, since the library's error for such a value shows it.
    if (value := _HEADER_VALUE.fullmatch(api_key.strip())) is None:
        raise InputError("contains characters that no header can carry", field="--api-key")
    return value[0]


def _unchecked_context() -> ssl.SSLContext:
    """For this machine's own server: the question is never whether its certificate names 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _connection_failed(url: str, error: Exception) -> ConnectionFailed:
    reason = "it did not answer in time" if isinstance(error, httpx2.TimeoutException) else str(error)
    return ConnectionFailed(f"{url} cannot be reached: {reason or type(error).__name__}")
