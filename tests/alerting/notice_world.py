"""Alerts that a test makes fire and recover, channels, and the clock it moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.contracts.metadata_contract import MovedClock
from vantage.alerting.dispatch import Dispatcher
from vantage.core.alert import EVALUATOR, Alert, State
from vantage.core.alert_rule import NoDataCondition, RequestValue, Rule, Severity, Threshold
from vantage.core.channel import Channel
from vantage.core.notification import Fate, Notification
from vantage.storage.metadata.ports import MetadataStore
from vantage.telemetry import Telemetry

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS


class NoticeWorld:
    """One metadata store with a dispatcher on it."""

    def __init__(self, store: Any, clock: MovedClock) -> None:
        self.store: MetadataStore = store
        self.clock = clock
        self.telemetry = Telemetry()
        self.dispatcher = Dispatcher(store, clock, self.telemetry)

    async def rule(self, name: str = "slow", *, silent: bool = False, **fields: Any) -> Rule:
        condition = NoDataCondition() if silent else Threshold(RequestValue("p95"), above=500.0)
        rule = Rule(name, condition, **fields)
        await self.store.alerts.save_rule(rule, actor="ann")
        return rule

    async def channel(self, name: str = "hook", kind: str = "log", **fields: Any) -> Channel:
        return await self.store.notices.save_channel(Channel(name, kind, **fields), actor="ann")

    async def fire(self, service: str = "shop", rule: str = "slow", **fields: Any) -> Alert:
        severity = fields.pop("severity", Severity.WARNING)
        now_ms = self.clock.ms
        entity = {"service": service} if service else {"host": "a"}
        alert = Alert(
            0, rule, entity, service, severity, State.FIRING, now_ms, now_ms, now_ms, text=f"{rule} {service}"
        )
        opened = await self.store.alerts.open_alert(replace(alert, **fields), note="", at_ms=now_ms)
        assert opened is not None
        return opened

    async def change(self, alert: Alert, state: State, *, actor: str = EVALUATOR) -> Alert:
        before = await self.store.alerts.alert(alert.id)
        assert before is not None
        ended_ms = self.clock.ms if state is State.RESOLVED else None
        after = replace(before, state=state, since_ms=self.clock.ms, ended_ms=ended_ms, actor=actor)
        assert await self.store.alerts.change_alert(after, before=before, at_ms=self.clock.ms)
        return after

    async def resolve(self, alert: Alert) -> Alert:
        return await self.change(alert, State.RESOLVED)

    async def wait(self, ms: int = 0, *, step_ms: int = 5000) -> None:
        """Let time pass, with the dispatcher at work."""
        end_ms = self.clock.ms + ms
        await self.dispatcher.step()
        while self.clock.ms < end_ms:
            self.clock.ms = min(end_ms, self.clock.ms + step_ms)
            await self.dispatcher.step()

    async def rows(self, *fates: Fate, channel: str = "") -> list[Notification]:
        """Return notifications, the oldest first."""
        return list(await self.store.notices.notifications(fates=fates, channel=channel, limit=1000))[::-1]

    async def said(self, channel: str = "") -> list[str]:
        """Return what was sent: of each notice its reason and the alerts that are new in it."""
        return [
            f"{row.reason}: " + ", ".join(f"{alert.text} {alert.status}" for alert in row.alerts if alert.is_new)
            for row in await self.rows(Fate.WAITING, channel=channel)
        ]

    async def quiet(self) -> list[str]:
        """Return why something was not sent."""
        return [row.reason for row in await self.rows(Fate.SUPPRESSED)]
