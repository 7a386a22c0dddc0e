"""Channels, silences and the outbox in the database. What is sent is decided in one transaction, which marks the
transitions as handled, too: a kill in between loses and doubles nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Table, and_, delete, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from vantage.core.alert import State
from vantage.core.audit import AuditEntry
from vantage.core.channel import Channel
from vantage.core.clock import Clock
from vantage.core.errors import ConflictError, NotFoundError
from vantage.core.notification import Fate, NoticeAlert, Notification, Status, fingerprint_of
from vantage.core.silence import Silence
from vantage.storage.metadata import audit
from vantage.storage.metadata.alerts import alert_of, event_of, rule_of
from vantage.storage.metadata.database import Database
from vantage.storage.metadata.notice_ports import (
    CHANGES_WINDOW_MS,
    CHANNELS_MAX,
    EVENTS_MAX,
    NOTIFICATIONS_MAX,
    SILENCES_MAX,
    Decision,
    NoticeGroup,
    Notified,
    Snapshot,
)
from vantage.storage.metadata.schema import (
    alert,
    alert_event,
    alert_rule,
    alert_settings,
    channel,
    notice_group,
    notification,
    notified_alert,
    silence,
)

PRUNE_EVERY: Final = 500
_IDS_AT_ONCE: Final = 500  # databases limit the parameters of a statement
_FIRED: Final = [str(state) for state in (State.FIRING, State.ACKNOWLEDGED, State.NO_DATA)]


class SqlNotices:
    """Implements ``NoticeStore``."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._added = 0

    async def channels(self) -> Sequence[Channel]:
        """Return all channels by name. Raises StoreUnavailable."""
        async with self._database.read() as connection:
            return await _channels(connection)

    async def channel(self, name: str) -> Channel | None:
        """Return a channel; None: there is none of this name. Raises StoreUnavailable."""
        async with self._database.read() as connection:
            return await _channel(connection, name)

    async def silences(self, *, ended_since_ms: int, limit: int = 1000) -> Sequence[Silence]:
        """Return up to ``limit`` silences, the latest first, without the older ones. Raises StoreUnavailable."""
        async with self._database.read() as connection:
            return await _silences(connection, ended_since_ms=ended_since_ms, limit=limit)

    async def silence(self, silence_id: int) -> Silence | None:
        """Return a silence; None: there is none. Raises StoreUnavailable."""
        async with self._database.read() as connection:
            return await _silence(connection, silence_id)

    async def notifications(
        self,
        *,
        fates: Collection[Fate] = (),
        channel: str = "",
        before_id: int | None = None,
        since_ms: int = 0,
        limit: int = 100,
    ) -> Sequence[Notification]:
        """Return up to ``limit`` notifications, the latest first. Raises StoreUnavailable."""
        query = select(notification).order_by(notification.c.id.desc()).limit(max(0, limit))
        if fates:
            query = query.where(notification.c.fate.in_([str(fate) for fate in fates]))
        if channel:
            query = query.where(notification.c.channel == channel)
        if before_id is not None:
            query = query.where(notification.c.id < before_id)
        if since_ms:
            query = query.where(notification.c.created_ms >= since_ms)
        async with self._database.read() as connection:
            return [_notification(row) for row in await connection.execute(query)]

    async def notification(self, notification_id: int) -> Notification | None:
        """Return a notification; None: there is none. Raises StoreUnavailable."""
        async with self._database.read() as connection:
            query = select(notification).where(notification.c.id == notification_id)
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else _notification(row)

    async def fates(self, *, since_ms: int) -> Mapping[tuple[str, Fate], int]:
        """Return the number of notifications by channel and fate. Raises StoreUnavailable."""
        query = (
            select(notification.c.channel, notification.c.fate, func.count())
            .where(notification.c.created_ms >= since_ms)
            .group_by(notification.c.channel, notification.c.fate)
        )
        async with self._database.read() as connection:
            return {(name, Fate(fate)): count for name, fate, count in await connection.execute(query)}

    async def save_channel(self, stored: Channel, *, actor: str, revision: int | None = None) -> Channel:
        """Store a channel, or replace that of its name. Raises ConflictError, StoreUnavailable."""
        async with self._database.write() as connection:
            before = await _channel(connection, stored.name)
            has = before.revision if before is not None else 0
            if revision is not None and revision != has:
                field = "revision" if revision else "name"
                raise ConflictError("was changed meanwhile" if revision else "is that of another channel", field=field)
            saved = replace(stored, revision=has + 1, author=actor, at_ms=self._clock.now_ms())
            values = _values(saved) | {"settings": dict(saved.settings), "sealed": dict(saved.sealed)}
            if before is None:
                count = (await connection.execute(select(func.count()).select_from(channel))).scalar_one()
                if count >= CHANNELS_MAX:
                    raise ConflictError(f"there are {CHANNELS_MAX} channels: remove one first", field="name")
                await connection.execute(insert(channel).values(values))
            else:
                await connection.execute(update(channel).where(channel.c.name == saved.name).values(values))
            await self._audit(connection, actor, "channel.save", saved.name, kind=saved.kind)
            return saved

    async def remove_channel(self, name: str, *, actor: str) -> bool:
        """Remove a channel; its waiting notifications fail. False: there is none. Raises StoreUnavailable."""
        async with self._database.write() as connection:
            if not (await connection.execute(delete(channel).where(channel.c.name == name))).rowcount:
                return False
            await connection.execute(delete(notified_alert).where(notified_alert.c.channel == name))
            await connection.execute(delete(notice_group).where(notice_group.c.channel == name))
            failed = {"fate": str(Fate.FAILED), "problem": "the channel was removed", "done_ms": self._clock.now_ms()}
            waits = and_(notification.c.channel == name, notification.c.fate == str(Fate.WAITING))
            await connection.execute(update(notification).where(waits).values(failed))
            await self._audit(connection, actor, "channel.remove", name)
            return True

    async def seal_again(self, sealed: Mapping[str, Mapping[str, str]], *, before: Sequence[Channel]) -> int:
        """Replace encrypted secrets where channels are as before; return their number. Raises StoreUnavailable."""
        replaced = 0
        async with self._database.write() as connection:
            for item in before:
                same = and_(channel.c.name == item.name, channel.c.revision == item.revision)
                values = {"sealed": dict(sealed[item.name]), "revision": item.revision + 1}
                replaced += (await connection.execute(update(channel).where(same).values(values))).rowcount
            if replaced:
                await self._audit(connection, "cli", "secrets.rotate", "channels", count=str(replaced))
        return replaced

    async def save_silence(self, stored: Silence, *, actor: str, revision: int | None = None) -> Silence:
        """Store a silence. Raises NotFoundError, ConflictError, StoreUnavailable."""
        now_ms = self._clock.now_ms()
        async with self._database.write() as connection:
            if stored.id:
                before = await _silence(connection, stored.id)
                if before is None:
                    raise NotFoundError("no silence has this id", field="id")
                if revision is not None and revision != before.revision:
                    raise ConflictError("was changed meanwhile", field="revision")
                saved = replace(stored, revision=before.revision + 1, author=actor, at_ms=now_ms)
                await connection.execute(
                    update(silence)
                    .where(silence.c.id == saved.id)
                    .values(_values(saved) | {"entity": {**saved.entity}})
                )
            else:
                lasting = or_(silence.c.end_ms.is_(None), silence.c.end_ms > now_ms)
                count = await connection.execute(select(func.count()).select_from(silence).where(lasting))
                if count.scalar_one() >= SILENCES_MAX:
                    raise ConflictError(f"there are {SILENCES_MAX} silences: remove one first", field="id")
                saved = replace(stored, revision=1, author=actor, at_ms=now_ms)
                values = _values(saved) | {"entity": dict(saved.entity)}
                del values["id"]
                row_id = (await connection.execute(insert(silence).values(values).returning(silence.c.id))).scalar_one()
                saved = replace(saved, id=row_id)
            await self._audit(connection, actor, "silence.save", str(saved.id), comment=saved.comment)
            return saved

    async def remove_silence(self, silence_id: int, *, actor: str) -> bool:
        """Remove a silence. False: there is none. Raises StoreUnavailable."""
        async with self._database.write() as connection:
            if not (await connection.execute(delete(silence).where(silence.c.id == silence_id))).rowcount:
                return False
            await self._audit(connection, actor, "silence.remove", str(silence_id))
            return True

    async def decide(self, decide: Callable[[Snapshot], Decision], *, at_ms: int) -> Decision:
        """Read, decide, store the decision and mark the events as handled, in one transaction. Raises
        StoreUnavailable."""
        async with self._database.write() as connection:
            snapshot = await _snapshot(connection, at_ms=at_ms)
            decision = decide(snapshot)
            await _add(connection, decision.notifications)
            await _replace(connection, notified_alert, ("channel", "fingerprint"), decision.notified, decision.removed)
            await _replace(connection, notice_group, ("channel", "service"), decision.groups, decision.removed_groups)
            ids = [event.id for event in snapshot.events]
            if ids:
                handled = update(alert_event).where(alert_event.c.id.in_(ids)).values(handled_ms=at_ms)
                await connection.execute(handled)
            self._added += len(decision.notifications)
            if self._added >= PRUNE_EVERY:
                self._added = 0
                await _prune(connection)
            return decision

    async def claim(
        self, *, owner: str, busy: Collection[str], at_ms: int, lease_ms: int, limit: int
    ) -> Sequence[Notification]:
        """Return notifications that are due, at most one a channel, claimed for ``owner``. Raises StoreUnavailable."""
        earlier = notification.alias("earlier")
        is_free = or_(notification.c.claimed_until_ms.is_(None), notification.c.claimed_until_ms <= at_ms)
        query = (
            select(notification)
            .where(
                notification.c.fate == str(Fate.WAITING),
                notification.c.due_ms <= at_ms,
                is_free,
                ~exists().where(
                    earlier.c.fate == str(Fate.WAITING),
                    earlier.c.channel == notification.c.channel,
                    earlier.c.service == notification.c.service,
                    earlier.c.id < notification.c.id,
                ),
            )
            .order_by(notification.c.due_ms, notification.c.id)
        )
        if busy:
            query = query.where(notification.c.channel.not_in(list(busy)))
        async with self._database.read() as connection:  # most often there is none, and nothing to lock for
            if (await connection.execute(query.limit(1))).first() is None:
                return []
        claimed: dict[str, Notification] = {}
        async with self._database.write() as connection:
            for row in (await connection.execute(query.limit(limit * 20))).all():
                if row.channel in claimed or len(claimed) >= limit:
                    continue
                values = {
                    "claimed_by": owner,
                    "claimed_until_ms": at_ms + lease_ms,
                    "attempts": row.attempts + 1,
                }
                same = and_(notification.c.id == row.id, is_free)
                if (await connection.execute(update(notification).where(same).values(values))).rowcount:
                    claimed[row.channel] = replace(_notification(row), attempts=row.attempts + 1)
        return list(claimed.values())

    async def finish(
        self, done: Notification, *, owner: str, fate: Fate, problem: str, at_ms: int, due_ms: int
    ) -> bool:
        """Record the outcome of an attempt. False: somebody else has the claim. Raises StoreUnavailable."""
        values = {
            "fate": str(fate),
            "problem": problem,
            "due_ms": due_ms,
            "done_ms": None if fate is Fate.WAITING else at_ms,
            "claimed_by": None,
            "claimed_until_ms": None,
        }
        same = and_(
            notification.c.id == done.id,
            notification.c.claimed_by == owner,
            notification.c.attempts == done.attempts,
            notification.c.fate == str(Fate.WAITING),
        )
        async with self._database.write() as connection:
            return bool((await connection.execute(update(notification).where(same).values(values))).rowcount)

    async def retry(self, notification_id: int, *, actor: str, at_ms: int) -> bool:
        """Make a failed notification wait again. False: there is none. Raises StoreUnavailable."""
        failed = and_(notification.c.id == notification_id, notification.c.fate == str(Fate.FAILED))
        values = {"fate": str(Fate.WAITING), "due_ms": at_ms, "done_ms": None, "created_ms": at_ms, "attempts": 0}
        async with self._database.write() as connection:
            if not (await connection.execute(update(notification).where(failed).values(values))).rowcount:
                return False
            await self._audit(connection, actor, "notification.retry", str(notification_id))
            return True

    async def add_notifications(self, notifications: Sequence[Notification], *, group: NoticeGroup) -> bool:
        """Add notifications and replace a group that is older. False: it is not. Raises StoreUnavailable."""
        async with self._database.write() as connection:
            same = and_(notice_group.c.channel == group.channel, notice_group.c.service == group.service)
            stored = (await connection.execute(select(notice_group.c.last_ms).where(same))).one_or_none()
            if stored is not None and (stored.last_ms or 0) >= (group.last_ms or 0):
                return False
            await _add(connection, notifications)
            await _replace(connection, notice_group, ("channel", "service"), [group], [])
            return True

    async def _audit(self, connection: AsyncConnection, actor: str, action: str, subject: str, **detail: str) -> None:
        await audit.append(connection, AuditEntry(self._clock.now_ms(), actor, action, subject, detail))


async def _snapshot(connection: AsyncConnection, *, at_ms: int) -> Snapshot:
    query = select(alert_event).where(alert_event.c.handled_ms.is_(None)).order_by(alert_event.c.id).limit(EVENTS_MAX)
    events = [event_of(row) for row in await connection.execute(query)]
    notified = [Notified(**_named(row, Notified) | {"status": Status(row.status)})
                for row in await connection.execute(select(notified_alert))]  # fmt: skip
    open_rows = await connection.execute(select(alert).where(alert.c.ended_ms.is_(None), alert.c.state.in_(_FIRED)))
    alerts = {row.id: alert_of(row) for row in open_rows}
    ids = sorted(({event.alert_id for event in events} | {item.alert_id for item in notified}) - alerts.keys())
    for first in range(0, len(ids), _IDS_AT_ONCE):
        rows = await connection.execute(select(alert).where(alert.c.id.in_(ids[first : first + _IDS_AT_ONCE])))
        alerts |= {row.id: alert_of(row) for row in rows}
    rules = await connection.execute(select(alert_rule).where(~alert_rule.c.is_removed))
    settings = (await connection.execute(select(alert_settings.c.document))).one_or_none()
    return Snapshot(
        events=events,
        alerts=list(alerts.values()),
        rules={row.name: rule_of(row) for row in rules},
        channels=await _channels(connection),
        silences=await _silences(connection, ended_since_ms=at_ms, limit=SILENCES_MAX * 2),
        notified=notified,
        groups=[NoticeGroup(**_named(row, NoticeGroup)) for row in await connection.execute(select(notice_group))],
        changes=await _changes(connection, since_ms=at_ms - CHANGES_WINDOW_MS),
        settings={} if settings is None else dict(settings.document),
    )


async def _changes(connection: AsyncConnection, *, since_ms: int) -> dict[str, int]:
    """Return how often the alerts of a fingerprint have changed between firing and resolved."""
    between = [str(state) for state in (State.FIRING, State.RESOLVED)]
    query = (
        select(alert.c.rule, alert.c.entity_key, func.min(alert.c.id).label("id"), func.count().label("changes"))
        .select_from(alert_event.join(alert, alert.c.id == alert_event.c.alert_id))
        .where(alert_event.c.at_ms >= since_ms, alert_event.c.after.in_(between))
        .group_by(alert.c.rule, alert.c.entity_key)
        .having(func.count() > 1)
    )
    counts = {row.id: row.changes for row in await connection.execute(query)}
    changes: dict[str, int] = {}
    ids = sorted(counts)
    for first in range(0, len(ids), _IDS_AT_ONCE):
        rows = await connection.execute(select(alert).where(alert.c.id.in_(ids[first : first + _IDS_AT_ONCE])))
        changes |= {fingerprint_of(alert_of(row)): counts[row.id] for row in rows}
    return changes


async def _replace(
    connection: AsyncConnection, table: Table, keys: tuple[str, str], items: Sequence[Any], removed: Sequence[Any]
) -> None:
    for item in [*removed, *items]:
        same = and_(*(table.c[key] == getattr(item, key) for key in keys))
        await connection.execute(delete(table).where(same))
    if items:
        await connection.execute(insert(table), [_values(item) for item in items])


async def _add(connection: AsyncConnection, notifications: Sequence[Notification]) -> None:
    rows = []
    for item in notifications:
        values = _values(item) | {"alerts": msgspec.to_builtins(item.alerts)}
        del values["id"]
        rows.append(values)
    if rows:
        await connection.execute(insert(notification), rows)


async def _prune(connection: AsyncConnection) -> None:
    """Delete the oldest notifications beyond NOTIFICATIONS_MAX whose fate is final."""
    is_final = notification.c.fate != str(Fate.WAITING)
    oldest = select(notification.c.id).where(is_final).order_by(notification.c.id.desc()).offset(NOTIFICATIONS_MAX)
    newest = (await connection.execute(oldest.limit(1))).scalar_one_or_none()
    if newest is not None:
        await connection.execute(delete(notification).where(is_final, notification.c.id <= newest))


async def _channels(connection: AsyncConnection) -> list[Channel]:
    rows = await connection.execute(select(channel))
    return sorted((Channel(**_named(row, Channel)) for row in rows), key=lambda item: item.name)


async def _channel(connection: AsyncConnection, name: str) -> Channel | None:
    row = (await connection.execute(select(channel).where(channel.c.name == name))).one_or_none()
    return None if row is None else Channel(**_named(row, Channel))


async def _silences(connection: AsyncConnection, *, ended_since_ms: int, limit: int) -> list[Silence]:
    lasting = or_(silence.c.end_ms.is_(None), silence.c.end_ms > ended_since_ms)
    query = select(silence).where(lasting).order_by(silence.c.id.desc()).limit(max(0, limit))
    return [Silence(**_named(row, Silence)) for row in await connection.execute(query)]


async def _silence(connection: AsyncConnection, silence_id: int) -> Silence | None:
    row = (await connection.execute(select(silence).where(silence.c.id == silence_id))).one_or_none()
    return None if row is None else Silence(**_named(row, Silence))


def _notification(row: Row[Any]) -> Notification:
    alerts = msgspec.convert(row.alerts, tuple[NoticeAlert, ...])
    return Notification(**_named(row, Notification) | {"fate": Fate(row.fate), "alerts": alerts})


def _named(row: Row[Any], kind: type[Any]) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in fields(kind)}


def _values(item: Any) -> dict[str, Any]:
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    return {name: str(value) if isinstance(value, Fate | Status) else value for name, value in values.items()}
