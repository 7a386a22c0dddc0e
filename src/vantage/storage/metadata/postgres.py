"""PostgreSQL's URLs, connections and errors: ``postgresql://user:password@host:5432/database?option=value``.

Further hosts are standbys: the one that can be written is used. asyncpg is imported when a connection is made.
"""

from __future__ import annotations

import importlib
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote

from sqlalchemy import Connection, NullPool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from vantage.core.errors import ConfigError, ConflictError, InputError, StartupError, StoreUnavailable, VantageError

SCHEMES: Final = ("postgresql://", "postgres://")
PORT: Final = 5432
HOSTS_MAX: Final = 16
CONNECT_S: Final = 3.0
COMMAND_S: Final = 5.0  # for the answer to one statement
MIGRATION_LOCK: Final = 0x7661_6E74_0001  # advisory locks are numbers; these say "vant"
CHANGE_LOCK: Final = 0x7661_6E74_0002
MIGRATION_LOCK_S: Final = 60
IDLE_S: Final = 10  # in a transaction: one of a process that is frozen must not stop the others for good
_EXAMPLE: Final = "postgresql://user:password@host:5432/database"
_OPTIONS: Final = ("host", "port", "sslmode", "sslrootcert")
_MODES: Final = ("disable", "prefer", "require", "verify-ca", "verify-full")
# Login and rights: trying again does not help. https://www.postgresql.org/docs/current/errcodes-appendix.html
_REFUSALS: Final = ("28", "3D000", "42501")
_UNREACHABLE: Final = ("08", "53300", "57P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """Where the database is and how to log in. ``hosts`` are names with ports, or the folder of a socket."""

    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str
    database: str
    ssl_mode: str
    ssl_root_cert: str

    def __repr__(self) -> str:
        return f"PostgresUrl({self.where})"

    @property
    def where(self) -> str:
        """Return hosts and database, for messages."""
        return f"{','.join(f'{host}:{port}' for host, port in self.hosts)}/{self.database}"


def is_postgres(url: str) -> bool:
    """Return whether a URL names a database of PostgreSQL."""
    return url.startswith(SCHEMES)


def parse_url(url: str) -> PostgresUrl:
    """Parse a URL. Raises ConfigError, which does not contain the password."""
    address, _, query = url.partition("://")[2].partition("?")
    address, _, database = address.partition("/")
    login, _, hosts = address.rpartition("@")
    user, _, password = login.partition(":")
    database = unquote(database)
    if not database or "/" in database or not database.isprintable():
        raise ConfigError(
            f"metadata_url: the database must have a name, like {_EXAMPLE}; write / and @ in a password as %2F and %40"
        )
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS:
            near = get_close_matches(name, _OPTIONS, n=1)
            hint = f"{name!r}, did you mean {near[0]!r}?" if near else f"known are {', '.join(_OPTIONS)}"
            raise ConfigError(f"metadata_url: unknown option; {hint}")
    mode = options.get("sslmode", "verify-full" if options.get("sslrootcert") else "prefer")
    if mode not in _MODES:
        raise ConfigError(f"metadata_url: sslmode must be one of {', '.join(_MODES)}, not {mode!r}")
    return PostgresUrl(
        hosts=_hosts(hosts) if hosts else _socket(options),
        user=unquote(user),
        password=unquote(password),
        database=database,
        ssl_mode=mode,
        ssl_root_cert=options.get("sslrootcert", ""),
    )


def _hosts(names: str) -> tuple[tuple[str, int], ...]:
    hosts = [name.strip() for name in names.split(",") if name.strip()]
    if not hosts or len(hosts) > HOSTS_MAX:
        raise ConfigError(f"metadata_url: 1 to {HOSTS_MAX} hosts must be given, like {_EXAMPLE}")
    return tuple(_host(name, number) for number, name in enumerate(hosts, 1))


def _socket(options: dict[str, str]) -> tuple[tuple[str, int], ...]:
    folder, port = options.get("host", ""), options.get("port", str(PORT))
    if not folder.startswith("/") or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) <= 65535:
        raise ConfigError(f"metadata_url: a host must be given, like {_EXAMPLE}, or ?host=/FOLDER of a Unix socket")
    return ((folder, int(port)),)


def _host(name: str, number: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/]+)(?::([0-9]{1,5}))?", name)
    if match is None or (match[2] and not 0 < int(match[2]) <= 65535):
        raise ConfigError(f"metadata_url: host {number} is not a name with a port, such as postgres:{PORT}")
    return match[1].strip("[]"), int(match[2] or PORT)


def create_engine(url: PostgresUrl, *, command_s: float | None = COMMAND_S, **options: Any) -> AsyncEngine:
    """Return an engine that has not connected yet. Raises StartupError without the driver, ConfigError for a
    certificate that cannot be read."""
    try:
        asyncpg = importlib.import_module("asyncpg")
    except ImportError as error:
        raise StartupError(
            "metadata_url names PostgreSQL, whose driver is not installed: pip install 'vantage[server,postgres]'"
        ) from error
    arguments: dict[str, Any] = {
        "host": [host for host, _ in url.hosts],
        "port": [port for _, port in url.hosts],
        "user": url.user or None,
        "password": url.password or None,
        "database": url.database,
        "ssl": _tls(url),
        "timeout": CONNECT_S,
        "command_timeout": command_s,
        "server_settings": {"application_name": "vantage"},
    }
    if len(url.hosts) > 1:
        arguments["target_session_attrs"] = "read-write"

    def connect(*_arguments: object, **_options: object) -> Any:
        return asyncpg.connect(**arguments)

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        # A change first waits for its turn, and reads what is committed then: not what was when it began to wait.
        isolation_level="READ COMMITTED",
        hide_parameters=True,
        **options,
    )


def _tls(url: PostgresUrl) -> ssl.SSLContext | str:
    if not url.ssl_mode.startswith("verify"):
        return url.ssl_mode
    try:
        context = ssl.create_default_context(cafile=url.ssl_root_cert or None)
    except OSError as error:
        raise ConfigError(f"metadata_url: sslrootcert cannot be read: {error.strerror or error}") from error
    context.check_hostname = url.ssl_mode == "verify-full"
    return context


async def run_in_transaction(url: PostgresUrl, run: Callable[[Connection], _T], *, locked: bool) -> _T:
    """Run a function in a transaction on a connection of its own; ``locked`` while no other process does. Raises as
    ``postgres_errors``."""
    with postgres_errors(url):
        engine = create_engine(url, command_s=None if locked else COMMAND_S, poolclass=NullPool)
        try:
            async with engine.begin() as connection:
                if locked:
                    await connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_LOCK_S}s'"))
                    await connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
                return await connection.run_sync(run)
        finally:
            await engine.dispose()


@contextmanager
def postgres_errors(url: PostgresUrl) -> Iterator[None]:
    """Run the body. A violated constraint raises ConflictError, a text that PostgreSQL cannot store InputError, a
    refused login or right ConfigError, and any other failure StoreUnavailable. Messages have no values."""
    try:
        yield
    except VantageError:
        raise
    except PoolTimeout as error:
        raise StoreUnavailable("the metadata database is busy: no connection became available in time") from error
    except Exception as error:
        ours = _as_ours(error, url)
        if ours is None:
            raise
        raise ours from error


def is_unreachable(error: BaseException) -> bool:
    """Return whether an error of ``postgres_errors`` means that the server was not there."""
    cause = error.__cause__
    if cause is None or isinstance(cause, PoolTimeout):
        return False
    cause = _driver_error(cause)
    code = getattr(cause, "sqlstate", None) or ""
    return isinstance(cause, OSError | TimeoutError) or code.startswith(_UNREACHABLE) or _is_closed(cause)


def is_standby(error: BaseException) -> bool:
    """Return whether an error of ``postgres_errors`` means that the server cannot be written (any more)."""
    return error.__cause__ is not None and getattr(_driver_error(error.__cause__), "sqlstate", None) == "25006"


def _as_ours(error: Exception, url: PostgresUrl) -> VantageError | None:
    cause = _driver_error(error)
    if not isinstance(error, DBAPIError | OSError | TimeoutError) and not type(cause).__module__.startswith("asyncpg"):
        return None
    code = getattr(cause, "sqlstate", None) or ""
    reason = (str(cause).splitlines() or [type(cause).__name__])[0]
    if isinstance(cause, TimeoutError):
        return StoreUnavailable(f"PostgreSQL does not answer in time at {url.where}")
    if isinstance(cause, OSError):
        return StoreUnavailable(f"PostgreSQL cannot be reached at {url.where}: {_system_reason(cause)}")
    if code.startswith("23"):
        return ConflictError("the metadata database refused the change: another one has the same values")
    if code.startswith("22") or (isinstance(cause, ValueError) and not code):
        return InputError("contains characters or numbers that the metadata database cannot store")
    if code.startswith(_REFUSALS):
        return ConfigError(f"PostgreSQL at {url.where} refuses: {reason}")
    return StoreUnavailable(f"the metadata database does not answer: {reason}")


def _driver_error(error: BaseException) -> BaseException:
    """Return what asyncpg or the system raised."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def _is_closed(cause: BaseException) -> bool:
    return type(cause).__name__ in ("InterfaceError", "InternalClientError")  # asyncpg's


def _system_reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror | ssl.SSLError) or not error.errno:
        return str(error.strerror or error)
    return os.strerror(error.errno)
