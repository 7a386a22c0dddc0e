"""What every AlertStore promises: part of the contract of metadata."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from vantage.core.alert import Alert, State
from vantage.core.alert_rule import RequestValue, Rule, Severity, Threshold
from vantage.core.errors import ConflictError
from vantage.core.timerange import TimeRange
from vantage.storage.metadata.alert_ports import Evaluation

NOW_MS = 1_800_000_000_000


def a_rule(name: str = "slow", **fields: Any) -> Rule:
    condition = Threshold(RequestValue("p95"), above=500.0, recover=400.0)
    return Rule(name, condition, **{"labels": {"team": "shop"}, "escalate": (), **fields})


def an_alert(rule: str = "slow", service: str = "checkout", **fields: Any) -> Alert:
    alert = Alert(0, rule, {"service": service}, service, Severity.WARNING, State.FIRING, NOW_MS, NOW_MS - 1000)
    return replace(alert, fired_ms=NOW_MS, value=1.5, text="p95 is 1.5 ms", labels={"team": "shop"}, **fields)


class AlertContract:
    """Fixtures of the subclass: ``store``, whose ``alerts`` is what is tested."""

    async def test_a_rule_is_stored_replaced_and_removed(self, store: Any) -> None:
        alerts = store.alerts
        stored = await alerts.save_rule(a_rule(), actor="ann", revision=0)
        assert (stored.rule, stored.revision, stored.origin, stored.author) == (a_rule(), 1, "user", "ann")
        assert await alerts.rule("slow") == stored
        with pytest.raises(ConflictError, match="name"):
            await alerts.save_rule(a_rule(), actor="ann", revision=0)
        changed = a_rule(severity=Severity.CRITICAL)
        assert (await alerts.save_rule(changed, actor="bob", revision=1)).revision == 2
        with pytest.raises(ConflictError, match="revision"):
            await alerts.save_rule(a_rule(), actor="ann", revision=1)
        await alerts.save_rule(a_rule("errors"), actor="ann")
        assert [item.rule for item in await alerts.rules()] == [a_rule("errors"), changed]
        assert await alerts.remove_rule("slow", actor="ann")
        assert not await alerts.remove_rule("slow", actor="ann")
        assert await alerts.rule("slow") is None
        actions = [(entry.action, entry.actor) for entry in await store.audit()]
        assert actions[:2] == [("alert_rule.remove", "ann"), ("alert_rule.save", "ann")]

    async def test_rules_are_applied_whole_or_not_at_all(self, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        alerts = store.alerts
        await alerts.apply_rules([a_rule("a"), a_rule("b")], removed=(), actor="ci")
        await alerts.apply_rules([a_rule("c")], removed=["a", "unknown"], actor="ci")
        assert [item.rule.name for item in await alerts.rules()] == ["b", "c"]
        monkeypatch.setattr("vantage.storage.metadata.alerts.RULES_MAX", 3)
        monkeypatch.setattr("vantage.storage.metadata.memory_alerts.RULES_MAX", 3)
        with pytest.raises(ConflictError, match="3 rules"):
            await alerts.apply_rules([a_rule("d"), a_rule("e"), a_rule("f")], removed=["b"], actor="ci")
        assert [item.rule.name for item in await alerts.rules()] == ["b", "c"]

    async def test_default_rules_come_once(self, store: Any) -> None:
        alerts = store.alerts
        assert await alerts.add_default_rules([a_rule("a"), a_rule("b")]) == 2
        assert await alerts.add_default_rules([a_rule("a", severity=Severity.INFO), a_rule("b")]) == 0
        assert (await alerts.rule("a")).origin == "default"
        assert await alerts.remove_rule("a", actor="ann")
        assert await alerts.add_default_rules([a_rule("a"), a_rule("b"), a_rule("c")]) == 1
        assert [item.rule.name for item in await alerts.rules()] == ["b", "c"]
        assert (await alerts.save_rule(a_rule("a"), actor="ann", revision=0)).origin == "default"

    async def test_an_alert_is_open_once_for_a_rule_and_entity(self, store: Any) -> None:
        alerts = store.alerts
        opened = await alerts.open_alert(an_alert(), note="over the limit", at_ms=NOW_MS)
        assert opened == replace(an_alert(), id=opened.id)
        assert await alerts.open_alert(an_alert(), note="", at_ms=NOW_MS) is None
        assert await alerts.open_alert(an_alert(service="cart"), note="", at_ms=NOW_MS) is not None
        assert await alerts.alert(opened.id) == opened
        assert await alerts.alert(10**6) is None
        assert await alerts.counts() == {State.FIRING: 2}
        (event,) = await alerts.events(alert_id=opened.id)
        assert (event.before, event.after, event.note, event.value) == (State.OK, State.FIRING, "over the limit", 1.5)
        assert event.handled_ms is None
        assert [item.alert_id for item in await alerts.unhandled_events()] == [opened.id, opened.id + 1]

    async def test_of_many_that_change_an_alert_one_wins(self, store: Any) -> None:
        alerts = store.alerts
        before = await alerts.open_alert(an_alert(), note="", at_ms=NOW_MS)
        after = [
            replace(before, state=State.ACKNOWLEDGED, actor=f"person {number}", note="on it", since_ms=NOW_MS + 5)
            for number in range(8)
        ]
        won = await asyncio.gather(
            *(alerts.change_alert(alert, before=before, at_ms=NOW_MS + 5, note="on it") for alert in after)
        )
        assert sum(won) == 1
        stored = await alerts.alert(before.id)
        assert stored == replace(after[won.index(True)], revision=2)
        assert [event.after for event in await alerts.events()] == [State.ACKNOWLEDGED, State.FIRING]
        (entry,) = [entry for entry in await store.audit() if entry.action == "alert.acknowledged"]
        assert entry.actor == stored.actor
        newer = replace(stored, value=9.0)
        assert await alerts.change_alert(newer, before=stored, at_ms=NOW_MS + 6)
        assert len(await alerts.events()) == 2  # a value is no transition
        assert not await alerts.change_alert(newer, before=stored, at_ms=NOW_MS + 6)

    async def test_a_pending_alert_that_recovers_leaves_nothing(self, store: Any) -> None:
        alerts = store.alerts
        before = await alerts.open_alert(an_alert(state=State.PENDING), note="", at_ms=NOW_MS)
        assert await alerts.change_alert(replace(before, state=State.OK), before=before, at_ms=NOW_MS)
        assert not await alerts.change_alert(replace(before, state=State.OK), before=before, at_ms=NOW_MS)
        assert list(await alerts.alerts()) == []
        assert list(await alerts.events()) == []

    async def test_an_alert_that_somebody_resolved_waits_for_its_condition_to_recover(self, store: Any) -> None:
        alerts = store.alerts
        before = await alerts.open_alert(an_alert(), note="", at_ms=NOW_MS)
        ended = replace(before, state=State.RESOLVED, ended_ms=NOW_MS + 9, waits_for_ok=True, actor="ann")
        assert await alerts.change_alert(ended, before=before, at_ms=NOW_MS + 9, note="known")
        ended = replace(ended, revision=2)
        assert list(await alerts.watched_alerts()) == [ended]
        assert await alerts.open_alert(an_alert(), note="", at_ms=NOW_MS) is None
        assert await alerts.change_alert(replace(ended, waits_for_ok=False), before=ended, at_ms=NOW_MS + 9)
        assert list(await alerts.watched_alerts()) == []
        assert await alerts.open_alert(an_alert(), note="", at_ms=NOW_MS) is not None

    async def test_alerts_are_listed_by_state_service_rule_and_time(self, store: Any) -> None:
        alerts = store.alerts
        for rule, service, begun_ms, ended_ms in (
            ("slow", "cart", 1000, 2000), ("slow", "cart", 5000, None), ("errors", "cart", 6000, None),
            ("slow", "pay", 7000, None),
        ):  # fmt: skip
            state = State.FIRING if ended_ms is None else State.RESOLVED
            fields = {"begun_ms": begun_ms, "ended_ms": ended_ms, "state": state}
            assert await alerts.open_alert(an_alert(rule, service, **fields), note="", at_ms=begun_ms)

        async def begun(**chosen: Any) -> list[int]:
            return [alert.begun_ms for alert in await alerts.alerts(**chosen)]

        assert await begun() == [7000, 6000, 5000, 1000]
        assert await begun(states=[State.RESOLVED]) == [1000]
        assert await begun(states=[State.FIRING], service="cart") == [6000, 5000]
        assert await begun(rule="slow", limit=2) == [7000, 5000]
        assert await begun(time_range=TimeRange(1500, 5500)) == [5000, 1000]
        assert await begun(time_range=TimeRange(2500, 5500)) == [5000]
        assert await begun(before_id=3) == [5000, 1000]
        assert await begun(limit=0) == []

    async def test_a_removed_rule_resolves_its_alerts(self, store: Any) -> None:
        alerts = store.alerts
        await alerts.save_rule(a_rule(), actor="ann")
        opened = await alerts.open_alert(an_alert(), note="", at_ms=NOW_MS)
        await alerts.record_evaluations([Evaluation("slow", NOW_MS, 3), Evaluation("errors", NOW_MS, 1, "no store")])
        assert await alerts.remove_rule("slow", actor="ann")
        stored = await alerts.alert(opened.id)
        assert (stored.state, stored.actor, stored.is_open) == (State.RESOLVED, "ann", False)
        (event, _) = await alerts.events(alert_id=opened.id)
        assert (event.before, event.after, event.note) == (State.FIRING, State.RESOLVED, "the rule was removed")
        assert list(await alerts.evaluations()) == [Evaluation("errors", NOW_MS, 1, "no store")]
        await alerts.record_evaluations([Evaluation("errors", NOW_MS + 1, 2)])
        assert list(await alerts.evaluations()) == [Evaluation("errors", NOW_MS + 1, 2)]

    async def test_settings_are_replaced(self, store: Any) -> None:
        assert await store.alerts.alert_settings() == {}
        await store.alerts.save_alert_settings({"group_wait": "30s"}, actor="ann")
        await store.alerts.save_alert_settings({"repeat": "4h"}, actor="ann")
        assert await store.alerts.alert_settings() == {"repeat": "4h"}
