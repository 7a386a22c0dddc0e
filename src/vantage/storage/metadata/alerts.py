"""Rules and alerts in the database. A transition is a conditional UPDATE and its event, in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Select, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from vantage.core.alert import EVALUATOR, Alert, AlertEvent, State, entity_key
from vantage.core.alert_rule import Rule, Severity, StoredRule
from vantage.core.audit import AuditEntry
from vantage.core.clock import Clock
from vantage.core.errors import ConflictError
from vantage.core.timerange import TimeRange
from vantage.storage.metadata import audit
from vantage.storage.metadata.alert_ports import ALERTS_MAX, RULES_MAX, Evaluation
from vantage.storage.metadata.database import Database
from vantage.storage.metadata.schema import alert as table
from vantage.storage.metadata.schema import alert_evaluation, alert_event, alert_rule, alert_settings

PRUNE_EVERY: Final = 100
_NAMES_AT_ONCE: Final = 500  # databases limit the parameters of a statement


class SqlAlerts:
    """Implements ``AlertStore``."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._opened = 0

    async def rules(self) -> Sequence[StoredRule]:
        """Return all rules by name. Raises StoreUnavailable."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(alert_rule).where(~alert_rule.c.is_removed))
            return sorted((rule_of(row) for row in rows), key=lambda stored: stored.rule.name)

    async def rule(self, name: str) -> StoredRule | None:
        """Return a rule; None: there is none of this name. Raises StoreUnavailable."""
        async with self._database.read() as connection:
            query = select(alert_rule).where(alert_rule.c.name == name, ~alert_rule.c.is_removed)
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else rule_of(row)

    async def alerts(
        self,
        *,
        states: Collection[State] = (),
        rule: str = "",
        service: str = "",
        time_range: TimeRange | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> Sequence[Alert]:
        """Return up to ``limit`` alerts, those that began last first. Raises StoreUnavailable."""
        query = select(table).order_by(table.c.id.desc()).limit(max(0, limit))
        if states:
            query = query.where(table.c.state.in_([str(state) for state in states]))
            if State.RESOLVED not in states:
                query = query.where(table.c.ended_ms.is_(None))
        if rule:
            query = query.where(table.c.rule == rule)
        if service:
            query = query.where(table.c.service == service)
        if time_range is not None:
            query = query.where(
                table.c.begun_ms < time_range.end_ms,
                or_(table.c.ended_ms.is_(None), table.c.ended_ms >= time_range.start_ms),
            )
        if before_id is not None:
            query = query.where(table.c.id < before_id)
        return await self._read_alerts(query)

    async def alert(self, alert_id: int) -> Alert | None:
        """Return an alert; None: there is none. Raises StoreUnavailable."""
        alerts = await self._read_alerts(select(table).where(table.c.id == alert_id))
        return alerts[0] if alerts else None

    async def events(
        self, *, alert_id: int | None = None, before_id: int | None = None, limit: int = 100
    ) -> Sequence[AlertEvent]:
        """Return up to ``limit`` transitions, the latest first. Raises StoreUnavailable."""
        query = select(alert_event).order_by(alert_event.c.id.desc()).limit(max(0, limit))
        if alert_id is not None:
            query = query.where(alert_event.c.alert_id == alert_id)
        if before_id is not None:
            query = query.where(alert_event.c.id < before_id)
        async with self._database.read() as connection:
            return [event_of(row) for row in await connection.execute(query)]

    async def counts(self) -> Mapping[State, int]:
        """Return how many open alerts there are in each state. Raises StoreUnavailable."""
        query = select(table.c.state, func.count()).where(table.c.ended_ms.is_(None)).group_by(table.c.state)
        async with self._database.read() as connection:
            return {State(state): count for state, count in await connection.execute(query)}

    async def evaluations(self) -> Sequence[Evaluation]:
        """Return how the latest evaluation of each rule went. Raises StoreUnavailable."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(alert_evaluation).order_by(alert_evaluation.c.rule))
            return [Evaluation(row.rule, row.at_ms, row.entities, row.problem) for row in rows]

    async def save_rule(self, rule: Rule, *, actor: str, revision: int | None = None) -> StoredRule:
        """Store a rule, or replace that of its name. Raises ConflictError, StoreUnavailable."""
        async with self._database.write() as connection:
            stored = await _stored(connection, rule.name)
            has = stored.revision if stored is not None and not stored.is_removed else 0
            if revision is not None and revision != has:
                raise ConflictError(
                    "was changed meanwhile" if revision else "is that of another rule",
                    field="revision" if revision else "name",
                )
            return await self._save(connection, rule, actor=actor)

    async def apply_rules(self, rules: Sequence[Rule], *, removed: Collection[str], actor: str) -> None:
        """Store several rules and remove others, all or nothing. Raises ConflictError, StoreUnavailable."""
        async with self._database.write() as connection:
            for name in removed:
                await self._remove(connection, name, actor=actor)
            for rule in rules:
                await self._save(connection, rule, actor=actor)

    async def remove_rule(self, name: str, *, actor: str) -> bool:
        """Remove a rule; its open alerts are resolved. False: there is none. Raises StoreUnavailable."""
        async with self._database.write() as connection:
            return await self._remove(connection, name, actor=actor)

    async def add_default_rules(self, rules: Sequence[Rule]) -> int:
        """Store those default rules whose names have never been stored. Raises StoreUnavailable."""
        async with self._database.read() as connection:
            names = set((await connection.execute(select(alert_rule.c.name))).scalars())
        if all(rule.name in names for rule in rules):
            return 0
        async with self._database.write() as connection:
            names = set((await connection.execute(select(alert_rule.c.name))).scalars())
            added = [rule for rule in rules if rule.name not in names]
            for rule in added:
                await connection.execute(
                    insert(alert_rule).values(
                        name=rule.name,
                        document=msgspec.to_builtins(rule),
                        revision=1,
                        origin="default",
                        author=EVALUATOR,
                        at_ms=self._clock.now_ms(),
                        is_removed=False,
                    )
                )
            return len(added)

    async def watched_alerts(self) -> Sequence[Alert]:
        """Return all alerts that are open, and those that wait to recover. Raises StoreUnavailable."""
        return await self._read_alerts(
            select(table).where(or_(table.c.ended_ms.is_(None), table.c.waits_for_ok)).order_by(table.c.id)
        )

    async def open_alert(self, alert: Alert, *, note: str, at_ms: int) -> Alert | None:
        """Store a new alert with its first transition. None: there is one already. Raises StoreUnavailable."""
        values = _values(alert)
        async with self._database.write() as connection:
            same = select(table.c.id).where(
                table.c.rule == alert.rule,
                table.c.entity_key == values["entity_key"],
                or_(table.c.ended_ms.is_(None), table.c.waits_for_ok),
            )
            if (await connection.execute(same)).first() is not None:
                return None
            alert_id = (await connection.execute(insert(table).values(values).returning(table.c.id))).scalar_one()
            opened = replace(alert, id=alert_id)
            await _add_event(connection, opened, before=State.OK, at_ms=at_ms, note=note)
            self._opened += 1
            if self._opened % PRUNE_EVERY == 0:
                await _prune(connection)
            return opened

    async def change_alert(self, alert: Alert, *, before: Alert, at_ms: int, note: str = "") -> bool:
        """Replace an alert that is still as in ``before``. False: it is not. Raises StoreUnavailable."""
        same = (table.c.id == before.id, table.c.revision == before.revision, table.c.state == str(before.state))
        async with self._database.write() as connection:
            if alert.state is State.OK:
                if not (await connection.execute(delete(table).where(*same))).rowcount:
                    return False
                await connection.execute(delete(alert_event).where(alert_event.c.alert_id == alert.id))
                return True
            values = _values(alert) | {"revision": before.revision + 1}
            if not (await connection.execute(update(table).where(*same).values(values))).rowcount:
                return False
            if alert.state is not before.state:
                await _add_event(connection, alert, before=before.state, at_ms=at_ms, note=note)
                if alert.actor != EVALUATOR:
                    entry = AuditEntry(
                        self._clock.now_ms(), alert.actor, f"alert.{alert.state}", str(alert.id), {"rule": alert.rule}
                    )
                    await audit.append(connection, entry)
            return True

    async def unhandled_events(self, *, limit: int = 500) -> Sequence[AlertEvent]:
        """Return the oldest transitions that nobody has handled. Raises StoreUnavailable."""
        query = select(alert_event).where(alert_event.c.handled_ms.is_(None)).order_by(alert_event.c.id).limit(limit)
        async with self._database.read() as connection:
            return [event_of(row) for row in await connection.execute(query)]

    async def record_evaluations(self, evaluations: Sequence[Evaluation]) -> None:
        """Replace those of the same rules. Raises StoreUnavailable."""
        names = [evaluation.rule for evaluation in evaluations]
        async with self._database.write() as connection:
            for first in range(0, len(names), _NAMES_AT_ONCE):
                part = names[first : first + _NAMES_AT_ONCE]
                await connection.execute(delete(alert_evaluation).where(alert_evaluation.c.rule.in_(part)))
            rows = [
                {"rule": item.rule, "at_ms": item.at_ms, "entities": item.entities, "problem": item.problem}
                for item in evaluations
            ]
            if rows:
                await connection.execute(insert(alert_evaluation), rows)

    async def alert_settings(self) -> Mapping[str, Any]:
        """Return what is set for all alerts. Raises StoreUnavailable."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(alert_settings.c.document))).one_or_none()
            return {} if row is None else dict(row.document)

    async def save_alert_settings(self, settings: Mapping[str, Any], *, actor: str) -> None:
        """Replace what is set for all alerts. Raises StoreUnavailable."""
        async with self._database.write() as connection:
            changed = await connection.execute(update(alert_settings).values(document=dict(settings)))
            if not changed.rowcount:
                await connection.execute(insert(alert_settings).values(id=1, document=dict(settings)))
            await audit.append(connection, AuditEntry(self._clock.now_ms(), actor, "alert_settings.save", "alerts"))

    async def _read_alerts(self, query: Select[Any]) -> list[Alert]:
        async with self._database.read() as connection:
            return [alert_of(row) for row in await connection.execute(query)]

    async def _save(self, connection: AsyncConnection, rule: Rule, *, actor: str) -> StoredRule:
        now_ms = self._clock.now_ms()
        row = await _stored(connection, rule.name)
        values: dict[str, Any] = {"document": msgspec.to_builtins(rule), "author": actor, "at_ms": now_ms}
        if row is None:
            count = select(func.count()).select_from(alert_rule).where(~alert_rule.c.is_removed)
            if (await connection.execute(count)).scalar_one() >= RULES_MAX:
                raise ConflictError(f"there are {RULES_MAX} rules: remove one first", field="name")
            values |= {"name": rule.name, "revision": 1, "origin": "user", "is_removed": False}
            await connection.execute(insert(alert_rule).values(values))
        else:
            values |= {"revision": row.revision + 1, "is_removed": False, "origin": row.origin}
            await connection.execute(update(alert_rule).where(alert_rule.c.name == rule.name).values(values))
        await audit.append(connection, AuditEntry(now_ms, actor, "alert_rule.save", rule.name))
        return StoredRule(rule, values["revision"], values["origin"], actor, now_ms)

    async def _remove(self, connection: AsyncConnection, name: str, *, actor: str) -> bool:
        row = await _stored(connection, name)
        if row is None or row.is_removed:
            return False
        if row.origin == "default":
            values = {"is_removed": True, "revision": row.revision + 1}
            await connection.execute(update(alert_rule).where(alert_rule.c.name == name).values(values))
        else:
            await connection.execute(delete(alert_rule).where(alert_rule.c.name == name))
        await connection.execute(delete(alert_evaluation).where(alert_evaluation.c.rule == name))
        await _end_alerts(connection, name, actor=actor, at_ms=self._clock.now_ms())
        await audit.append(connection, AuditEntry(self._clock.now_ms(), actor, "alert_rule.remove", name))
        return True


async def _end_alerts(connection: AsyncConnection, rule: str, *, actor: str, at_ms: int) -> None:
    """Resolve the open alerts of a rule that is removed."""
    rows = await connection.execute(
        select(table).where(table.c.rule == rule, or_(table.c.ended_ms.is_(None), table.c.waits_for_ok))
    )
    for alert in [alert_of(row) for row in rows]:
        ended: dict[str, Any] = {"waits_for_ok": False, "revision": alert.revision + 1}
        if alert.is_open:
            ended |= {"state": str(State.RESOLVED), "ended_ms": max(at_ms, alert.since_ms), "since_ms": at_ms}
            ended |= {"actor": actor, "note": "the rule was removed"}
        await connection.execute(update(table).where(table.c.id == alert.id).values(ended))
        if alert.is_open:
            await connection.execute(
                insert(alert_event).values(
                    alert_id=alert.id,
                    at_ms=at_ms,
                    data_ms=at_ms,
                    before=str(alert.state),
                    after=str(State.RESOLVED),
                    actor=actor,
                    note="the rule was removed",
                    value=alert.value,
                    text=alert.text,
                )
            )


async def _stored(connection: AsyncConnection, name: str) -> Row[Any] | None:
    return (await connection.execute(select(alert_rule).where(alert_rule.c.name == name))).one_or_none()


async def _add_event(connection: AsyncConnection, alert: Alert, *, before: State, at_ms: int, note: str) -> None:
    await connection.execute(
        insert(alert_event).values(
            alert_id=alert.id,
            at_ms=at_ms,
            data_ms=alert.since_ms,
            before=str(before),
            after=str(alert.state),
            actor=alert.actor,
            note=note,
            value=alert.value,
            text=alert.text,
        )
    )


async def _prune(connection: AsyncConnection) -> None:
    """Delete the oldest alerts beyond ALERTS_MAX that have ended, with their transitions."""
    has_ended = (table.c.ended_ms.is_not(None), ~table.c.waits_for_ok)
    surplus = select(table.c.id).where(*has_ended).order_by(table.c.id.desc()).offset(ALERTS_MAX).limit(PRUNE_EVERY * 2)
    ids = list((await connection.execute(surplus)).scalars())
    if ids:
        await connection.execute(delete(alert_event).where(alert_event.c.alert_id.in_(ids)))
        await connection.execute(delete(table).where(table.c.id.in_(ids)))


def rule_of(row: Row[Any]) -> StoredRule:
    """Return the rule of a row of its table."""
    return StoredRule(msgspec.convert(row.document, Rule), row.revision, row.origin, row.author, row.at_ms)


_SAME_NAMES: Final = tuple(
    name for name in Alert.__slots__ if name not in ("id", "entity", "labels", "state", "severity")
)


def _values(alert: Alert) -> dict[str, Any]:
    values = {name: getattr(alert, name) for name in _SAME_NAMES}
    return values | {
        "entity": dict(alert.entity),
        "entity_key": entity_key(alert.entity),
        "labels": dict(alert.labels),
        "state": str(alert.state),
        "severity": str(alert.severity),
    }


def alert_of(row: Row[Any]) -> Alert:
    """Return the alert of a row of its table."""
    same = {name: getattr(row, name) for name in _SAME_NAMES}
    return Alert(
        id=row.id,
        entity=row.entity,
        labels=row.labels,
        state=State(row.state),
        severity=Severity(row.severity),
        **same,
    )


def event_of(row: Row[Any]) -> AlertEvent:
    """Return the transition of a row of its table."""
    values = {name: getattr(row, name) for name in AlertEvent.__slots__}
    return AlertEvent(**values | {"before": State(row.before), "after": State(row.after)})
