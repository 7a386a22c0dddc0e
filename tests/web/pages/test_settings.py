"""The page of settings: what takes space, keys, configuration without secrets, and the audit log page by page."""

import re
from collections.abc import AsyncIterator

import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import Client, page_client, text_of
from tests.support.samples import NOW_MS, MovedClock, a_series
from vantage.config import Loaded, Settings
from vantage.core.api_key import ApiKey, Scope
from vantage.core.audit import AuditEntry
from vantage.core.batch import build_batch
from vantage.core.errors import StoreUnavailable
from vantage.core.sample import Kind
from vantage.query.administration import AUDIT_SHOWN_MAX, Administered
from vantage.query.context import QueryContext
from vantage.query.long_work import LongWork
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry
from vantage.web.pages import settings

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
async def metadata() -> AsyncIterator[MemoryMetadataStore]:
    async with MemoryMetadataStore(MovedClock()) as metadata:
        yield metadata


@pytest.fixture
async def context(metadata: MemoryMetadataStore) -> QueryContext:
    clock = MovedClock()
    return QueryContext(MemoryStore(clock=clock), metadata, clock, Telemetry())


@pytest.fixture
async def client(context: QueryContext, metadata: MemoryMetadataStore) -> AsyncIterator[Client]:
    loaded = Loaded(Settings(api_key="vtg_secret", port=9100), {"api_key": ".env", "port": "--port"}, ())
    administered = Administered(metadata, loaded.masked_rows(), LongWork(context.clock))
    async with page_client(context, settings.handlers, administered=administered) as client:
        yield client


async def test_space_keys_configuration_and_changes_are_shown(
    client: Client, context: QueryContext, metadata: MemoryMetadataStore
) -> None:
    series = a_series(HOSTILE, "m", Kind.GAUGE, tags={"label": HOSTILE})
    await write_batch(context, build_batch([(series, NOW_MS - 1000, 1.0)] * 10))
    for name, expires_ms in (("agent", None), (HOSTILE, NOW_MS - 1)):
        key = ApiKey(f"id-{len(name)}", name, frozenset({Scope.INGEST}), f"hash-{name}", NOW_MS - 5000, expires_ms)
        await metadata.create_key(key, actor="cli")
    page = (await client.get("/settings")).text
    assert "<script>alert" not in page
    text = text_of(page)
    for part in (HOSTILE, "agent", "expired", "key.create", "port 9100 --port", "What takes space"):
        assert part in text
    assert "vtg_secret" not in page
    assert "hash-agent" not in page


async def test_the_audit_log_is_read_page_by_page(client: Client, metadata: MemoryMetadataStore) -> None:
    for number in range(AUDIT_SHOWN_MAX + 5):
        await metadata.record_audit(AuditEntry(NOW_MS, "cli", "data.delete", f"subject-{number:03}"))
    page = (await client.get("/settings")).text
    assert "subject-054" in page
    assert "subject-004" not in page
    (older,) = re.findall(r'href="(/settings\?before=\d+)#audit"', page)
    older_page = (await client.get(older)).text
    assert "subject-004" in older_page
    assert "subject-054" not in older_page
    assert "Older" not in older_page


@pytest.mark.parametrize("before", ["x", "-1", "9" * 30, "٣"])
async def test_an_entry_that_is_none_is_refused(client: Client, before: str) -> None:
    assert (await client.get("/settings", params={"before": before})).status_code == 400


async def test_without_its_database_the_rest_is_shown(
    client: Client, metadata: MemoryMetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> list[ApiKey]:
        raise StoreUnavailable("the database is away")

    monkeypatch.setattr(metadata, "keys", away)
    text = text_of((await client.get("/settings")).text)
    assert "Keys and the audit log are not shown: the database is away" in text
    assert "port 9100" in text


def test_the_page_is_for_administrators() -> None:
    assert {handler.opt["scope"] for handler in settings.handlers} == {Scope.ADMIN}
