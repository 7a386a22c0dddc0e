"""What every NoticeStore promises: part of the contract of metadata."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.contracts.alert_contract import NOW_MS, a_rule, an_alert
from vantage.core.alert import State
from vantage.core.channel import Channel
from vantage.core.errors import ConflictError, NotFoundError
from vantage.core.notification import Fate, NoticeAlert, Notification, Status, fingerprint_of
from vantage.core.silence import Silence
from vantage.storage.metadata.notice_ports import Decision, NoticeGroup, Notified, Snapshot

HOOK = Channel("hook", "webhook", {"url": "https://example.com/ü"}, {"secret": "sealed"})
SHOP = NoticeAlert("f" * 16, 1, "slow", "shop", "warning", Status.FIRING, NOW_MS, entity={"service": "shop"}, value=1.5)


def a_notification(channel: str = "hook", service: str = "shop", **fields: Any) -> Notification:
    waiting = Notification(channel, service, Fate.WAITING, "first", (SHOP,), NOW_MS, NOW_MS)
    return replace(waiting, **fields)


def adding(*notifications: Notification) -> Callable[[Snapshot], Decision]:
    return lambda snapshot: Decision(notifications)


def seeing(seen: list[Snapshot], **decided: Any) -> Callable[[Snapshot], Decision]:
    def decide(snapshot: Snapshot) -> Decision:
        seen.append(snapshot)
        return Decision(**decided)

    return decide


async def claim(notices: Any, owner: str = "a", at_ms: int = NOW_MS, busy: tuple[str, ...] = ()) -> list[Notification]:
    return list(await notices.claim(owner=owner, busy=busy, at_ms=at_ms, lease_ms=60_000, limit=5))


class NoticeContract:
    """Fixtures of the subclass: ``store``, whose ``notices`` is what is tested."""

    async def test_a_channel_is_stored_replaced_and_removed(self, store: Any, monkeypatch: Any) -> None:
        notices = store.notices
        saved = await notices.save_channel(HOOK, actor="ann", revision=0)
        assert (saved.revision, saved.author, saved.settings, saved.sealed) == (1, "ann", HOOK.settings, HOOK.sealed)
        assert await notices.channel("hook") == saved
        with pytest.raises(ConflictError, match="name"):
            await notices.save_channel(HOOK, actor="ann", revision=0)
        with pytest.raises(ConflictError, match="revision"):
            await notices.save_channel(HOOK, actor="ann", revision=7)
        changed = await notices.save_channel(replace(HOOK, enabled=False), actor="bob", revision=1)
        assert not changed.enabled
        await notices.save_channel(replace(HOOK, name="a"), actor="bob")
        assert [item.name for item in await notices.channels()] == ["a", "hook"]
        for module in ("notices", "memory_notices"):
            monkeypatch.setattr(f"vantage.storage.metadata.{module}.CHANNELS_MAX", 2)
        with pytest.raises(ConflictError, match="2 channels"):
            await notices.save_channel(replace(HOOK, name="b"), actor="bob")
        assert await notices.remove_channel("hook", actor="ann")
        assert not await notices.remove_channel("hook", actor="ann")
        assert await notices.channel("hook") is None
        actions = [(entry.action, entry.subject) for entry in await store.audit()]
        assert actions[:2] == [("channel.remove", "hook"), ("channel.save", "a")]

    async def test_secrets_are_sealed_again_unless_the_channel_changed(self, store: Any) -> None:
        notices = store.notices
        before = [await notices.save_channel(replace(HOOK, name=name), actor="ann") for name in ("a", "b")]
        await notices.save_channel(replace(HOOK, name="b", sealed={"secret": "newer"}), actor="ann")
        assert await notices.seal_again({"a": {"secret": "2"}, "b": {"secret": "2"}}, before=before) == 1
        assert [dict(item.sealed) for item in await notices.channels()] == [{"secret": "2"}, {"secret": "newer"}]

    async def test_a_silence_is_stored_replaced_and_removed(self, store: Any) -> None:
        notices = store.notices
        silence = Silence(NOW_MS, NOW_MS + 1000, rule="slow", entity={"pod": "a"}, comment="deploy")
        saved = await notices.save_silence(silence, actor="ann")
        assert saved.id
        assert saved == replace(silence, id=saved.id, revision=1, author="ann", at_ms=saved.at_ms)
        assert await notices.silence(saved.id) == saved
        weekly = await notices.save_silence(Silence(0, None, cron="0 2 * * 0", duration_ms=60_000), actor="ann")
        assert list(await notices.silences(ended_since_ms=NOW_MS)) == [weekly, saved]
        assert list(await notices.silences(ended_since_ms=NOW_MS + 1000)) == [weekly]
        changed = await notices.save_silence(replace(saved, comment="longer"), actor="bob", revision=1)
        assert (changed.comment, changed.revision) == ("longer", 2)
        with pytest.raises(ConflictError, match="revision"):
            await notices.save_silence(saved, actor="bob", revision=1)
        assert await notices.remove_silence(saved.id, actor="ann")
        assert not await notices.remove_silence(saved.id, actor="ann")
        with pytest.raises(NotFoundError):
            await notices.save_silence(saved, actor="bob")

    async def test_a_decision_sees_what_is_new_and_is_stored_with_it(self, store: Any) -> None:
        alerts, notices = store.alerts, store.notices
        await alerts.save_rule(a_rule(), actor="ann")
        await notices.save_channel(HOOK, actor="ann")
        await alerts.save_alert_settings({"group_wait": "1s"}, actor="ann")
        opened = await alerts.open_alert(an_alert(), note="", at_ms=NOW_MS)
        key = fingerprint_of(opened)
        known = Notified("hook", key, "checkout", opened.id, NOW_MS, Status.FIRING, NOW_MS)
        group = NoticeGroup("hook", "checkout", None, NOW_MS)
        seen: list[Snapshot] = []

        def decide(snapshot: Snapshot) -> Decision:
            seen.append(snapshot)
            return Decision([a_notification()], notified=[known], groups=[group])

        await notices.decide(decide, at_ms=NOW_MS)
        first = seen[0]
        assert [event.alert_id for event in first.events] == [opened.id]
        assert list(first.alerts) == [opened]
        assert (list(first.rules), [item.name for item in first.channels]) == (["slow"], ["hook"])
        assert (first.settings, first.notified, first.groups, first.changes) == ({"group_wait": "1s"}, [], [], {})
        resolved = replace(opened, state=State.RESOLVED, ended_ms=NOW_MS + 5, since_ms=NOW_MS + 5)
        assert await alerts.change_alert(resolved, before=opened, at_ms=NOW_MS + 5)

        def failing(snapshot: Snapshot) -> Decision:
            seen.append(snapshot)
            raise RuntimeError("killed")

        with pytest.raises(RuntimeError):
            await notices.decide(failing, at_ms=NOW_MS + 10)
        await notices.decide(seeing(seen, removed=[known]), at_ms=NOW_MS + 10)
        for later in seen[1:]:
            assert [event.after for event in later.events] == [State.RESOLVED]
            assert [item.state for item in later.alerts] == [State.RESOLVED]
            assert (later.notified, later.groups, later.changes) == ([known], [group], {key: 2})
        await notices.decide(seeing(seen, removed_groups=[group]), at_ms=NOW_MS + 20)
        assert (seen[-1].events, seen[-1].alerts, seen[-1].notified) == ([], [], [])
        await notices.decide(seeing(seen), at_ms=NOW_MS + 3_600_006)
        assert (seen[-1].changes, seen[-1].groups) == ({}, [])
        assert [item.alerts for item in await notices.notifications()] == [(SHOP,)]

    async def test_a_claim_is_exclusive_until_its_lease_ends(self, store: Any) -> None:
        notices = store.notices
        await notices.decide(adding(a_notification()), at_ms=NOW_MS)
        assert await claim(notices, at_ms=NOW_MS - 1) == []
        (claimed,) = await claim(notices)
        assert (claimed.attempts, claimed.alerts) == (1, (SHOP,))
        assert await claim(notices, "b", NOW_MS + 59_999) == []
        (again,) = await claim(notices, "b", NOW_MS + 60_000)
        sent = {"fate": Fate.SENT, "problem": "", "at_ms": NOW_MS + 60_001, "due_ms": NOW_MS}
        assert again.attempts == 2
        assert not await notices.finish(claimed, owner="a", **sent)
        assert await notices.finish(again, owner="b", **sent)
        assert not await notices.finish(again, owner="b", **sent)
        stored = await notices.notification(again.id)
        assert (stored.fate, stored.done_ms, stored.attempts) == (Fate.SENT, NOW_MS + 60_001, 2)
        assert await claim(notices, at_ms=NOW_MS + 10**9) == []

    async def test_a_service_is_notified_of_in_order_and_others_do_not_wait(self, store: Any) -> None:
        notices = store.notices
        rows = [a_notification(), a_notification(reason="changed"), a_notification(service="cart")]
        await notices.decide(adding(*rows, a_notification("mail", due_ms=NOW_MS + 5)), at_ms=NOW_MS)
        (first,) = await claim(notices)
        assert (first.channel, first.reason) == ("hook", "first")
        later = {"fate": Fate.WAITING, "problem": "503", "at_ms": NOW_MS, "due_ms": NOW_MS + 1000}
        assert await notices.finish(first, owner="a", **later)
        (second,) = await claim(notices)
        assert second.service == "cart"
        assert [item.channel for item in await claim(notices, at_ms=NOW_MS + 5, busy=("hook",))] == ["mail"]
        (retried,) = await claim(notices, at_ms=NOW_MS + 1000)
        assert (retried.reason, retried.attempts, retried.problem) == ("first", 2, "503")

    async def test_the_outbox_of_a_removed_channel_fails_and_one_that_failed_is_retried(self, store: Any) -> None:
        notices = store.notices
        await notices.save_channel(HOOK, actor="ann")
        quiet = a_notification(fate=Fate.SUPPRESSED, reason="silence", done_ms=NOW_MS)
        await notices.decide(adding(a_notification(), quiet, a_notification("mail")), at_ms=NOW_MS)
        await notices.remove_channel("hook", actor="ann")
        rows = await notices.notifications(channel="hook")
        assert [(row.fate, row.problem) for row in rows] == [
            (Fate.SUPPRESSED, ""),
            (Fate.FAILED, "the channel was removed"),
        ]
        assert await notices.fates(since_ms=NOW_MS) == {
            ("hook", Fate.FAILED): 1, ("hook", Fate.SUPPRESSED): 1, ("mail", Fate.WAITING): 1,
        }  # fmt: skip
        assert await notices.retry(rows[1].id, actor="ann", at_ms=NOW_MS + 7)
        assert not await notices.retry(rows[1].id, actor="ann", at_ms=NOW_MS + 7)
        (waiting,) = await notices.notifications(channel="hook", fates=[Fate.WAITING])
        assert (waiting.due_ms, waiting.attempts, waiting.done_ms) == (NOW_MS + 7, 0, None)
        assert [row.id for row in await notices.notifications(before_id=3, limit=1)] == [2]

    async def test_what_comes_at_a_time_is_added_once(self, store: Any) -> None:
        notices = store.notices
        group = NoticeGroup("mail", "digest", None, NOW_MS)
        assert await notices.add_notifications([a_notification("mail")], group=group)
        assert not await notices.add_notifications([a_notification("mail")], group=group)
        assert await notices.add_notifications([a_notification("mail")], group=replace(group, last_ms=NOW_MS + 1))
        assert len(await notices.notifications()) == 2
