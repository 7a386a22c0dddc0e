"""Calls to addresses that users configure: notices and HTTP checks. They reach no private network by surprise, follow
no redirect to another host, and end in time."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import SplitResult, urljoin, urlsplit

from vantage import __version__
from vantage.core.errors import ConfigError, InputError, UnavailableError

TIMEOUT_S: Final = 10.0
RESPONSE_NBYTES_MAX: Final = 64 << 10
REDIRECTS_MAX: Final = 3
ADDRESSES_MAX: Final = 4  # of one host that are tried
URL_LENGTH_MAX: Final = 2048
ANY: Final = "*"
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
# Public by their number, and yet inside: translations of IPv4 addresses, and where Azure's machines read their secrets.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_SPECIAL: Final = (ipaddress.IPv4Address("168.63.129.16"),)
_HEADERS_OF_HTTP: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "te"})
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\t -~\x80-\xff]*")


class OutgoingRefused(InputError):
    """The call is not made: its address is invalid, or in a network that is not allowed."""


class OutgoingFailed(UnavailableError):
    """The host has no address, cannot be reached, breaks off or does not answer in time. What arrived is unknown."""


@dataclass(frozen=True, slots=True)
class OutgoingResponse:
    """A response; ``headers`` have lower-case names. ``body`` is cut at the limit, and then ``is_cut``."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_cut: bool = False


class Outgoing:
    """Makes calls, each over a connection of its own: a host's name is resolved once, and the address that was checked
    is the one connected to. Proxies of the environment are ignored, as they would resolve the name again."""

    def __init__(self, networks: Sequence[str] = (), *, resolve: Resolve | None = None) -> None:
        """``networks`` are those that may be called although they are private, such as ``10.0.0.0/8``; ``*`` is any.
        Raises ConfigError."""
        self._any = ANY in networks
        self._networks = [_network(text) for text in networks if text != ANY]
        self._resolve = resolve or _system_addresses

    def check_url(self, url: str, *, field: str = "url") -> SplitResult:
        """Return the parts of a URL that may be called, as far as can be said without its addresses. Raises
        OutgoingRefused."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise OutgoingRefused("is not a URL", field=field) from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OutgoingRefused("is not an http or https URL", field=field)
        if len(url) > URL_LENGTH_MAX or not url.isprintable() or " " in url or "\\" in url:
            raise OutgoingRefused(f"is longer than {URL_LENGTH_MAX}, or has spaces or control characters", field=field)
        if parts.username is not None or parts.password is not None:
            raise OutgoingRefused("contains a user name or password: use a header", field=field)
        if port == 0:
            raise OutgoingRefused("has the port 0", field=field)
        try:
            parts.hostname.encode("idna" if not parts.hostname.isascii() else "ascii")
        except UnicodeError as error:
            raise OutgoingRefused("is not the name of a host", field=field) from error
        if literal := _literal(parts.hostname):
            self._check_addresses(parts.hostname, [literal], field)
        return parts

    async def addresses(self, host: str, port: int, *, field: str = "url") -> list[str]:
        """Return the addresses of a host that may be called, at most ADDRESSES_MAX. Raises OutgoingRefused when it has
        none, OutgoingFailed when it cannot be resolved. It may last as long as the resolver does: set a time limit."""
        texts = await self._resolve(host, port)
        if not texts:
            raise OutgoingFailed(f"{host} has no address")
        return self._check_addresses(host, [ipaddress.ip_address(text) for text in texts], field)

    def _check_addresses(self, host: str, addresses: Sequence[Address], field: str) -> list[str]:
        allowed = [str(address) for address in addresses if self._allows(address)]
        if not allowed:
            raise OutgoingRefused(
                f"{host} has the address {addresses[0]}, which is private: allow it with the setting outgoing_networks",
                field=field,
            )
        return allowed[:ADDRESSES_MAX]

    def _allows(self, address: Address) -> bool:
        inner = _embedded(address)
        if self._any or any(item in network for network in self._networks for item in (address, inner)):
            return True
        return inner.is_global and not inner.is_multicast and not inner.is_reserved and inner not in _SPECIAL

    async def call(
        self,
        method: str,
        url: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        response_nbytes_max: int = RESPONSE_NBYTES_MAX,
    ) -> OutgoingResponse:
        """Send a request and return its response, whatever its status. All of it, resolving and redirects too, ends
        within ``timeout_s``. A redirect is followed on the same host, and not from https to http; another one is the
        response. Raises OutgoingRefused, OutgoingFailed."""
        headers = _checked_headers(headers or {})
        host = self.check_url(url).hostname
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(REDIRECTS_MAX + 1):
                    response = await self._call_once(method, url, body, headers, timeout_s, response_nbytes_max)
                    target = _redirect(method, url, response)
                    if target is None:
                        return response
                    url, method, body = target, *((method, body) if response.status in (307, 308) else ("GET", b""))
        except TimeoutError as error:
            raise OutgoingFailed(f"{host} did not answer within {timeout_s:g} s") from error
        raise OutgoingFailed(f"{host} redirects more than {REDIRECTS_MAX} times")

    async def _call_once(
        self,
        method: str,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout_s: float,
        response_nbytes_max: int,
    ) -> OutgoingResponse:
        import httpx2

        parts = self.check_url(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        failure = ""
        for address in await self.addresses(host, port):
            pinned = parts._replace(netloc=f"{f'[{address}]' if ':' in address else address}:{port}", fragment="")
            sent = {
                "user-agent": f"vantage/{__version__}",
                "accept-encoding": "identity",
                **headers,
                "host": parts.netloc.encode("idna").decode() if not parts.netloc.isascii() else parts.netloc,
            }
            name = host.encode("idna").decode() if not host.isascii() else host
            # No connection stays open: one to this address is not one to every host that has it.
            async with httpx2.AsyncClient(verify=tls_context(), trust_env=False, timeout=timeout_s) as client:
                try:
                    request = client.build_request(
                        method, pinned.geturl(), content=body, headers=sent, extensions={"sni_hostname": name}
                    )
                    response = await client.send(request, stream=True, follow_redirects=False)
                    try:
                        return await _read(response, response_nbytes_max)
                    finally:
                        await response.aclose()
                except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                    failure = _reason(error)  # nothing was sent: another address may do
                except (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError) as error:
                    raise OutgoingFailed(f"{host} broke the connection off: {_reason(error)}") from error
        raise OutgoingFailed(f"{host} cannot be reached: {failure}")


@cache
def tls_context() -> ssl.SSLContext:
    """Return the context of TLS, which checks certificates and their names. It is made once, which takes a while."""
    return ssl.create_default_context()


async def _read(response: Any, nbytes_max: int) -> OutgoingResponse:
    pieces: list[bytes] = []
    nbytes = 0
    async for piece in response.aiter_raw():
        pieces.append(piece)
        nbytes += len(piece)
        if nbytes > nbytes_max:
            break
    headers = {name.lower(): value for name, value in response.headers.items()}
    return OutgoingResponse(response.status_code, headers, b"".join(pieces)[:nbytes_max], is_cut=nbytes > nbytes_max)


def _redirect(method: str, url: str, response: OutgoingResponse) -> str | None:
    """Return where a response sends the request that may be followed."""
    location = response.headers.get("location", "")
    if not location or response.status not in (301, 302, 303, 307, 308):
        return None
    if method not in ("GET", "HEAD") and response.status not in (307, 308):
        return None  # a GET would lose what was sent, and may be answered all the same
    try:
        old, target = urlsplit(url), urljoin(url, location)
        new = urlsplit(target)
        same = new.hostname == old.hostname and _port(new) == _port(old)
        upgrade = new.hostname == old.hostname and (old.scheme, new.scheme) == ("http", "https")
    except ValueError:
        return None
    return target if new.scheme in ("http", "https") and (upgrade or (same and new.scheme == old.scheme)) else None


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _reason(error: Exception) -> str:
    """Return the first line of an error: some of them quote what a server sent."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers with lower-case names. Raises OutgoingRefused, without the value, which may be a secret."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise OutgoingRefused(f"the header {name[:60]!r} has characters that no header may have", field="headers")
        if name.lower() in _HEADERS_OF_HTTP:
            raise OutgoingRefused(f"the header {name!r} cannot be set", field="headers")
    return {name.lower(): value for name, value in headers.items()}


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ConfigError(f"outgoing_networks: {text[:100]!r} is not an address or network") from error


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address leads to, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


_resolvers: Final = ThreadPoolExecutor(4, thread_name_prefix="resolve")  # apart: a resolver may hang for half a minute


async def _system_addresses(host: str, port: int) -> list[str]:
    """Resolve as the system does, which takes ``2130706433`` and ``0177.1`` for 127.0.0.1: it is addresses that are
    checked, not their spelling. Raises OutgoingFailed."""
    loop = asyncio.get_running_loop()
    try:
        rows = await loop.run_in_executor(_resolvers, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not the name of a host"
        raise OutgoingFailed(f"{host} cannot be resolved: {reason}") from error
    return list(dict.fromkeys(str(row[4][0]).partition("%")[0] for row in rows))
