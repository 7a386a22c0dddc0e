"""The URL of a ClickHouse server: ``clickhouse://user:password@host:9000,host:9000/database?option=value``.

``clickhouses://`` and ``secure=true`` mean TLS. Further hosts are replicas that are used when one cannot be reached.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final
from urllib.parse import parse_qsl, unquote

from vantage.core.errors import ConfigError

SCHEMES: Final = ("clickhouse://", "clickhouses://")
PORT: Final = 9000
TLS_PORT: Final = 9440
HOSTS_MAX: Final = 16
TIMEOUT_S_MAX: Final = 3600.0
_DATABASE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_OPTIONS: Final = ("secure", "verify", "ca_certs", "connect_timeout_s", "read_timeout_s")
_BOOLS: Final = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """Where a server is and how to log in. ``verify`` checks the server's certificate against ``ca_certs``, a PEM file,
    or against the usual authorities. ``connect_timeout_s`` is for each host, ``read_timeout_s`` for each answer."""

    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str
    database: str
    secure: bool
    verify: bool
    ca_certs: str
    connect_timeout_s: float
    read_timeout_s: float

    def __repr__(self) -> str:
        return f"ServerUrl({self.user}@{self.where}/{self.database})"

    @property
    def where(self) -> str:
        """Return the hosts with their ports, for messages."""
        return ",".join(f"{host}:{port}" for host, port in self.hosts)


def is_server_url(url: str) -> bool:
    """Return whether a URL names a ClickHouse server."""
    return url.startswith(SCHEMES)


def parse_server_url(url: str) -> ServerUrl:
    """Parse a URL. Raises ConfigError, which does not contain the password."""
    scheme, _, rest = url.partition("://")
    address, _, query = rest.partition("?")
    address, _, database = address.partition("/")
    login, _, hosts = address.rpartition("@")
    user, _, password = login.partition(":")
    options = _options(query)
    secure = _flag(options, "secure", default=scheme == "clickhouses")
    database = unquote(database) or "vantage"
    if not _DATABASE.fullmatch(database):
        raise ConfigError(
            "store_url: the database must be a name of letters, digits and _; "
            "write / and @ in a password as %2F and %40"
        )
    return ServerUrl(
        hosts=_hosts(hosts, port=TLS_PORT if secure else PORT),
        user=unquote(user) or "default",
        password=unquote(password),
        database=database,
        secure=secure,
        verify=_flag(options, "verify", default=True),
        ca_certs=options.get("ca_certs", ""),
        connect_timeout_s=_seconds(options, "connect_timeout_s", default=5.0),
        read_timeout_s=_seconds(options, "read_timeout_s", default=60.0),
    )


def _hosts(text: str, *, port: int) -> tuple[tuple[str, int], ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("store_url: the host is missing; write it like clickhouse://user:password@host:9000/database")
    if len(names) > HOSTS_MAX:
        raise ConfigError(f"store_url: {len(names)} hosts are given, at most {HOSTS_MAX} are used")
    return tuple(_host(name, port, number) for number, name in enumerate(names, 1))


def _host(text: str, port: int, number: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/]+)(?::([0-9]{1,5}))?", text)
    if match is None or (match[2] and not 0 < int(match[2]) <= 65535):
        raise ConfigError(f"store_url: host {number} is not a name with a port, such as clickhouse:9000")
    return match[1].strip("[]"), int(match[2] or port)


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS:
            near = get_close_matches(name, _OPTIONS, n=1)
            hint = f"{name!r}, did you mean {near[0]!r}?" if near else f"known are {', '.join(_OPTIONS)}"
            raise ConfigError(f"store_url: unknown option; {hint}")
    return options


def _flag(options: dict[str, str], name: str, *, default: bool) -> bool:
    text = options.get(name)
    if text is None:
        return default
    if text.lower() not in _BOOLS:
        raise ConfigError(f"store_url: {name} must be true or false, not {text!r}")
    return _BOOLS[text.lower()]


def _seconds(options: dict[str, str], name: str, *, default: float) -> float:
    text = options.get(name)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= TIMEOUT_S_MAX:
        raise ConfigError(f"store_url: {name} must be seconds, more than 0 and at most {TIMEOUT_S_MAX:g}, not {text!r}")
    return seconds
