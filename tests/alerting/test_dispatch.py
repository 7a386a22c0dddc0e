"""What channels are notified of: grouped, once, not while silenced, inhibited or flapping, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.alerting.notice_world import HOUR_MS, MINUTE_MS, NoticeWorld
from tests.contracts.metadata_contract import MovedClock
from vantage.alerting.dispatch import Dispatcher, notice_settings
from vantage.core.alert import State
from vantage.core.alert_rule import Escalation, Severity
from vantage.core.errors import InputError
from vantage.core.notification import Fate, Status
from vantage.core.silence import Silence
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.storage.metadata.store import SqlMetadataStore
from vantage.telemetry import Telemetry


@pytest.fixture
async def world() -> AsyncIterator[NoticeWorld]:
    clock = MovedClock()
    async with MemoryMetadataStore(clock) as store:
        world = NoticeWorld(store, clock)
        await world.rule()
        await world.channel()
        yield world


async def test_an_alert_is_notified_after_the_wait_and_when_it_is_resolved(world: NoticeWorld) -> None:
    alert = await world.fire()
    await world.wait(25_000)
    assert await world.said() == []
    await world.wait(5000)
    assert await world.said() == ["first: slow shop firing"]
    (row,) = await world.rows()
    assert (row.channel, row.service, row.status, row.due_ms) == ("hook", "shop", Status.FIRING, world.clock.ms)
    await world.resolve(alert)
    await world.wait(4 * MINUTE_MS)
    assert len(await world.said()) == 1
    await world.wait(MINUTE_MS)
    assert (await world.said())[1:] == ["ended: slow shop resolved"]
    await world.wait(26 * HOUR_MS, step_ms=30 * MINUTE_MS)
    assert len(await world.said()) == 2


async def test_alerts_of_a_service_share_notices_and_services_do_not(world: NoticeWorld) -> None:
    await world.rule("errors")
    await world.fire()
    await world.wait(10_000)
    await world.fire(rule="errors")
    await world.fire("cart")
    await world.wait(60_000)
    assert await world.said() == ["first: errors shop firing, slow shop firing", "first: slow cart firing"]


async def test_changes_wait_for_the_interval_and_show_what_goes_on(world: NoticeWorld) -> None:
    await world.rule("errors")
    await world.fire()
    await world.wait(30_000)
    await world.fire(rule="errors")
    await world.wait(4 * MINUTE_MS)
    assert len(await world.said()) == 1
    await world.wait(MINUTE_MS)
    assert (await world.said())[1:] == ["changed: errors shop firing"]
    assert [(alert.rule, alert.is_new) for alert in (await world.rows())[1].alerts] == [
        ("errors", True),
        ("slow", False),
    ]


async def test_what_fires_on_is_repeated_until_it_is_acknowledged(world: NoticeWorld) -> None:
    alert = await world.fire()
    await world.wait(30_000)
    await world.wait(8 * HOUR_MS + MINUTE_MS, step_ms=MINUTE_MS)
    assert await world.said() == ["first: slow shop firing", "repeated: ", "repeated: "]
    await world.change(alert, State.ACKNOWLEDGED, actor="ann")
    await world.wait(12 * HOUR_MS, step_ms=10 * MINUTE_MS)
    assert len(await world.said()) == 3
    await world.resolve(alert)
    await world.wait(10 * MINUTE_MS)
    assert (await world.said())[3:] == ["ended: slow shop resolved"]


async def test_only_channels_that_know_acknowledgements_are_notified_of_them(world: NoticeWorld) -> None:
    await world.channel("pager", "pagerduty")
    alert = await world.fire()
    await world.wait(30_000)
    await world.change(alert, State.ACKNOWLEDGED, actor="ann")
    await world.wait(10 * MINUTE_MS)
    assert await world.said("hook") == ["first: slow shop firing"]
    assert await world.said("pager") == ["first: slow shop firing", "first: slow shop acknowledged"]


async def test_a_pending_alert_and_one_that_ended_early_are_not_notified(world: NoticeWorld) -> None:
    await world.fire("cart", state=State.PENDING, fired_ms=None)
    alert = await world.fire()
    await world.wait(5000)
    await world.resolve(alert)
    early = await world.fire("search")
    await world.resolve(early)  # between two decisions
    await world.wait(10 * MINUTE_MS)
    assert await world.said() == []
    assert await world.quiet() == ["it ended before its notice was due"] * 2
    assert await world.store.alerts.unhandled_events() == []


async def test_an_alert_that_fires_again_at_once_is_not_notified_twice(world: NoticeWorld) -> None:
    await world.store.alerts.save_alert_settings({"group_interval": "1s", "group_wait": "1s"}, actor="ann")
    alert = await world.fire()
    await world.wait(2000, step_ms=1000)
    await world.resolve(alert)
    await world.wait(2000, step_ms=1000)
    again = await world.fire()
    await world.wait(4 * MINUTE_MS)
    assert await world.said() == ["first: slow shop firing", "ended: slow shop resolved"]
    assert await world.quiet() == ["it was notified a short time ago"]
    await world.wait(MINUTE_MS + 5000)
    assert (await world.said())[2:] == ["first: slow shop firing"]
    await world.resolve(again)
    await world.wait(MINUTE_MS)
    assert (await world.said())[3:] == ["ended: slow shop resolved"]


async def test_a_silence_is_recorded_and_its_end_notifies_what_still_fires(world: NoticeWorld) -> None:
    now_ms = world.clock.ms
    silence = Silence(now_ms, now_ms + HOUR_MS, service="sh*p", comment="deploy")
    await world.store.notices.save_silence(silence, actor="ann")
    await world.fire()
    await world.fire("cart")
    await world.wait(30 * MINUTE_MS)
    assert await world.said() == ["first: slow cart firing"]
    assert await world.quiet() == ["silence 1: deploy"]
    await world.wait(31 * MINUTE_MS)
    assert (await world.said())[1:] == ["first: slow shop firing"]


async def test_a_silence_stops_repeats_and_not_the_end_of_what_was_notified(world: NoticeWorld) -> None:
    alert = await world.fire()
    await world.wait(MINUTE_MS)
    end_ms = world.clock.ms + 24 * HOUR_MS
    await world.store.notices.save_silence(Silence(world.clock.ms, end_ms, rule="slow"), actor="ann")
    await world.wait(9 * HOUR_MS, step_ms=MINUTE_MS)
    assert len(await world.said()) == 1
    await world.resolve(alert)
    await world.wait(10 * MINUTE_MS)
    assert (await world.said())[1:] == ["ended: slow shop resolved"]


@pytest.mark.parametrize(
    ("fields", "silenced"),
    [
        ({"severity": "warning", "entity": {"service": "s*"}}, True),
        ({"severity": "critical"}, False),
        ({"entity": {"pod": "*"}}, False),
        ({"rule": "slo?"}, True),
        ({"rule": "[s]low"}, False),
        ({"service": "*", "rule": "other"}, False),
    ],
    ids=range(6),
)
async def test_a_silence_matches_all_that_it_names(
    world: NoticeWorld, fields: dict[str, Any], *, silenced: bool
) -> None:
    silence = Silence(world.clock.ms, world.clock.ms + HOUR_MS, **fields)
    await world.store.notices.save_silence(silence, actor="ann")
    await world.fire()
    await world.wait(MINUTE_MS)
    assert (await world.said() == []) is silenced


async def test_a_critical_alert_inhibits_lesser_ones_of_its_service(world: NoticeWorld) -> None:
    await world.rule("down")
    critical = await world.fire(rule="down", severity=Severity.CRITICAL)
    await world.fire()
    await world.fire("cart")
    await world.wait(MINUTE_MS)
    assert await world.said() == ["first: slow cart firing", "first: down shop firing"]
    assert await world.quiet() == ["inhibited by the critical alert of down"]
    await world.resolve(critical)
    await world.wait(6 * MINUTE_MS)
    assert (await world.said())[2:] == ["first: slow shop firing, down shop resolved"]


async def test_a_service_without_data_has_one_alert_that_disturbs(world: NoticeWorld) -> None:
    await world.rule("silent", silent=True)
    await world.rule("down")
    await world.fire(rule="silent")
    await world.fire(rule="down", severity=Severity.CRITICAL)
    await world.fire()
    await world.wait(MINUTE_MS)
    assert await world.said() == ["first: silent shop firing"]
    assert sorted(await world.quiet()) == ["inhibited: shop sends no data (silent)"] * 2


async def test_alerts_without_a_service_inhibit_nothing(world: NoticeWorld) -> None:
    await world.rule("down")
    await world.fire("", rule="down", severity=Severity.CRITICAL)
    await world.fire("")
    await world.wait(MINUTE_MS)
    assert await world.said() == ["first: down  firing, slow  firing"]


async def test_a_flapping_alert_is_notified_as_such_and_then_not_until_it_is_calm(world: NoticeWorld) -> None:
    for _ in range(12):
        alert = await world.fire()
        await world.wait(MINUTE_MS, step_ms=MINUTE_MS)
        await world.resolve(alert)
        await world.wait(MINUTE_MS, step_ms=MINUTE_MS)
    flapping = [text for text in await world.said() if "flapping" in text]
    assert len(flapping) == 1
    count = len(await world.said())
    assert count <= 7
    await world.wait(30 * MINUTE_MS, step_ms=MINUTE_MS)
    assert len(await world.said()) == count
    assert "it is flapping" in await world.quiet()
    await world.wait(HOUR_MS, step_ms=MINUTE_MS)
    assert (await world.said())[count:] == ["ended: slow shop resolved"]


async def test_nobody_acknowledging_escalates_and_the_next_channel_gets_the_end_too(world: NoticeWorld) -> None:
    await world.channel("boss")
    await world.rule(channels=("hook",), escalate=(Escalation("15m", ("boss",)),))
    alert = await world.fire()
    other = await world.fire("cart")
    await world.wait(10 * MINUTE_MS)
    await world.change(other, State.ACKNOWLEDGED, actor="ann")
    assert await world.said("boss") == []
    await world.wait(6 * MINUTE_MS)
    assert await world.said("boss") == ["first: slow shop firing"]
    await world.resolve(alert)
    await world.wait(6 * MINUTE_MS)
    assert await world.said("boss") == ["first: slow shop firing", "ended: slow shop resolved"]


async def test_a_rule_goes_to_its_channels_or_to_all_that_are_enabled(world: NoticeWorld) -> None:
    await world.channel("mail")
    await world.channel("off", enabled=False)
    await world.rule("errors", channels=("mail", "unknown", "off"))
    await world.fire()
    await world.fire(rule="errors")
    await world.wait(MINUTE_MS)
    assert await world.said("hook") == ["first: slow shop firing"]
    assert await world.said("mail") == ["first: errors shop firing, slow shop firing"]
    assert await world.said("off") == await world.said("unknown") == []
    assert await world.quiet() == ["the channel is not enabled", "there is no channel of this name"]
    await world.wait(HOUR_MS)
    assert len(await world.quiet()) == 2
    assert world.telemetry.values("vantage_lost_total", "reason")["notice_channel_unknown"] == 1


async def test_an_alert_whose_rule_was_removed_is_resolved_where_it_was_notified(world: NoticeWorld) -> None:
    await world.fire()
    await world.wait(MINUTE_MS)
    await world.store.alerts.remove_rule("slow", actor="ann")
    await world.wait(6 * MINUTE_MS)
    assert (await world.said())[1:] == ["ended: slow shop resolved"]


async def test_data_that_ends_and_returns_says_nothing_new(world: NoticeWorld) -> None:
    alert = await world.fire()
    await world.wait(MINUTE_MS)
    await world.change(alert, State.NO_DATA)
    await world.wait(10 * MINUTE_MS)
    await world.change(alert, State.FIRING)
    await world.wait(10 * MINUTE_MS)
    assert len(await world.said()) == 1


@pytest.mark.parametrize("jump_ms", [-3 * HOUR_MS, 3 * HOUR_MS, -100 * 24 * HOUR_MS])
async def test_a_clock_that_jumps_delays_and_doubles_nothing(world: NoticeWorld, jump_ms: int) -> None:
    await world.rule("errors")
    alert = await world.fire()
    await world.wait(MINUTE_MS)
    world.clock.ms += jump_ms
    await world.fire(rule="errors")
    await world.wait(6 * MINUTE_MS)
    await world.resolve(alert)
    await world.wait(6 * MINUTE_MS)
    assert await world.said() == [
        "first: slow shop firing", "changed: errors shop firing", "ended: slow shop resolved",
    ]  # fmt: skip


async def test_many_alerts_of_a_service_become_several_notices_without_a_loss(world: NoticeWorld) -> None:
    for number in range(1100):
        await world.fire(entity={"service": "shop", "pod": str(number)})
    await world.wait(MINUTE_MS)
    rows = await world.rows(Fate.WAITING)
    assert [len(row.alerts) for row in rows] == [500, 500, 100]
    assert len({alert.fingerprint for row in rows for alert in row.alerts}) == 1100


async def test_invalid_settings_are_refused_and_never_stop_notices(world: NoticeWorld) -> None:
    for wrong in ({"repeat": "1s"}, {"group_wait": "soon"}, {"flapping_changes": 1}, {"duplicate": 5}):
        with pytest.raises(InputError):
            notice_settings(wrong)
    assert notice_settings({"other": 1}).repeat == "4h"
    await world.store.alerts.save_alert_settings({"repeat": "1s"}, actor="ann")
    await world.fire()
    await world.wait(MINUTE_MS)
    assert len(await world.said()) == 1


async def test_the_digest_comes_once_at_its_time_and_counts_what_fired(world: NoticeWorld) -> None:
    settings = {"digest_channels": ["hook", "unknown"], "digest_cron": "0 9 * * 1", "digest_timezone": "Europe/Berlin"}
    await world.store.alerts.save_alert_settings(settings, actor="ann")
    other = Dispatcher(world.store, world.clock, Telemetry())
    world.clock.ms = int(datetime(2027, 1, 11, 7, 55, tzinfo=UTC).timestamp() * 1000)  # a Monday: 8:55 in Berlin
    await world.dispatcher.step()
    for service in ("shop", "cart"):
        alert = await world.fire(service)
        world.clock.ms += 90_000
        await world.resolve(alert)
    digests = []
    for _ in range(8 * 24 * 4):
        world.clock.ms += 15 * MINUTE_MS
        await world.dispatcher.step()
        await other.step()
        digests = [row for row in await world.rows() if row.reason == "digest"]
    assert [(row.channel, row.alerts[0].text) for row in digests] == [
        ("hook", "slow fired 2 times on cart, shop, for 0.1 h"),
        ("hook", "Nothing fired in the last seven days."),
    ]
    assert [datetime.fromtimestamp(row.created_ms / 1000, tz=UTC).strftime("%d %H") for row in digests] == [
        "11 08",
        "18 08",
    ]


async def test_two_processes_on_one_database_double_and_lose_nothing(tmp_path: Path) -> None:
    clock = MovedClock()
    url = f"sqlite:///{tmp_path / 'metadata.db'}"
    async with SqlMetadataStore(url, clock) as first, SqlMetadataStore(url, clock) as second:
        world = NoticeWorld(first, clock)
        other = Dispatcher(second, clock, Telemetry())
        await world.rule()
        await world.channel()
        services = [f"s{number}" for number in range(20)]
        alerts = [await world.fire(service) for service in services]
        for _ in range(20):
            clock.ms += 5000
            await asyncio.gather(world.dispatcher.step(), other.step())
        for alert in alerts[::2]:
            await world.resolve(alert)
        for _ in range(80):
            clock.ms += 5000
            await asyncio.gather(world.dispatcher.step(), other.step())
        assert sorted(await world.said()) == sorted(
            [f"first: slow {service} firing" for service in services]
            + [f"ended: slow {service} resolved" for service in services[::2]]
        )
        assert list(await first.alerts.unhandled_events()) == []
