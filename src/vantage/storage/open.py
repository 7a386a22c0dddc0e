"""The one place that knows the stores' names."""

from __future__ import annotations

from pathlib import Path

from vantage.config import Settings
from vantage.core.clock import Clock
from vantage.core.errors import ConfigError
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.metadata.store import SqlMetadataStore
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
    query_samples_max: int,
) -> EmbeddedStore | ClickHouseStore:
    """The telemetry store of a URL, not yet opened. '' is the embedded store in the data folder. Raises ConfigError."""
    if is_chdb(url):
        return ClickHouseStore(
            chdb_folder(url, data=data),
            clock=clock,
            telemetry=telemetry,
            synchronous=synchronous,
            queue_nbytes_max=queue_nbytes_max,
            series_max=series_max,
            query_samples_max=query_samples_max,
        )
    return EmbeddedStore(
        store_folder(url, data=data),
        clock=clock,
        telemetry=telemetry,
        synchronous=synchronous,
        queue_nbytes_max=queue_nbytes_max,
        head_nbytes_max=head_nbytes_max,
        series_max=series_max,
        query_samples_max=query_samples_max,
    )


def open_telemetry_store(settings: Settings, *, clock: Clock, telemetry: Telemetry) -> EmbeddedStore | ClickHouseStore:
    """The telemetry store that the settings name, not yet opened. Raises ConfigError."""
    return open_store(
        settings.store_url,
        data=Path(settings.data),
        clock=clock,
        telemetry=telemetry,
        synchronous=settings.synchronous,
        queue_nbytes_max=settings.queue_bytes_max,
        head_nbytes_max=settings.head_bytes_max,
        series_max=settings.series_max,
        query_samples_max=settings.query_samples_max,
    )


def is_chdb(url: str) -> bool:
    """Whether a URL names ClickHouse's engine inside the process."""
    return url.startswith(CHDB)


def chdb_folder(url: str, *, data: Path) -> Path:
    """Where ClickHouse's engine keeps its files; without a name it is the folder ``clickhouse`` among the data."""
    name = url.removeprefix(CHDB)
    return Path(name) if name else data / "clickhouse"


def store_folder(url: str, *, data: Path) -> Path:
    """Where the embedded store of a URL keeps its files; '' is the data folder. Raises ConfigError."""
    if is_chdb(url):
        raise ConfigError(
            "this is for the embedded store, and store_url names ClickHouse's engine: "
            f"stop the server and copy the folder {chdb_folder(url, data=data)} as a whole instead"
        )
    if url and not url.startswith(SQLITE):
        raise ConfigError(
            f"store_url: {url.partition(':')[0]!r} is no store this version knows; use sqlite:///FOLDER or chdb:///FOLDER"
        )
    return Path(url.removeprefix(SQLITE)) if url else data


def metadata_url(url: str, *, data: Path) -> str:
    """The metadata database's URL; '' is ``metadata.db`` in the data folder."""
    return url or f"{SQLITE}{data / 'metadata.db'}"


def open_metadata(url: str, *, data: Path, clock: Clock) -> SqlMetadataStore:
    """The metadata store of a URL, not yet opened."""
    return SqlMetadataStore(metadata_url(url, data=data), clock)
