"""What a process consists of: every object that the role needs, built from the settings and wired."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vantage import __version__, resources
from vantage.config import Settings
from vantage.core.clock import Clock
from vantage.core.errors import ConfigError, InputError
from vantage.core.retention import RetentionRule, parse_rule
from vantage.ingest.deployments import DeploymentDetector
from vantage.ingest.receive import Receiver
from vantage.ingest.self_telemetry import SelfTelemetry
from vantage.ingest.series_cache import CACHE_NBYTES_MAX
from vantage.ingest.store_sink import StoreSink
from vantage.query.context import QueryContext
from vantage.query.deletion import Deletion
from vantage.query.deployments import DeploymentReports
from vantage.query.live import LiveUpdates
from vantage.roles import ROLES, Loop, Role, Routes
from vantage.storage.open import open_metadata, open_telemetry_store
from vantage.storage.ports import MetadataStore, RetentionPolicy, TelemetryStore
from vantage.storage.retention_loop import RetentionLoop
from vantage.storage.steady_time import SteadyTime
from vantage.supervisor import BackgroundLoop
from vantage.telemetry import Telemetry
from vantage.web.api import live as live_api
from vantage.web.api.health import HealthChecks
from vantage.web.api.ingest import IngestApp
from vantage.web.auth import Authenticator
from vantage.web.authorize import Authorizer
from vantage.web.key_refresh import KeyRefreshLoop
from vantage.web.limits import TokenBuckets, TrustedProxies
from vantage.web.litestar_app import create_litestar
from vantage.web.middleware import EdgeMiddleware, HostGuard
from vantage.web.render import Renderer
from vantage.web.request_metrics import RequestMetrics, RequestMetricsLoop

LOGINS_PER_MINUTE: Final = 30
SESSION_RATE_FACTOR: Final = 10  # a signed-in page refetches itself as often as once a second


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of one role. ``stores`` are opened in order, before ``keys`` is refreshed and ``loops`` run."""

    role: Role
    clock: Clock
    stores: tuple[TelemetryStore | MetadataStore, ...]
    keys: KeyRefreshLoop
    authenticator: Authenticator
    authorizer: Authorizer
    loops: tuple[BackgroundLoop, ...]
    asgi: EdgeMiddleware
    telemetry: Telemetry


def build_parts(settings: Settings, *, clock: Clock) -> Parts:
    """Build and wire what the role needs. Does no I/O. Raises ConfigError."""
    role = _role(settings)
    policy = RetentionPolicy(settings.retention_days, settings.disk_budget_bytes, _rules(settings))
    telemetry = Telemetry()
    requests = RequestMetrics(telemetry)
    steady = SteadyTime(clock)
    store = open_telemetry_store(settings, clock=clock, telemetry=telemetry, steady=steady)
    metadata = open_metadata(settings.metadata_url, data=Path(settings.data), clock=clock)
    authenticator = Authenticator(clock=clock, auth=settings.auth, api_key=settings.api_key)
    proxies = TrustedProxies(settings.trusted_proxies)
    authorizer = Authorizer(
        authenticator,
        proxies,
        TokenBuckets(settings.api_rate_limit),
        TokenBuckets(settings.api_rate_limit * SESSION_RATE_FACTOR),
        TokenBuckets(LOGINS_PER_MINUTE),
        clock,
    )
    context = QueryContext(
        store, metadata, clock, telemetry, settings.query_timeout_s, cache_nbytes_max=settings.query_cache_bytes
    )
    live = LiveUpdates(clock=clock, telemetry=telemetry)
    detector = DeploymentDetector(metadata, clock=clock, telemetry=telemetry)
    sink = StoreSink(store, (live.publish, detector.observe, context.on_written))
    keys = KeyRefreshLoop(metadata, authenticator, clock=clock)
    self_telemetry = SelfTelemetry(
        sink,
        clock=clock,
        telemetry=telemetry,
        requests=requests.drain,
        queued_nbytes=lambda: store.queued_nbytes,
        role=settings.role,
        version=__version__,
        instance=socket.gethostname(),
    )
    loops: dict[Loop, BackgroundLoop] = {
        Loop.RETENTION: RetentionLoop(store, policy, clock=clock, on_expired=context.cache.clear),
        Loop.KEYS: keys,
        Loop.LIVE: live,
        Loop.DEPLOYMENTS: detector,
        Loop.SELF_TELEMETRY: self_telemetry if settings.self_telemetry else RequestMetricsLoop(requests, clock),
    }
    ingest = IngestApp(
        Receiver(
            sink,
            clock=clock,
            steady=steady,
            telemetry=telemetry,
            retention_days=settings.retention_days,
            services_max=settings.services_max,
            cache_nbytes_max=min(CACHE_NBYTES_MAX, settings.series_bytes_max // 2),
        ),
        authenticator=authenticator,
        proxies=proxies,
        rate_per_minute=settings.ingest_rate_limit,
        telemetry=telemetry,
        requests=requests,
        clock=clock,
    )
    site = create_litestar(
        routes=role.routes,
        context=context,
        deletion=Deletion(store, metadata, clock, before_answer=context.cache.clear, on_deleted=detector.clear),
        deployment_reports=DeploymentReports(metadata),
        live_updates=live,
        telemetry=telemetry,
        health_checks=HealthChecks(
            __version__,
            settings.role,
            {"store": store.ping, "metadata": metadata.ping},
            warnings=lambda: [*store.warnings(), *filter(None, [context.present().warning])],
            read_only=store.read_only,
        ),
        authorizer=authorizer,
        renderer=Renderer(
            templates=resources.templates_dir(),
            static=resources.static_dir(),
            clock=clock,
            version=__version__,
            notice=lambda: _notice(store.read_only(), context.present().warning),
        ),
        static=resources.static_dir(),
        version=__version__,
        websockets_max=settings.websockets_max,
    )
    asgi = EdgeMiddleware(
        ingest=ingest if Routes.INGEST in role.routes else None,
        site=site,
        sockets=live_api.PATHS if Routes.API in role.routes else (),
        hosts=HostGuard(listen_host=settings.host, allowed=settings.allowed_hosts),
        cors_origins=settings.cors_origins,
        requests=requests,
        log_requests=settings.debug,
    )
    chosen_loops = tuple(loops[loop] for loop in sorted(role.loops))
    return Parts(role, clock, (store, metadata), keys, authenticator, authorizer, chosen_loops, asgi, telemetry)


def _notice(read_only: str, clock_warning: str) -> str:
    return f"{read_only}; what is stored can be read" if read_only else clock_warning


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
