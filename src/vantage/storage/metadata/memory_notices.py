"""The smallest NoticeStore, for tests. Its methods never wait for anything, so each is one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace

from vantage.core.alert import State
from vantage.core.audit import AuditEntry
from vantage.core.channel import Channel
from vantage.core.clock import Clock
from vantage.core.errors import ConflictError, NotFoundError
from vantage.core.notification import Fate, Notification, fingerprint_of
from vantage.core.silence import Silence
from vantage.storage.metadata.memory_alerts import MemoryAlerts
from vantage.storage.metadata.notice_ports import (
    CHANGES_WINDOW_MS,
    CHANNELS_MAX,
    EVENTS_MAX,
    SILENCES_MAX,
    Decision,
    NoticeGroup,
    Notified,
    Snapshot,
)


class MemoryNotices:
    """Implements ``NoticeStore``; ``alerts``, ``record_audit`` and ``ping`` are those of the store it belongs to."""

    def __init__(
        self,
        clock: Clock,
        alerts: MemoryAlerts,
        *,
        record_audit: Callable[[AuditEntry], Awaitable[None]],
        ping: Callable[[], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._alerts = alerts
        self._record_audit = record_audit
        self._ping = ping
        self._channels: dict[str, Channel] = {}
        self._silences: dict[int, Silence] = {}
        self._silences_ever = 0
        self._outbox: dict[int, Notification] = {}
        self._outbox_ever = 0
        self._claims: dict[int, tuple[str, int]] = {}
        self._notified: dict[tuple[str, str], Notified] = {}
        self._groups: dict[tuple[str, str], NoticeGroup] = {}

    async def channels(self) -> Sequence[Channel]:
        """Return all channels by name."""
        await self._ping()
        return [self._channels[name] for name in sorted(self._channels)]

    async def channel(self, name: str) -> Channel | None:
        """Return a channel; None: there is none of this name."""
        await self._ping()
        return self._channels.get(name)

    async def silences(self, *, ended_since_ms: int, limit: int = 1000) -> Sequence[Silence]:
        """Return up to ``limit`` silences, the latest first, without the older ones."""
        await self._ping()
        lasting = [item for item in self._silences.values() if item.end_ms is None or item.end_ms > ended_since_ms]
        return sorted(lasting, key=lambda item: -item.id)[: max(0, limit)]

    async def silence(self, silence_id: int) -> Silence | None:
        """Return a silence; None: there is none."""
        await self._ping()
        return self._silences.get(silence_id)

    async def notifications(
        self,
        *,
        fates: Collection[Fate] = (),
        channel: str = "",
        before_id: int | None = None,
        since_ms: int = 0,
        limit: int = 100,
    ) -> Sequence[Notification]:
        """Return up to ``limit`` notifications, the latest first."""
        await self._ping()
        chosen = [
            item
            for item in reversed(self._outbox.values())
            if (not fates or item.fate in fates)
            and channel in ("", item.channel)
            and (before_id is None or item.id < before_id)
            and item.created_ms >= since_ms
        ]
        return chosen[: max(0, limit)]

    async def notification(self, notification_id: int) -> Notification | None:
        """Return a notification; None: there is none."""
        await self._ping()
        return self._outbox.get(notification_id)

    async def fates(self, *, since_ms: int) -> Mapping[tuple[str, Fate], int]:
        """Return the number of notifications by channel and fate."""
        await self._ping()
        return Counter((item.channel, item.fate) for item in self._outbox.values() if item.created_ms >= since_ms)

    async def save_channel(self, stored: Channel, *, actor: str, revision: int | None = None) -> Channel:
        """Store a channel, or replace that of its name. Raises ConflictError."""
        await self._ping()
        before = self._channels.get(stored.name)
        has = before.revision if before is not None else 0
        if revision is not None and revision != has:
            field = "revision" if revision else "name"
            raise ConflictError("was changed meanwhile" if revision else "is that of another channel", field=field)
        if before is None and len(self._channels) >= CHANNELS_MAX:
            raise ConflictError(f"there are {CHANNELS_MAX} channels: remove one first", field="name")
        saved = replace(stored, revision=has + 1, author=actor, at_ms=self._clock.now_ms())
        self._channels[saved.name] = saved
        await self._audit(actor, "channel.save", saved.name, kind=saved.kind)
        return saved

    async def remove_channel(self, name: str, *, actor: str) -> bool:
        """Remove a channel; its waiting notifications fail. False: there is none."""
        await self._ping()
        if self._channels.pop(name, None) is None:
            return False
        self._notified = {key: item for key, item in self._notified.items() if item.channel != name}
        self._groups = {key: item for key, item in self._groups.items() if item.channel != name}
        for item in list(self._outbox.values()):
            if item.channel == name and item.fate is Fate.WAITING:
                now_ms, problem = self._clock.now_ms(), "the channel was removed"
                self._outbox[item.id] = replace(item, fate=Fate.FAILED, problem=problem, done_ms=now_ms)
        await self._audit(actor, "channel.remove", name)
        return True

    async def seal_again(self, sealed: Mapping[str, Mapping[str, str]], *, before: Sequence[Channel]) -> int:
        """Replace encrypted secrets where channels are as before; return their number."""
        await self._ping()
        same = [item for item in before if self._channels.get(item.name) == item]
        for item in same:
            self._channels[item.name] = replace(item, sealed=sealed[item.name], revision=item.revision + 1)
        if same:
            await self._audit("cli", "secrets.rotate", "channels", count=str(len(same)))
        return len(same)

    async def save_silence(self, stored: Silence, *, actor: str, revision: int | None = None) -> Silence:
        """Store a silence. Raises NotFoundError, ConflictError."""
        await self._ping()
        now_ms, before = self._clock.now_ms(), self._silences.get(stored.id)
        if stored.id and before is None:
            raise NotFoundError("no silence has this id", field="id")
        if before is not None and revision is not None and revision != before.revision:
            raise ConflictError("was changed meanwhile", field="revision")
        if before is None:
            if len(await self.silences(ended_since_ms=now_ms, limit=SILENCES_MAX)) >= SILENCES_MAX:
                raise ConflictError(f"there are {SILENCES_MAX} silences: remove one first", field="id")
            self._silences_ever += 1
        saved = replace(
            stored,
            id=stored.id or self._silences_ever,
            revision=before.revision + 1 if before else 1,
            author=actor,
            at_ms=now_ms,
        )
        self._silences[saved.id] = saved
        await self._audit(actor, "silence.save", str(saved.id), comment=saved.comment)
        return saved

    async def remove_silence(self, silence_id: int, *, actor: str) -> bool:
        """Remove a silence. False: there is none."""
        await self._ping()
        if self._silences.pop(silence_id, None) is None:
            return False
        await self._audit(actor, "silence.remove", str(silence_id))
        return True

    async def decide(self, decide: Callable[[Snapshot], Decision], *, at_ms: int) -> Decision:
        """Read, decide, store the decision and mark the events as handled."""
        await self._ping()
        events = await self._alerts.unhandled_events(limit=EVENTS_MAX)
        every = await self._alerts.alerts(limit=1 << 30)
        named = {event.alert_id for event in events} | {item.alert_id for item in self._notified.values()}
        fired = (State.FIRING, State.ACKNOWLEDGED, State.NO_DATA)
        by_id = {item.id: item for item in every}
        changes = Counter(
            fingerprint_of(by_id[event.alert_id])
            for event in await self._alerts.events(limit=1 << 30)
            if event.at_ms >= at_ms - CHANGES_WINDOW_MS and event.after in (State.FIRING, State.RESOLVED)
        )
        snapshot = Snapshot(
            events=events,
            alerts=[item for item in every if item.id in named or (item.is_open and item.state in fired)],
            rules={stored.rule.name: stored for stored in await self._alerts.rules()},
            channels=await self.channels(),
            silences=await self.silences(ended_since_ms=at_ms, limit=SILENCES_MAX * 2),
            notified=list(self._notified.values()),
            groups=list(self._groups.values()),
            changes={key: count for key, count in changes.items() if count > 1},
            settings=await self._alerts.alert_settings(),
        )
        decision = decide(snapshot)
        self._add(decision.notifications)
        for item in decision.removed:
            self._notified.pop((item.channel, item.fingerprint), None)
        for group in decision.removed_groups:
            self._groups.pop((group.channel, group.service), None)
        self._notified |= {(item.channel, item.fingerprint): item for item in decision.notified}
        self._groups |= {(group.channel, group.service): group for group in decision.groups}
        self._alerts.mark_handled([event.id for event in events], at_ms=at_ms)
        return decision

    async def claim(
        self, *, owner: str, busy: Collection[str], at_ms: int, lease_ms: int, limit: int
    ) -> Sequence[Notification]:
        """Return notifications that are due, at most one a channel, claimed for ``owner``."""
        await self._ping()
        claimed: dict[str, Notification] = {}
        heads: set[tuple[str, str]] = set()
        waiting = [item for item in self._outbox.values() if item.fate is Fate.WAITING]
        for item in waiting:
            key = (item.channel, item.service)
            is_head, is_free = key not in heads, self._claims.get(item.id, ("", 0))[1] <= at_ms
            heads.add(key)
            if is_head and is_free and item.due_ms <= at_ms and item.channel not in {*busy, *claimed}:
                claimed[item.channel] = replace(item, attempts=item.attempts + 1)
        for item in list(claimed.values())[:limit]:
            self._outbox[item.id] = item
            self._claims[item.id] = (owner, at_ms + lease_ms)
        return list(claimed.values())[:limit]

    async def finish(
        self, done: Notification, *, owner: str, fate: Fate, problem: str, at_ms: int, due_ms: int
    ) -> bool:
        """Record the outcome of an attempt. False: somebody else has the claim."""
        await self._ping()
        stored = self._outbox.get(done.id)
        is_own = self._claims.get(done.id, ("", 0))[0] == owner
        if stored is None or not is_own or (stored.attempts, stored.fate) != (done.attempts, Fate.WAITING):
            return False
        done_ms = None if fate is Fate.WAITING else at_ms
        self._outbox[done.id] = replace(stored, fate=fate, problem=problem, due_ms=due_ms, done_ms=done_ms)
        del self._claims[done.id]
        return True

    async def retry(self, notification_id: int, *, actor: str, at_ms: int) -> bool:
        """Make a failed notification wait again. False: there is none."""
        await self._ping()
        stored = self._outbox.get(notification_id)
        if stored is None or stored.fate is not Fate.FAILED:
            return False
        self._outbox[notification_id] = replace(
            stored, fate=Fate.WAITING, due_ms=at_ms, done_ms=None, created_ms=at_ms, attempts=0
        )
        await self._audit(actor, "notification.retry", str(notification_id))
        return True

    async def add_notifications(self, notifications: Sequence[Notification], *, group: NoticeGroup) -> bool:
        """Add notifications and replace a group that is older. False: it is not."""
        await self._ping()
        stored = self._groups.get((group.channel, group.service))
        if stored is not None and (stored.last_ms or 0) >= (group.last_ms or 0):
            return False
        self._add(notifications)
        self._groups[group.channel, group.service] = group
        return True

    def _add(self, notifications: Sequence[Notification]) -> None:
        for item in notifications:
            self._outbox_ever += 1
            self._outbox[self._outbox_ever] = replace(item, id=self._outbox_ever)

    async def _audit(self, actor: str, action: str, subject: str, **detail: str) -> None:
        await self._record_audit(AuditEntry(self._clock.now_ms(), actor, action, subject, detail))
