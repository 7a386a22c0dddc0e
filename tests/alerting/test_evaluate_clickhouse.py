"""Rules on a ClickHouse server that goes away and comes back: no data meanwhile, and nobody is notified for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.alerting.test_evaluate import alerts_of, evaluator, gauge, saved, write_gauge
from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.clickhouse_stores import server_store
from tests.support.samples import MovedClock
from vantage.core.alert import State
from vantage.core.alert_rule import MetricValue, NoDataCondition, RequestValue, Rule, Threshold, VqlValue
from vantage.query.context import QueryContext
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry

pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")
VQL = "SELECT service_name, max(value) AS v FROM metrics WHERE metric_name = 'queue' GROUP BY service_name"


@pytest.fixture
def server() -> Iterator[ClickHouseServer]:
    with running_clickhouse() as server:
        yield server


@pytest.fixture
async def context(server: ClickHouseServer, tmp_path: Path) -> AsyncIterator[QueryContext]:
    clock, telemetry = MovedClock(), Telemetry()
    async with (
        MemoryMetadataStore(clock) as metadata,
        server_store(server.new_database(), tmp_path, clock=clock, telemetry=telemetry) as store,
    ):
        yield QueryContext(store, metadata, clock, telemetry, timeout_s=5)


async def test_a_server_that_is_away_is_no_data_and_pages_nobody(
    server: ClickHouseServer, context: QueryContext
) -> None:
    rules = [
        Rule("deep queue", gauge(agg="max", group_by=("queue",)), hold="0s", recover_for="0s"),
        Rule("a query", Threshold(VqlValue(VQL), above=10), hold="0s"),
        Rule("many samples", Threshold(MetricValue("shop", "queue", "count"), above=1), hold="0s"),
        Rule("slow", Threshold(RequestValue("p95"), above=100), hold="0s"),
        Rule("silent", NoDataCondition()),
    ]
    await saved(context, *rules)
    process = evaluator(context)
    await write_gauge(context, 5, 50, tags={"queue": "mail"})
    await process.evaluate()
    before = await alerts_of(context)
    assert {(alert.rule, alert.state) for alert in before} == {
        ("deep queue", State.FIRING), ("a query", State.FIRING), ("many samples", State.FIRING)
    }  # fmt: skip

    server.kill()
    for _ in range(3):
        context.clock.now += 15 * 60_000  # type: ignore[attr-defined]
        await process.evaluate()
        problems = {item.rule: item.problem for item in await context.metadata.alerts.evaluations()}
        assert all(problems[rule.name] for rule in rules), problems
        assert await alerts_of(context) == before

    server.start()
    await write_gauge(context, 5, 50, tags={"queue": "mail"})
    context.clock.now += 60_000  # type: ignore[attr-defined]
    await process.evaluate()
    assert {item.problem for item in await context.metadata.alerts.evaluations()} == {""}
    assert {(alert.id, alert.state) for alert in await alerts_of(context)} == {
        (alert.id, alert.state) for alert in before
    }
