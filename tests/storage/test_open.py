"""Which store a URL names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.samples import MovedClock
from vantage.core.errors import ConfigError
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.open import open_store, store_folder
from vantage.telemetry import Telemetry


def opened(url: str) -> EmbeddedStore | ClickHouseStore:
    return open_store(
        url,
        data=Path("data"),
        clock=MovedClock(),
        telemetry=Telemetry(),
        synchronous="FULL",
        queue_nbytes_max=1 << 20,
        head_nbytes_max=1 << 20,
        series_max=10,
        series_nbytes_max=1 << 20,
        query_samples_max=10,
        query_nbytes_max=1 << 20,
        server_connections=10,
        server_cluster="",
        retention_days=None,
    )


@pytest.mark.parametrize(
    ("url", "kind", "folder"),
    [
        ("", EmbeddedStore, "data"),
        ("sqlite:///elsewhere", EmbeddedStore, "elsewhere"),
        ("sqlite:////srv/v", EmbeddedStore, "/srv/v"),
        ("chdb:///", ClickHouseStore, "data/clickhouse"),
        ("chdb:///elsewhere", ClickHouseStore, "elsewhere"),
        ("chdb:////srv/v", ClickHouseStore, "/srv/v"),
        ("clickhouse://me:pw@host:9000/db", ClickHouseStore, "data/clickhouse-server"),
    ],
)
def test_a_url_names_a_store_and_its_folder(url: str, kind: type[object], folder: str) -> None:
    store = opened(url)
    assert type(store) is kind
    assert store.folder == Path(folder)


def test_an_unknown_store_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"sqlite:///FOLDER, chdb:///FOLDER or clickhouse://"):
        opened("mysql://host/db")


def test_commands_of_the_embedded_store_refuse_chdb() -> None:
    with pytest.raises(ConfigError, match=r"for the embedded store.*copy the complete folder /srv/v"):
        store_folder("chdb:////srv/v", data=Path("data"))
