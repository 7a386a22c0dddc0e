"""Rate limits that several servers share, in Redis.

The bucket of an owner is a hash in Redis, and a script takes a token from it in one step, by Redis' own clock. Requests
that arrive while an answer is awaited share the next round trip, on one connection. While Redis does not answer, each
process counts by itself, as without Redis.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qsl, unquote

import structlog

from vantage.core.clock import Clock
from vantage.core.errors import ConfigError, StartupError
from vantage.telemetry import Telemetry
from vantage.web.limits import TokenBuckets, too_many

TIMEOUT_S: Final = 0.05  # for an answer
CONNECT_S: Final = 1.0  # to see at start, and after a pause, whether Redis answers
PAUSE_S: Final = 1.0  # between such attempts
SLOW_MAX: Final = 3  # round trips in a row that took longer, until Redis counts as away
BATCH_MAX: Final = 256  # tokens of one round trip
PORT: Final = 6379
PREFIX: Final = "vantage:rate:"
EXPIRES_MS: Final = 61_000  # a bucket is full after a minute, and a new one is full
_OPTIONS: Final = ("ssl_ca_certs",)
_EXAMPLE: Final = "redis://:password@host:6379/0"
_TAKE: Final = f"""
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + time[2] / 1000
local waits_ms = {{}}
for i, key in ipairs(KEYS) do
  local capacity = tonumber(ARGV[i])
  local per_ms = capacity / 60000
  local bucket = redis.call('HMGET', key, 'tokens', 'at_ms')
  local tokens = tonumber(bucket[1]) or capacity
  local at_ms = tonumber(bucket[2]) or now_ms
  tokens = math.min(capacity, tokens + math.max(0, now_ms - at_ms) * per_ms)
  if tokens < 1 then
    waits_ms[i] = string.format('%.17g', (1 - tokens) / per_ms)
  else
    waits_ms[i] = '0'
    tokens = tokens - 1
  end
  redis.call('HSET', key, 'tokens', string.format('%.17g', tokens), 'at_ms', string.format('%.17g', now_ms))
  redis.call('PEXPIRE', key, {EXPIRES_MS})
end
return waits_ms
"""
_log = structlog.get_logger("vantage.web.rates")


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """Where Redis is and how to log in."""

    host: str
    port: int
    user: str
    password: str
    database: int
    secure: bool
    ca_certs: str

    def __repr__(self) -> str:
        return f"RedisUrl({self.where})"

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}/{self.database}"


def parse_redis_url(url: str) -> RedisUrl:
    """Parse ``redis://`` or, with TLS, ``rediss://``. Raises ConfigError, which does not contain the password."""
    scheme, _, rest = url.partition("://")
    address, _, query = rest.partition("?")
    login, _, server = address.rpartition("@")
    user, _, password = login.partition(":")
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/]+)(?::([0-9]{1,5}))?(?:/([0-9]{0,4}))?", server)
    if scheme not in ("redis", "rediss") or match is None or (match[2] and not 0 < int(match[2]) <= 65535):
        raise ConfigError(
            f"rate_limit_url must be like {_EXAMPLE}, or rediss:// for TLS; write / and @ in a password as %2F and %40"
        )
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise ConfigError(f"rate_limit_url: unknown option {unknown[0]!r}; known are {', '.join(_OPTIONS)}")
    return RedisUrl(
        host=match[1].strip("[]"),
        port=int(match[2] or PORT),
        user=unquote(user),
        password=unquote(password),
        database=int(match[3] or 0),
        secure=scheme == "rediss",
        ca_certs=options.get("ssl_ca_certs", ""),
    )


@dataclass(frozen=True, slots=True)
class _Request:
    """A token to take, and the seconds until there is one: 0 when it was taken, None when Redis does not answer."""

    key: str
    per_minute: int
    wait_s: asyncio.Future[float | None]


class SharedRates:
    """The connection to Redis, and whether it answers. ``async with`` opens and closes it; Redis may be away."""

    def __init__(self, url: str, *, clock: Clock, telemetry: Telemetry) -> None:
        """Do no I/O. Raises ConfigError for an invalid URL, StartupError without the driver."""
        self._url = parse_redis_url(url)
        try:
            self._redis = importlib.import_module("redis.asyncio")
        except ImportError as error:
            raise StartupError(
                "rate_limit_url names Redis, whose driver is not installed: pip install 'vantage[server,redis]'"
            ) from error
        self._clock = clock
        self._telemetry = telemetry
        self._client: Any = None
        self._script: Any = None
        self._waiting: list[_Request] = []
        self._sender: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self._slow = 0
        self.away = "is not connected"  # why Redis is not used now

    async def __aenter__(self) -> Self:
        self._client = self._connect()
        self._script = self._client.register_script(_TAKE)
        self.away = await self._why_away()
        if self.away:
            self._pause(self.away)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.away = "is not connected"
        tasks = [task for task in (self._probe, self._sender) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._answer_waiting()
        await self._client.aclose()

    def buckets(self, name: str, per_minute: int) -> SharedBuckets:
        """Return the buckets of one kind of request, which all servers with that name share."""
        return SharedBuckets(self, f"{PREFIX}{name}:", per_minute)

    def warning(self) -> str:
        """Return what to say about Redis, '' when it answers."""
        return f"every server counts the rates of its own requests alone: {self.away}" if self.away else ""

    def count_fallback(self) -> None:
        """Count a request whose rate this process counted by itself."""
        self._telemetry.rate_limit_fallbacks.inc()

    async def take(self, key: str, per_minute: int) -> float | None:
        """Take one token. Return 0, or the seconds until there is one; None when Redis does not answer within twice
        TIMEOUT_S."""
        request = _Request(key, per_minute, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_waiting())
        return await request.wait_s

    async def _send_waiting(self) -> None:
        """Send requests until none waits."""
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            waits_s: list[float | None] = [None] * len(batch)
            try:
                waits_s = [*await self._send(batch, timeout_s=TIMEOUT_S)]
                self._slow = 0
            except Exception as error:  # noqa: BLE001 - whatever it is, requests wait for their answer
                self._fail(error)
                self._answer_waiting()
            finally:  # cancelled too
                for request, wait_s in zip(batch, waits_s, strict=True):
                    if not request.wait_s.done():  # its client has not disconnected
                        request.wait_s.set_result(wait_s)

    async def _send(self, batch: Sequence[_Request], *, timeout_s: float) -> list[float]:
        """Take a token for each request; return the seconds until there is one. Raises what the driver raises."""
        keys, rates = [request.key for request in batch], [request.per_minute for request in batch]
        async with asyncio.timeout(timeout_s):
            waits_ms = await self._script(keys=keys, args=rates)
        return [float(wait_ms) / 1000 for wait_ms in waits_ms]

    def _answer_waiting(self) -> None:
        """Let requests that have not been sent yet count by themselves."""
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            if not request.wait_s.done():
                request.wait_s.set_result(None)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, TimeoutError):
            self._slow += 1
            if self._slow < SLOW_MAX:  # this process may have been slow itself
                return
        if not self.away:
            self._pause(self._reason(error))

    def _pause(self, reason: str) -> None:
        """Stop using Redis until it answers again, so that no request waits for it."""
        self.away = reason
        _log.warning("rates are not shared: every server counts by itself", reason=reason)
        self._probe = asyncio.create_task(self._wait_for_redis())

    async def _wait_for_redis(self) -> None:
        while reason := await self._why_away():
            self.away = reason
            await self._clock.sleep(PAUSE_S)
        self._slow = 0
        self.away = ""
        _log.info("rates are shared again")

    async def _why_away(self) -> str:
        """Return why Redis cannot be used, '' if it can."""
        probe = _Request(f"{PREFIX}probe", 60, asyncio.get_running_loop().create_future())
        try:
            await self._send([probe], timeout_s=CONNECT_S)
        except Exception as error:  # noqa: BLE001 - as for any request
            return self._reason(error)
        return ""

    def _reason(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"Redis does not answer in time at {self._url.where}"
        return f"Redis at {self._url.where}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"

    def _connect(self) -> Any:
        url = self._url
        arguments: dict[str, Any] = {
            "host": url.host,
            "port": url.port,
            "db": url.database,
            "username": url.user or None,
            "password": url.password or None,
            "socket_timeout": None,  # our own limits are on the complete operation
            "socket_connect_timeout": None,
            "retry": importlib.import_module("redis.asyncio.retry").Retry(
                importlib.import_module("redis.backoff").NoBackoff(), 0
            ),
        }
        if url.secure:
            arguments["connection_class"] = self._redis.SSLConnection
            arguments["ssl_ca_certs"] = url.ca_certs or None
        return self._redis.Redis.from_pool(self._redis.ConnectionPool(**arguments))


class SharedBuckets:
    """Implements ``Rates`` for all servers that use the same Redis."""

    def __init__(self, rates: SharedRates, prefix: str, per_minute: int) -> None:
        self._rates = rates
        self._prefix = prefix
        self._per_minute = per_minute
        self._own = TokenBuckets(per_minute)

    def take(self, owner: str, now_s: float) -> Awaitable[None] | None:
        """Take one token: on return, or when what is returned has been awaited. Raises RateLimited."""
        if not self._per_minute:
            return None
        if self._rates.away:
            self._take_own(owner, now_s)
            return None
        return self._take(owner, now_s)

    async def _take(self, owner: str, now_s: float) -> None:
        wait_s = await self._rates.take(self._prefix + owner, self._per_minute)
        if wait_s is None:
            self._take_own(owner, now_s)
        elif wait_s > 0:
            raise too_many(self._per_minute, wait_s)

    def _take_own(self, owner: str, now_s: float) -> None:
        self._rates.count_fallback()
        self._own.take(owner, now_s)
