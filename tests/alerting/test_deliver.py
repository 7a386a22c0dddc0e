"""The outbox is sent at least once, again after failures, and by one process at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.alerting.channels.test_channels import OUTGOING, SECRETS
from tests.contracts.metadata_contract import NOW_MS, MovedClock
from tests.contracts.notice_contract import a_notification, adding
from tests.support.receiver import Answer, Receiver
from vantage.alerting.channel_config import sealed_channel
from vantage.alerting.channels.notifier import Tools
from vantage.alerting.deliver import GIVE_UP_MS, LEASE_MS, Deliverer
from vantage.alerting.links import Links
from vantage.core.notification import Fate, Notification
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.storage.metadata.ports import MetadataStore
from vantage.storage.metadata.store import SqlMetadataStore
from vantage.telemetry import Telemetry


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
async def store(clock: MovedClock) -> AsyncIterator[MetadataStore]:
    async with MemoryMetadataStore(clock) as store:
        yield store


def deliverer(store: MetadataStore, clock: MovedClock) -> Deliverer:
    tools = Tools(OUTGOING, Links(SECRETS, clock), clock, "https://vantage.example.com")
    return Deliverer(store, SECRETS, tools, telemetry=Telemetry())


async def hook(store: MetadataStore, url: str, name: str = "hook") -> None:
    channel = sealed_channel(
        name, "webhook", {"url": url}, enabled=True, before=None, secrets=SECRETS, outgoing=OUTGOING
    )
    await store.notices.save_channel(channel, actor="ann")


async def work(sender: Deliverer) -> None:
    while await sender.step():
        while sender._sending:
            await asyncio.gather(*sender._sending.values(), return_exceptions=True)
            await asyncio.sleep(0)


async def outbox(store: MetadataStore) -> list[Notification]:
    return list(await store.notices.notifications())[::-1]


async def test_a_notice_is_sent_once(store: MetadataStore, clock: MovedClock) -> None:
    sender = deliverer(store, clock)
    async with Receiver() as receiver:
        await hook(store, receiver.url)
        await store.notices.decide(adding(a_notification(), a_notification(service="cart")), at_ms=NOW_MS)
        await work(sender)
        clock.ms += LEASE_MS * 2
        await work(sender)
        assert [request.json()["groupLabels"]["service"] for request in receiver.received] == ["shop", "cart"]
    assert {(row.fate, row.attempts, row.problem) for row in await outbox(store)} == {(Fate.SENT, 1, "")}
    assert sender._telemetry.values("vantage_alert_notices_total", "outcome") == {"sent": 2.0}


async def test_a_receiver_that_fails_is_tried_again_later_each_time(store: MetadataStore, clock: MovedClock) -> None:
    sender = deliverer(store, clock)
    async with Receiver(Answer(500), Answer(503), Answer(429, headers={"retry-after": "900"}), Answer()) as receiver:
        await hook(store, receiver.url)
        await store.notices.decide(adding(a_notification()), at_ms=NOW_MS)
        waits = []
        for _ in range(4):
            await work(sender)
            (row,) = await outbox(store)
            waits.append(row.due_ms - clock.ms)
            clock.ms = max(clock.ms, row.due_ms)
        assert len({request.headers["idempotency-key"] for request in receiver.received}) == 1
    assert 2500 <= waits[0] <= 5000 <= waits[1] <= 10_000
    assert waits[2] == 900_000
    assert (row.fate, row.attempts) == (Fate.SENT, 4)


async def test_a_receiver_that_is_away_for_a_day_is_given_up_and_retried_by_hand(
    store: MetadataStore, clock: MovedClock
) -> None:
    sender = deliverer(store, clock)
    async with Receiver() as receiver:
        pass
    await hook(store, receiver.url)
    await store.notices.decide(adding(a_notification()), at_ms=NOW_MS)
    await work(sender)
    clock.ms += GIVE_UP_MS
    await work(sender)
    (row,) = await outbox(store)
    assert (row.fate, row.attempts) == (Fate.FAILED, 2)
    assert "given up after a day" in row.problem
    assert sender._telemetry.values("vantage_lost_total", "reason") == {"notice_expired": 1.0}
    async with receiver:
        assert await store.notices.retry(row.id, actor="ann", at_ms=clock.ms)
        await work(sender)
    assert [row.fate for row in await outbox(store)] == [Fate.SENT]


async def test_what_is_refused_for_good_is_not_repeated(store: MetadataStore, clock: MovedClock) -> None:
    sender = deliverer(store, clock)
    async with Receiver(Answer(404, b"no_service")) as receiver:
        await hook(store, receiver.url)
        await store.notices.decide(adding(a_notification(), a_notification("removed")), at_ms=NOW_MS)
        await work(sender)
        clock.ms += GIVE_UP_MS
        await work(sender)
        assert len(receiver.received) == 1
    assert {(row.fate, row.problem) for row in await outbox(store)} == {
        (Fate.FAILED, "the receiver answered 404: no_service"),
        (Fate.FAILED, "the channel was removed"),
    }
    assert sender._telemetry.values("vantage_lost_total", "reason") == {"notice_refused": 2.0}


async def test_a_channel_that_hangs_delays_no_other(store: MetadataStore, clock: MovedClock) -> None:
    sender = deliverer(store, clock)
    async with Receiver(Answer(hangs=True)) as hanging, Receiver() as receiver:
        await hook(store, hanging.url, "hanging")
        await hook(store, receiver.url)
        rows = [a_notification("hanging", service=str(number)) for number in range(30)]
        await store.notices.decide(adding(*rows, *[a_notification(service=str(n)) for n in range(5)]), at_ms=NOW_MS)
        async with asyncio.timeout(10):
            while len(receiver.received) < 5:
                await sender.step()
                await asyncio.sleep(0.01)
        assert len(hanging.received) == 1
        (task,) = [task for channel, task in sender._sending.items() if channel == "hanging"]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_killed_process_leaves_its_notice_to_another_when_the_lease_ends(
    store: MetadataStore, clock: MovedClock
) -> None:
    async with Receiver(Answer(hangs=True), Answer()) as receiver:
        await hook(store, receiver.url)
        await store.notices.decide(adding(a_notification()), at_ms=NOW_MS)
        killed = deliverer(store, clock)
        await killed.step()
        async with asyncio.timeout(10):
            while not receiver.received:
                await asyncio.sleep(0.01)
        for task in killed._sending.values():
            task.cancel()
        other = deliverer(store, clock)
        await work(other)
        assert len(receiver.received) == 1
        clock.ms += LEASE_MS
        await work(other)
        assert len(receiver.received) == 2
    assert [(row.fate, row.attempts) for row in await outbox(store)] == [(Fate.SENT, 2)]


async def test_two_processes_send_each_notice_once(tmp_path: Path, clock: MovedClock) -> None:
    url = f"sqlite:///{tmp_path / 'metadata.db'}"
    async with SqlMetadataStore(url, clock) as first, SqlMetadataStore(url, clock) as second, Receiver() as receiver:
        for number in range(4):
            await hook(first, receiver.url, f"hook{number}")
        rows = [a_notification(f"hook{number % 4}", service=f"s{number}") for number in range(24)]
        await first.notices.decide(adding(*rows), at_ms=NOW_MS)
        await asyncio.gather(*(work(deliverer(item, clock)) for item in (first, second, first)))
        async with asyncio.timeout(20):
            while any(row.fate is not Fate.SENT for row in await outbox(first)):
                await work(deliverer(second, clock))
        assert len(receiver.received) == 24
        assert len({request.headers["idempotency-key"] for request in receiver.received}) == 24
