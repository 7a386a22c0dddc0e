"""The composition root: builds every object, opens them in order, closes them in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from vantage import __version__, resources
from vantage.config import Settings
from vantage.core.clock import Clock, SystemClock
from vantage.core.errors import ConfigError, InputError, VantageError
from vantage.core.retention import RetentionRule, parse_rule
from vantage.ingest.deployments import DeploymentDetector
from vantage.ingest.receive import Receiver
from vantage.ingest.self_telemetry import SelfTelemetry
from vantage.ingest.store_sink import StoreSink
from vantage.query.context import QueryContext
from vantage.query.live import LiveUpdates
from vantage.roles import ROLES, Loop, Role, Routes
from vantage.storage.open import open_metadata, open_telemetry_store
from vantage.storage.ports import DeletionResult, RetentionPolicy
from vantage.telemetry import Telemetry
from vantage.web.api.health import HealthChecks
from vantage.web.api.ingest import IngestApp
from vantage.web.auth import Authenticator
from vantage.web.authorize import Authorizer
from vantage.web.limits import TokenBuckets, TrustedProxies
from vantage.web.litestar_app import create_litestar
from vantage.web.middleware import EdgeMiddleware, HostGuard
from vantage.web.render import Renderer
from vantage.web.request_metrics import RequestMetrics

RETENTION_EVERY_S: Final = 60.0
KEYS_EVERY_S: Final = 2.0
SWITCH_INTERVAL_S: Final = 0.0005
LOGINS_PER_MINUTE: Final = 30
SESSION_RATE_FACTOR: Final = 10  # a signed-in page refetches itself as often as once a second

_log = structlog.get_logger("vantage.app")


@dataclass(frozen=True, slots=True)
class App:
    """What the server runs: the ASGI application, what must be open while it serves, and a switch that makes
    ``/health/ready`` say 503."""

    asgi: EdgeMiddleware
    opened: Callable[[], contextlib.AbstractAsyncContextManager[None]]
    drain: Callable[[], None]


def create_app(settings: Settings, *, clock: Clock | None = None) -> App:
    """Wire one process. Does no I/O: the application's ``opened`` does. Raises ConfigError."""
    clock = clock or SystemClock()
    role = _role(settings)
    policy = RetentionPolicy(settings.retention_days, settings.disk_budget_bytes, _rules(settings))
    data = Path(settings.data)
    telemetry = Telemetry()
    requests = RequestMetrics(telemetry)
    store = open_telemetry_store(settings, clock=clock, telemetry=telemetry)
    metadata = open_metadata(settings.metadata_url, data=data, clock=clock)
    access = Authenticator(clock=clock, auth=settings.auth, api_key=settings.api_key)
    proxies = TrustedProxies(settings.trusted_proxies)
    admission = Authorizer(
        access,
        proxies,
        TokenBuckets(settings.api_rate_limit),
        TokenBuckets(settings.api_rate_limit * SESSION_RATE_FACTOR),
        TokenBuckets(LOGINS_PER_MINUTE),
    )
    reads = QueryContext(
        store, metadata, clock, telemetry, settings.query_timeout_s, cache_nbytes_max=settings.query_cache_bytes
    )
    live = LiveUpdates(clock=clock, telemetry=telemetry)
    deployments = DeploymentDetector(metadata, clock=clock, telemetry=telemetry)
    sink = StoreSink(store, (live.publish, deployments.observe, reads.on_written))
    receiver = Receiver(sink, clock=clock, telemetry=telemetry, retention_days=settings.retention_days)
    watch = SelfTelemetry(
        sink,
        clock=clock,
        telemetry=telemetry,
        requests=requests.drain,
        queued_nbytes=lambda: store.queued_nbytes,
        role=settings.role,
        version=__version__,
        instance=socket.gethostname(),
    )

    async def expire() -> None:
        while True:
            await clock.sleep(RETENTION_EVERY_S)
            gone = None
            try:
                gone = await store.expire(policy)
            finally:
                # What has outlived its days is hidden long before it is removed and counted.
                if policy.days is not None or gone != DeletionResult():
                    reads.cache.clear()
            if gone.samples or gone.spans:
                _log.info("expired", samples=gone.samples, spans=gone.spans, series=gone.series, bytes=gone.nbytes)

    async def refresh_keys() -> None:
        seen = -1
        while True:
            latest = await metadata.last_change_id()
            if latest != seen:
                access.refresh(await metadata.keys())
                seen = latest
            await clock.sleep(KEYS_EVERY_S)

    async def count_requests() -> None:  # without self-telemetry nobody else empties the counts
        while True:
            await clock.sleep(RETENTION_EVERY_S)
            requests.drain()

    loops: Mapping[Loop, Callable[[], Coroutine[Any, Any, None]]] = {
        Loop.RETENTION: expire,
        Loop.KEYS: refresh_keys,
        Loop.LIVE: live.run,
        Loop.DEPLOYMENTS: deployments.run,
        Loop.SELF_TELEMETRY: watch.run if settings.self_telemetry else count_requests,
    }

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        # Not the ASGI lifespan: that would turn an error into a log entry, and the command line has to tell it.
        # One pure-Python thread otherwise takes the loop's p99 from 0.1 to 10 ms.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(store)
            await stack.enter_async_context(metadata)
            access.refresh(await metadata.keys())
            _warn(settings, access)
            await stack.enter_async_context(_running({loop: loops[loop] for loop in sorted(role.loops)}, clock))
            yield

    site = create_litestar(
        routes=role.routes,
        reads=reads,
        live_updates=live,
        telemetry=telemetry,
        vitals=HealthChecks(__version__, settings.role, {"store": store.ping, "metadata": metadata.ping}),
        after_forget=deployments.clear,
        admission=admission,
        renderer=Renderer(
            templates=resources.templates_dir(), static=resources.static_dir(), clock=clock, version=__version__
        ),
        static=resources.static_dir(),
        version=__version__,
        websockets_max=settings.websockets_max,
    )
    ingest = IngestApp(
        receiver,
        access=access,
        proxies=proxies,
        rate_per_minute=settings.ingest_rate_limit,
        telemetry=telemetry,
        requests=requests,
    )
    edge = EdgeMiddleware(
        ingest=ingest if Routes.INGEST in role.routes else None,
        site=site,
        hosts=HostGuard(listen_host=settings.host, allowed=settings.allowed_hosts),
        cors_origins=settings.cors_origins,
        requests=requests,
        log_requests=settings.debug,
    )

    def drain() -> None:
        admission.draining = True

    return App(edge, opened, drain)


def _role(settings: Settings) -> Role:
    role = ROLES[settings.role]
    if role.needs:
        needed = " and ".join(sorted(role.needs))
        raise ConfigError(
            f"role {settings.role!r} needs {needed}, which this version cannot connect to: use --role=all"
        )
    return role


def _rules(settings: Settings) -> tuple[RetentionRule, ...]:
    try:
        return tuple(parse_rule(text) for text in settings.retention_rules)
    except InputError as error:
        raise ConfigError(f"retention_rules: {error}") from error


def _warn(settings: Settings, access: Authenticator) -> None:
    if settings.listens_beyond_loopback and not access.required:
        _log.warning(
            "ANYONE WHO CAN REACH THIS ADDRESS CAN READ, WRITE AND DELETE: no API key is in use. "
            "Set VANTAGE_API_KEY or run `vantage keys create`, or listen on 127.0.0.1",
            host=settings.host,
        )
    if settings.listens_beyond_loopback and access.required and not settings.tls_certificate:
        _log.warning("keys travel unencrypted: set tls_certificate and tls_key, or put a TLS proxy in front")


@contextlib.asynccontextmanager
async def _running(loops: Mapping[Loop, Callable[[], Coroutine[Any, Any, None]]], clock: Clock) -> AsyncIterator[None]:
    """Run the loops; one that fails is logged and started again, so that a fault never ends it for good."""

    async def keep(name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await run()
            except VantageError as error:
                _log.warning("background loop failed, starting it again", loop=name, reason=str(error))
            except Exception:  # noqa: BLE001 - whatever it is, the loop must go on
                _log.exception("background loop failed, starting it again", loop=name)
            await clock.sleep(1.0)

    tasks = [asyncio.create_task(keep(str(name), run), name=f"vantage {name}") for name, run in loops.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
