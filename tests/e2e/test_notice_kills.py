"""Processes that are killed at any moment, and several at once, lose no notice and double none beyond the documented
window: between a receiver's answer and its being stored."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.alerting.notice_world import NoticeWorld
from tests.contracts.metadata_contract import MovedClock
from tests.support.notice_worker import AheadClock
from tests.support.receiver import Answer, Received, Receiver
from vantage.alerting.channel_config import sealed_channel
from vantage.alerting.deliver import LEASE_MS
from vantage.alerting.outgoing import Outgoing
from vantage.alerting.secrets import Secrets, new_key
from vantage.core.notification import Fate
from vantage.storage.metadata.store import SqlMetadataStore

ROOT = Path(__file__).resolve().parents[2]
KEY = new_key()
AT_ONCE = {"group_wait": "0s", "group_interval": "1s", "duplicate": "0s", "flapping_changes": 1000}
SEED = int(os.environ.get("VANTAGE_TEST_SEED", "1"))


class WallClock(MovedClock):
    """A clock of the machine, for what the test itself writes."""

    def __init__(self) -> None:
        self._wall = AheadClock(0)

    @property
    def ms(self) -> int:  # type: ignore[override]
        return self._wall.now_ms()

    def now_ms(self) -> int:
        return self._wall.now_ms()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NoticeWorld]:
    clock = WallClock()
    async with SqlMetadataStore(f"sqlite:///{tmp_path / 'metadata.db'}", clock) as store:
        world = NoticeWorld(store, clock)
        await world.rule()
        await store.alerts.save_alert_settings(AT_ONCE, actor="ann")
        yield world


async def hook(world: NoticeWorld, url: str) -> None:
    outgoing = Outgoing(["127.0.0.0/8"])
    given = {"url": url}
    channel = sealed_channel(
        "hook", "webhook", given, enabled=True, before=None, secrets=Secrets(KEY), outgoing=outgoing
    )
    await world.store.notices.save_channel(channel, actor="ann")


async def worker(tmp_path: Path, offset_ms: int) -> asyncio.subprocess.Process:
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.notice_worker", f"sqlite:///{tmp_path / 'metadata.db'}", KEY,
        str(offset_ms), stdout=asyncio.subprocess.PIPE, env=environ, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


async def end(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.communicate()


def keys(receiver: Receiver) -> Counter[str]:
    return Counter(request.headers["idempotency-key"] for request in receiver.received)


async def settle(world: NoticeWorld, sent: int) -> None:
    async with asyncio.timeout(60):
        while len(await world.rows(Fate.SENT)) < sent:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
async def test_kills_between_a_transition_and_its_notice_lose_nothing(
    world: NoticeWorld, tmp_path: Path, kills: int
) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    offset_ms = 0

    def answer(request: Received) -> Answer:
        return Answer(hangs=True) if chance.random() < 0.3 else Answer()

    async with Receiver(of=answer) as receiver:
        await hook(world, receiver.url)
        for number in range(kills):
            before = len(receiver.received)
            process = await worker(tmp_path, offset_ms)
            await world.fire(f"s{number}")
            async with asyncio.timeout(30):  # sometimes when a receiver has just got it, sometimes before or after
                while len(receiver.received) == before and chance.random() < 0.995:
                    await asyncio.sleep(0.005)
            await asyncio.sleep(chance.random() / 50)
            await end(process)
            offset_ms += LEASE_MS + 1
        receiver._of = lambda request: Answer()
        last = await worker(tmp_path, offset_ms)
        await settle(world, kills)
        await end(last)
        received = keys(receiver)
    services = [request.json()["groupLabels"]["service"] for request in receiver.received]
    assert set(services) == {f"s{number}" for number in range(kills)}
    assert len(await world.rows()) == len(received) == kills
    assert sum(received.values()) - kills <= kills  # each kill may double the one that was under way
    assert list(await world.store.alerts.unhandled_events()) == []


async def test_two_processes_notify_each_alert_once(world: NoticeWorld, tmp_path: Path) -> None:
    async with Receiver() as receiver:
        await hook(world, receiver.url)
        both = [await worker(tmp_path, 0), await worker(tmp_path, 0)]
        for number in range(15):
            await world.fire(f"s{number}")
        await settle(world, 15)
        for process in both:
            await end(process)
        assert set(keys(receiver).values()) == {1}
        assert len(keys(receiver)) == 15
