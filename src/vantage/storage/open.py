"""Choose stores by URL. The only file that knows their names."""

from __future__ import annotations

from pathlib import Path

from vantage.config import Settings
from vantage.core.clock import Clock
from vantage.core.errors import ConfigError
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.metadata.store import SqlMetadataStore
from vantage.storage.steady_time import SteadyTime
from vantage.telemetry import Telemetry

SQLITE = "sqlite:///"
CHDB = "chdb:///"


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
    steady: SteadyTime | None = None,
) -> EmbeddedStore | ClickHouseStore:
    """Return the telemetry store of a URL, not yet opened; for '' the embedded one in ``data``. Raises ConfigError."""
    if is_chdb(url):
        return ClickHouseStore(
            chdb_folder(url, data=data),
            clock=clock,
            telemetry=telemetry,
            synchronous=synchronous,
            queue_nbytes_max=queue_nbytes_max,
            series_max=series_max,
            series_nbytes_max=series_nbytes_max,
            query_samples_max=query_samples_max,
            query_nbytes_max=query_nbytes_max,
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
    )


def open_telemetry_store(
    settings: Settings, *, clock: Clock, telemetry: Telemetry, steady: SteadyTime | None = None
) -> EmbeddedStore | ClickHouseStore:
    """Return the telemetry store of the settings, not yet opened. Raises ConfigError."""
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
        steady=steady,
    )


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
    if url and not url.startswith(SQLITE):
        raise ConfigError(
            f"store_url: {url.partition(':')[0]!r} is not a known store; use sqlite:///FOLDER or chdb:///FOLDER"
        )
    return Path(url.removeprefix(SQLITE)) if url else data


def metadata_url(url: str, *, data: Path) -> str:
    """Return the URL of the metadata database; for '' that of ``metadata.db`` in the data folder."""
    return url or f"{SQLITE}{data / 'metadata.db'}"


def open_metadata(url: str, *, data: Path, clock: Clock) -> SqlMetadataStore:
    """Return the metadata store of a URL, not yet opened."""
    return SqlMetadataStore(metadata_url(url, data=data), clock)
