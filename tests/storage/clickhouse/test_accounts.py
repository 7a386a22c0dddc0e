"""Accounts of a server that may only read, or whose password is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.clickhouse_stores import server_store
from tests.support.samples import NOW_MS, MovedClock, a_batch, count_query
from vantage.core.errors import StartupError, StoreUnavailable
from vantage.storage.clickhouse.store import ClickHouseStore
from vantage.storage.ports import StreamBatch
from vantage.telemetry import Telemetry

pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")

USERS = """<clickhouse>
<profiles><default/><reader><readonly>2</readonly></reader><strict><readonly>1</readonly></strict></profiles>
<quotas><default/></quotas>
<users>{}</users>
</clickhouse>"""
USER = """<{name}><password>{password}</password><networks><ip>::/0</ip></networks><profile>{name}</profile>
<quota>default</quota></{name}>"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    folder: Path = tmp_path_factory.mktemp("clickhouse")
    users = [("default", ""), ("reader", "geheim"), ("strict", "geheim")]
    (folder / "users.xml").write_text(
        USERS.format("".join(USER.format(name=name, password=password) for name, password in users))
    )
    (folder / "config.xml").write_text(f"<clickhouse><users_config>{folder / 'users.xml'}</users_config></clickhouse>")
    with running_clickhouse(config=folder / "config.xml") as server:
        yield server


def opened(url: str, login: str = "default") -> ClickHouseStore:
    return server_store(url.replace("default@", f"{login}@"), None, clock=MovedClock(), telemetry=Telemetry())


def a_message(offset: int) -> list[StreamBatch]:
    return [StreamBatch(a_batch(1.0), 0, offset, NOW_MS)]


async def test_an_account_that_may_only_read_reads(server: ClickHouseServer) -> None:
    url = server.new_database()
    async with opened(url) as store:
        await store.write_range(a_message(0), token="t0", until_s=float("inf"))
    async with opened(url, "reader:geheim") as store:
        assert list((await store.select(count_query(), deadline_s=30)).rows()) == [(1, 1.0)]
        with pytest.raises(StoreUnavailable, match="the ClickHouse account may only read"):
            await store.write_range(a_message(1), token="t1", until_s=float("inf"))


@pytest.mark.parametrize(
    ("login", "reason"),
    [
        ("reader:geheim", "the ClickHouse account may only read"),  # and there are no tables yet
        ("strict:geheim", "has readonly = 1, with which no query can be limited"),
        ("reader:falsch", "refuses the login: ClickHouse does not know the user, or the password is wrong"),
    ],
)
async def test_an_account_that_cannot_be_used_is_one_clear_line(
    server: ClickHouseServer, login: str, reason: str
) -> None:
    if not server.answers():  # a refused login may end this server
        server.start()
    with pytest.raises(StartupError, match=reason) as caught:
        async with opened(server.new_database(), login):
            pass
    assert "geheim" not in str(caught.value)
    assert "falsch" not in str(caught.value)
    assert "\n" not in str(caught.value)
