"""Choose stores by URL. The only file that knows their names."""

from __future__ import annotations

import contextlib
from pathlib import Path

from vantage.config import Settings
from vantage.core.clock import Clock
from vantage.core.errors import ConfigError
from vantage.core.turns import Turns
from vantage.storage.clickhouse.chdb import ChdbEngine
from vantage.storage.clickhouse.cluster import ClusterEngine
from vantage.storage.clickhouse.engine import Engine
from vantage.storage.clickhouse.native import NativeEngine
from vantage.storage.clickhouse.schema import migrate, migrations, pending
from vantage.storage.clickhouse.server_url import is_server_url, parse_server_url
from vantage.storage.clickhouse.store import OTHER_CONNECTIONS, QUERY_THREADS, ClickHouseStore
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.metadata.store import SqlMetadataStore
from vantage.storage.steady_time import SteadyTime
from vantage.telemetry import Telemetry

SQLITE = "sqlite:///"
CHDB = "chdb:///"
SERVER_FOLDER = "clickhouse-server"  # in the data folder: commits to a ClickHouse server that are unfinished


def open_store(
    url: str,
    *,
    data: Path,
    clock: Clock,
    telemetry: Telemetry,
    synchronous: str,
    queue_nbytes_max: int,
    head_nbytes_max: int,
    series_max: int,
    series_nbytes_max: int,
    query_samples_max: int,
    query_nbytes_max: int,
    server_connections: int,
    server_cluster: str,
    retention_days: int | None,
    batches_come_from_broker: bool = False,
    steady: SteadyTime | None = None,
    turns: Turns | None = None,
) -> EmbeddedStore | ClickHouseStore:
    """Return the telemetry store of a URL, not yet opened; for '' the embedded one in ``data``. Raises ConfigError.

    ``server_connections`` are those to a ClickHouse server, which may belong to a ``server_cluster``, and whose tables
    also expire after ``retention_days``. The embedded one computes in ``turns``.
    """
    if is_chdb(url) or is_server_url(url):
        engine: Engine
        folder: Path | None
        if is_server_url(url):
            folder = None if batches_come_from_broker else data / SERVER_FOLDER
            engine = _server_engine(url, server_cluster, connections_max=server_connections)
        else:
            folder = chdb_folder(url, data=data)
            engine = ChdbEngine(chdb_folder(url, data=data) / "engine")
        return ClickHouseStore(
            engine,
            folder,
            clock=clock,
            telemetry=telemetry,
            synchronous=synchronous,
            queue_nbytes_max=queue_nbytes_max,
            series_max=series_max,
            series_nbytes_max=series_nbytes_max,
            query_samples_max=query_samples_max,
            query_nbytes_max=query_nbytes_max,
            query_threads=server_connections - OTHER_CONNECTIONS if engine.shared else QUERY_THREADS,
            ttl_days=retention_days,
            steady=steady,
        )
    return EmbeddedStore(
        store_folder(url, data=data),
        clock=clock,
        telemetry=telemetry,
        synchronous=synchronous,
        queue_nbytes_max=queue_nbytes_max,
        head_nbytes_max=head_nbytes_max,
        series_max=series_max,
        series_nbytes_max=series_nbytes_max,
        query_samples_max=query_samples_max,
        query_nbytes_max=query_nbytes_max,
        steady=steady,
        turns=turns,
    )


def open_telemetry_store(
    settings: Settings,
    *,
    clock: Clock,
    telemetry: Telemetry,
    batches_come_from_broker: bool = False,
    steady: SteadyTime | None = None,
    turns: Turns | None = None,
) -> EmbeddedStore | ClickHouseStore:
    """Return the telemetry store of the settings, not yet opened. One on a server to which batches come from a broker
    keeps nothing in the data folder. Raises ConfigError."""
    return open_store(
        settings.store_url,
        data=Path(settings.data),
        clock=clock,
        telemetry=telemetry,
        synchronous=settings.synchronous,
        queue_nbytes_max=settings.queue_bytes_max,
        head_nbytes_max=settings.head_bytes_max,
        series_max=settings.series_max,
        series_nbytes_max=settings.series_bytes_max,
        query_samples_max=settings.query_samples_max,
        query_nbytes_max=settings.query_memory_max,
        server_connections=settings.clickhouse_connections,
        server_cluster=settings.clickhouse_cluster,
        retention_days=settings.retention_days,
        batches_come_from_broker=batches_come_from_broker,
        steady=steady,
        turns=turns,
    )


def migrate_server(url: str, *, cluster: str) -> list[str]:
    """Bring the tables of a ClickHouse server to the current schema; return the migrations applied. Raises ConfigError,
    StartupError, StoreUnavailable."""
    with contextlib.closing(_server_engine(url, cluster)) as engine:
        engine.open()
        return migrate(engine, migrations())


def pending_on_server(url: str, *, cluster: str) -> list[str]:
    """Return the migrations that ``migrate_server`` would apply; changes nothing. Raises as that."""
    with contextlib.closing(_server_engine(url, cluster)) as engine:
        known = migrations()
        missing = pending(engine, known) if engine.log_in() else known
        return [migration.name for migration in missing]


def _server_engine(url: str, cluster: str, *, connections_max: int = 1) -> NativeEngine:
    if cluster:
        return ClusterEngine(parse_server_url(url), cluster=cluster, connections_max=connections_max)
    return NativeEngine(parse_server_url(url), connections_max=connections_max)


def is_chdb(url: str) -> bool:
    """Return whether a URL names ClickHouse's engine inside the process."""
    return url.startswith(CHDB)


def chdb_folder(url: str, *, data: Path) -> Path:
    """Return the folder of ClickHouse's engine; without a name the folder ``clickhouse`` in ``data``."""
    name = url.removeprefix(CHDB)
    return Path(name) if name else data / "clickhouse"


def store_folder(url: str, *, data: Path) -> Path:
    """Return the folder of the embedded store of a URL; for '' the data folder. Raises ConfigError."""
    if is_chdb(url):
        raise ConfigError(
            "this is for the embedded store, and store_url names ClickHouse's engine: "
            f"stop the server and copy the complete folder {chdb_folder(url, data=data)} instead"
        )
    if is_server_url(url):
        raise ConfigError(
            "this is for the embedded store, and store_url names a ClickHouse server: use its own BACKUP instead"
        )
    if url and not url.startswith(SQLITE):
        raise ConfigError(
            f"store_url: {url.partition(':')[0]!r} is not a known store; use sqlite:///FOLDER, chdb:///FOLDER "
            "or clickhouse://USER:PASSWORD@HOST:9000/DATABASE"
        )
    return Path(url.removeprefix(SQLITE)) if url else data


def metadata_url(url: str, *, data: Path) -> str:
    """Return the URL of the metadata database; for '' that of ``metadata.db`` in the data folder."""
    return url or f"{SQLITE}{data / 'metadata.db'}"


def open_metadata(url: str, *, data: Path, clock: Clock) -> SqlMetadataStore:
    """Return the metadata store of a URL, not yet opened."""
    return SqlMetadataStore(metadata_url(url, data=data), clock)


def own_metadata(settings: Settings) -> Path | None:
    """Return the metadata database when it is the one in the data folder."""
    from vantage.storage.metadata.postgres import is_postgres
    from vantage.storage.metadata.sqlite import path_of

    if is_postgres(settings.metadata_url):
        return None
    own = Path(settings.data) / "metadata.db"
    named = path_of(metadata_url(settings.metadata_url, data=Path(settings.data)))
    return own if named.absolute() == own.absolute() else None
