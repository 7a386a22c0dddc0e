"""What a process consists of: every object that the role needs, built from the settings and wired."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

from msgspec import structs

from vantage import __version__, resources
from vantage.alerting.changes import alert_changes
from vantage.alerting.channels.notifier import Tools
from vantage.alerting.chart_picture import ChartPicture
from vantage.alerting.checks import CheckLoop
from vantage.alerting.deliver import Deliverer
from vantage.alerting.dispatch import Dispatcher
from vantage.alerting.evaluate import AlertEvaluator
from vantage.alerting.links import Links
from vantage.alerting.notices import Notices
from vantage.alerting.outgoing import Outgoing
from vantage.alerting.secrets import secrets_of
from vantage.config import Loaded, Settings
from vantage.core.batch import Batch
from vantage.core.clock import Clock
from vantage.core.errors import ConfigError, InputError
from vantage.core.retention import RetentionRule, parse_rule
from vantage.core.turns import Turns
from vantage.ingest.consume import BatchByBatch, Consumer
from vantage.ingest.deployments import DeploymentDetector
from vantage.ingest.live_publisher import LivePublisher
from vantage.ingest.receive import Receiver
from vantage.ingest.self_telemetry import SelfTelemetry, instance_name
from vantage.ingest.series_cache import CACHE_NBYTES_MAX
from vantage.ingest.store_sink import StoreSink
from vantage.query.administration import Administered
from vantage.query.anomaly_watch import AnomalyWatch
from vantage.query.compare import Comparisons
from vantage.query.compared_deployments import DeploymentComparisons
from vantage.query.context import QueryContext
from vantage.query.deletion import Deletion
from vantage.query.deployments import DeploymentReports
from vantage.query.detector_runs import DetectorRuns, Watched
from vantage.query.live import LiveFollower, LiveUpdates
from vantage.query.long_work import LongWork
from vantage.query.promotion import Promotion
from vantage.query.saved_queries import SavedQueries
from vantage.roles import ROLES, Loop, Need, Role, Routes
from vantage.storage.backup_job import backup_of
from vantage.storage.clickhouse.server_url import is_server_url
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.clickhouse.upkeep import UpkeepLoop
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.metadata.ports import MetadataStore
from vantage.storage.open import open_metadata, open_telemetry_store
from vantage.storage.ports import RetentionPolicy
from vantage.storage.promotion.serving import ServingPromotion
from vantage.storage.retention_loop import RetentionLoop
from vantage.storage.steady_time import SteadyTime
from vantage.stream.kafka.sink import KafkaSink
from vantage.stream.open import open_live_reader, open_live_writer, open_sink, open_source
from vantage.stream.ports import Sink
from vantage.supervisor import BackgroundLoop, WhileWritable
from vantage.telemetry import Telemetry
from vantage.web.api import live as live_api
from vantage.web.api.health import HealthChecks
from vantage.web.api.ingest import IngestApp
from vantage.web.auth import Authenticator
from vantage.web.authorize import Authorizer
from vantage.web.key_refresh import KeyRefreshLoop
from vantage.web.limits import Rates, TokenBuckets, TrustedProxies
from vantage.web.litestar_app import create_litestar
from vantage.web.middleware import EdgeMiddleware, HostGuard
from vantage.web.process_metrics import ProcessMetrics, Siblings
from vantage.web.render import Renderer
from vantage.web.request_metrics import RequestMetrics, RequestMetricsLoop
from vantage.web.shared_rates import SharedRates

LOGINS_PER_MINUTE: Final = 30
SESSION_RATE_FACTOR: Final = 10  # a signed-in page refetches itself as often as once a second


_ALERTING: Final = frozenset({Loop.ALERTS, Loop.NOTICES, Loop.DELIVERIES, Loop.CHECKS})


class Opened(Protocol):
    """What is opened before the process serves, and closed after it."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of one role. ``stores``, and rates that are shared, are opened in order, before ``keys`` is refreshed
    and ``loops`` run. ``turns`` are of the threads that compute for long."""

    role: Role
    clock: Clock
    stores: tuple[Opened, ...]
    keys: KeyRefreshLoop
    authenticator: Authenticator
    authorizer: Authorizer
    loops: tuple[BackgroundLoop, ...]
    asgi: EdgeMiddleware
    telemetry: Telemetry
    turns: Turns


def build_parts(
    settings: Settings,
    *,
    clock: Clock,
    siblings: Siblings | None = None,
    restart: Callable[[], None] = lambda: None,
    origins: Mapping[str, str] | None = None,
) -> Parts:
    """Build and wire what the role needs; ``siblings`` are the processes that share its port, ``restart`` requests that
    this one starts again, ``origins`` are those of settings. Does no I/O. Raises ConfigError."""
    role = _role(settings)
    telemetry, turns = Telemetry(), Turns()
    requests = RequestMetrics(telemetry)
    steady = SteadyTime(clock)
    metadata = open_metadata(settings.metadata_url, data=Path(settings.data), clock=clock)
    broker = open_sink(settings) if settings.broker_url else None
    consumes = broker is not None and (Loop.CONSUMER in role.loops or settings.role == "all")
    reads = Routes.API in role.routes or Loop.CONSUMER in role.loops
    # An ingest process has no store: what it needs of one is the broker.
    store = (
        open_telemetry_store(
            settings,
            clock=clock,
            telemetry=telemetry,
            batches_come_from_broker=broker is not None or settings.role != "all",
            steady=steady,
            turns=turns,
        )
        if reads
        else None
    )
    authenticator = Authenticator(clock=clock, auth=settings.auth, api_key=settings.api_key)
    proxies = TrustedProxies(settings.trusted_proxies)
    shared = SharedRates(settings.rate_limit_url, clock=clock, telemetry=telemetry) if settings.rate_limit_url else None

    def rates(name: str, per_minute: int) -> Rates:
        return TokenBuckets(per_minute) if shared is None else shared.buckets(name, per_minute)

    authorizer = Authorizer(
        authenticator,
        proxies,
        rates("api", settings.api_rate_limit),
        rates("session", settings.api_rate_limit * SESSION_RATE_FACTOR),
        rates("login", LOGINS_PER_MINUTE),
        clock,
    )
    live = LiveUpdates(clock=clock, telemetry=telemetry)
    detector = DeploymentDetector(metadata, clock=clock, telemetry=telemetry)
    keys = KeyRefreshLoop(metadata, authenticator, clock=clock)
    process_metrics = ProcessMetrics(telemetry, siblings)
    stores: list[Opened] = [metadata, process_metrics]
    secrets = secrets_of(settings)
    outgoing = Outgoing(settings.outgoing_networks)
    loops: dict[Loop, BackgroundLoop] = {Loop.KEYS: keys, Loop.LIVE: live, Loop.DEPLOYMENTS: detector}
    pings: dict[str, Callable[[], Awaitable[None]]] = {}
    watchers: list[Callable[[Batch], None]] = [detector.observe]
    context = deletion = comparisons = None
    watched = Watched()
    failing: Callable[[], str] | None = None
    if store is not None:
        policy = RetentionPolicy(settings.retention_days, settings.disk_budget_bytes, _rules(settings))
        context = QueryContext(
            store, metadata, clock, telemetry, settings.query_timeout_s, cache_nbytes_max=settings.query_cache_bytes
        )
        watchers.append(context.on_written)
        comparisons = Comparisons(context, metadata)
        loops[Loop.COMPARISONS] = DeploymentComparisons(context, comparisons, clock)
        deletion = Deletion(store, metadata, clock, before_answer=context.cache.clear, on_deleted=detector.clear)
        loops[Loop.RETENTION] = RetentionLoop(store, policy, clock=clock, on_expired=context.cache.clear)
        loops |= {Loop.UPKEEP: UpkeepLoop(store, clock=clock)} if isinstance(store, ClickHouseStore) else {}
        watched, watches = _watched(settings, role, context, metadata, turns)
        loops |= watches
        loops[Loop.ALERTS] = AlertEvaluator(context, metadata, turns=turns)
        stores.insert(0, store)
        pings["store"] = store.ping
    picture = ChartPicture(context) if context is not None else None
    tools = Tools(outgoing, Links(secrets, clock), clock, _public_url(settings), picture)
    loops[Loop.NOTICES] = Dispatcher(metadata, clock, telemetry)
    loops[Loop.DELIVERIES] = Deliverer(metadata, secrets, tools, telemetry=telemetry)
    promotion = None
    if store is not None and settings.role == "all" and broker is None:
        work = ServingPromotion(
            store if isinstance(store, EmbeddedStore) else None,
            Path(settings.data),
            open_target=lambda url: _open_target(settings, url, clock),
            clock=clock,
            retention_days=settings.retention_days,
            restart=restart,
        )
        loops[Loop.PROMOTION] = work
        promotion = Promotion(work, metadata, clock, serving=is_server_url(settings.store_url))
    pings["metadata"] = metadata.ping
    sink: Sink | None = broker
    if broker is not None:
        # The process that stores a batch need not be the one whose pages show it.
        publisher = LivePublisher(open_live_writer(settings), clock=clock, telemetry=telemetry)
        reader = open_live_reader(settings)
        watchers.append(publisher.observe)
        loops[Loop.LIVE_PUBLISHER] = publisher
        loops[Loop.LIVE_FOLLOWER] = LiveFollower(reader, live, clock=clock)
        stores += [broker, reader]
        pings["broker"] = broker.ping
    elif settings.role == "all" and store is not None:
        sink = StoreSink(store, [*watchers, live.publish])
    if consumes and store is not None:
        source = open_source(settings, metadata, on_rebalance=telemetry.rebalances.inc)
        consumer = Consumer(
            source,
            store if isinstance(store, ClickHouseStore) else BatchByBatch(store),
            telemetry=telemetry,
            watchers=watchers,
            rows_max=settings.batch_rows,
            wait_s=settings.batch_wait_s,
        )
        stores.append(source)
        loops[Loop.CONSUMER] = consumer
        failing = lambda: consumer.failing  # noqa: E731
        pings["consumer"] = consumer.ping
    loops[Loop.CHECKS] = CheckLoop(metadata.availability, outgoing, sink, clock=clock)
    if sink is not None and settings.self_telemetry:
        loops[Loop.SELF_TELEMETRY] = SelfTelemetry(
            sink,
            clock=clock,
            telemetry=telemetry,
            requests=requests.drain,
            queued_nbytes=lambda: store.queued_nbytes if broker is None and store is not None else _queued(broker),
            broker=broker is not None,
            failing=failing,
            role=settings.role,
            version=__version__,
            instance=instance_name(settings.port, sibling=siblings.number if siblings is not None else None),
        )
    else:
        loops[Loop.SELF_TELEMETRY] = RequestMetricsLoop(requests, clock)
    ingest = None
    if sink is not None and Routes.INGEST in role.routes:
        ingest = IngestApp(
            Receiver(
                sink,
                clock=clock,
                steady=steady,
                telemetry=telemetry,
                retention_days=settings.retention_days,
                services_max=settings.services_max,
                cache_nbytes_max=min(CACHE_NBYTES_MAX, settings.series_bytes_max // 3),
            ),
            authenticator=authenticator,
            proxies=proxies,
            rates=rates("ingest", settings.ingest_rate_limit),
            telemetry=telemetry,
            requests=requests,
            clock=clock,
        )

    def clock_warning() -> str:
        return context.present().warning if context is not None else ""

    def read_only() -> str:
        return store.read_only() if store is not None else ""

    site = create_litestar(
        routes=role.routes,
        context=context,
        deletion=deletion,
        promotion=promotion,
        deployment_reports=DeploymentReports(metadata),
        saved_queries=SavedQueries(metadata, clock),
        comparisons=comparisons,
        watched=watched,
        administered=Administered(
            metadata,
            Loaded(settings, origins or {}, ()).masked_rows(),
            LongWork(clock),
            backup=backup_of(settings, clock) if store is not None else None,
            deletion=deletion,
        ),
        alerting=alert_changes(context, metadata, outgoing) if context is not None else None,
        notices=Notices(metadata, secrets, tools),
        live_updates=live,
        telemetry=telemetry,
        process_metrics=process_metrics,
        health_checks=HealthChecks(
            __version__,
            settings.role,
            pings,
            warnings=lambda: [
                *(store.warnings() if store is not None else ()),
                *(broker.warnings() if broker is not None else ()),
                *filter(None, [clock_warning(), shared.warning() if shared else ""]),
            ],
            read_only=read_only,
            spared=lambda: {"metadata"} if authenticator.known else (),
        ),
        authorizer=authorizer,
        renderer=Renderer(
            templates=resources.templates_dir(),
            static=resources.static_dir(),
            clock=clock,
            version=__version__,
            notice=lambda: _notice(read_only(), keys.failure, clock_warning()),
            has_broker=broker is not None,
        ),
        static=resources.static_dir(),
        version=__version__,
        websockets_max=settings.websockets_max,
        debug=settings.debug,
    )
    asgi = EdgeMiddleware(
        ingest=ingest,
        site=site,
        sockets=live_api.PATHS if Routes.API in role.routes else (),
        hosts=HostGuard(listen_host=settings.host, allowed=settings.allowed_hosts),
        cors_origins=settings.cors_origins,
        requests=requests,
        log_requests=settings.debug,
    )
    if shared is not None:
        stores.append(shared)
    loops |= _while_writable(settings, loops, read_only, clock)
    chosen_loops = tuple(loops[loop] for loop in sorted(role.loops) if loop in loops)
    return Parts(role, clock, tuple(stores), keys, authenticator, authorizer, chosen_loops, asgi, telemetry, turns)


def _watched(
    settings: Settings, role: Role, context: QueryContext, metadata: MetadataStore, turns: Turns
) -> tuple[Watched, dict[Loop, BackgroundLoop]]:
    """Return what watches for anomalies, and its loop, where the role has it and the settings do not turn it off."""
    loops: dict[Loop, BackgroundLoop] = {}
    watch = detectors = None
    if settings.anomaly_mode != "off" and Loop.ANOMALIES in role.loops:
        watch = loops[Loop.ANOMALIES] = AnomalyWatch(
            context, metadata, turns=turns, mode=settings.anomaly_mode, series_max=settings.anomaly_series_max
        )
    if settings.detectors_folder and Loop.DETECTORS in role.loops:
        detectors = loops[Loop.DETECTORS] = DetectorRuns(context, metadata, Path(settings.detectors_folder))
    return Watched(watch, detectors), loops


def _while_writable(
    settings: Settings, loops: dict[Loop, BackgroundLoop], read_only: Callable[[], str], clock: Clock
) -> dict[Loop, BackgroundLoop]:
    """Return the loops that write metadata all the time: they wait while its folder is read-only."""
    if settings.metadata_url:
        return {}
    return {loop: WhileWritable(loops[loop], read_only, clock) for loop in _ALERTING & loops.keys()}


def _open_target(settings: Settings, url: str, clock: Clock) -> ClickHouseStore:
    """Return the store on a ClickHouse server that the data moves to, not yet opened. Raises ConfigError."""
    target = structs.replace(settings, store_url=url)
    store = open_telemetry_store(target, clock=clock, telemetry=Telemetry())
    assert isinstance(store, ClickHouseStore)
    return store


def _public_url(settings: Settings) -> str:
    """Return the address that links in notices begin with."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    return f"{'https' if settings.tls_certificate else 'http'}://{host}:{settings.port}"


def _queued(broker: KafkaSink | None) -> int:
    return broker.queued_nbytes if broker is not None else 0


def _notice(read_only: str, metadata_failure: str, clock_warning: str) -> str:
    if read_only:
        return f"{read_only}; what is stored can be read"
    return f"Deployments are not shown: {metadata_failure}" if metadata_failure else clock_warning


def _role(settings: Settings) -> Role:
    """Return the role. Raises ConfigError that names the settings it lacks."""
    role = ROLES[settings.role]
    present = {
        Need.BROKER: bool(settings.broker_url),
        Need.SHARED_STORE: is_server_url(settings.store_url) or bool(settings.clickhouse_host),
        Need.SHARED_METADATA: bool(settings.metadata_url),
    }
    lacking = [need for need in Need if need in role.needs and not present[need]]
    if lacking:
        raise ConfigError(f"role {settings.role!r} needs {' and '.join(lacking)}")
    return role


def _rules(settings: Settings) -> tuple[RetentionRule, ...]:
    try:
        return tuple(parse_rule(text) for text in settings.retention_rules)
    except InputError as error:
        raise ConfigError(f"retention_rules: {error}") from error
