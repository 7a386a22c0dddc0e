"""What people do with channels, silences and notices, in the API, on pages, and by links in notices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from vantage.alerting.actions import AlertActions
from vantage.alerting.channel_config import kind_of, sealed_channel, settings_of
from vantage.alerting.channels.notifier import NotifyError, Tools
from vantage.alerting.deliver import ended_example, example_notice, send
from vantage.alerting.dispatch import NoticeSettings, notice_settings
from vantage.alerting.links import Act, Link
from vantage.alerting.secrets import Secrets
from vantage.alerting.windows import Window, active_window, check_recurrence, next_windows
from vantage.core.alert import Alert
from vantage.core.channel import Channel
from vantage.core.errors import InputError, NotFoundError
from vantage.core.silence import Silence, checked_silence
from vantage.core.timerange import parse_duration_ms, parse_time
from vantage.storage.metadata.ports import MetadataStore

ENDED_SHOWN_MS: Final = 7 * 86_400_000
LINK_ACTOR: Final = "link in a notice"
LINK_SILENCES_MS: Final = {"1h": 3_600_000, "4h": 4 * 3_600_000, "1d": 86_400_000}
OCCURRENCES: Final = 3


@dataclass(frozen=True, slots=True)
class SilenceState:
    """A silence now: ``active`` is the window it is in, ``coming`` the next ones; with neither it has ended."""

    silence: Silence
    active: Window | None
    coming: Sequence[Window]

    @property
    def word(self) -> str:
        return "active" if self.active is not None else "planned" if self.coming else "ended"


@dataclass(frozen=True, slots=True)
class SilenceFields:
    """A silence as people type it. ``start`` and ``end`` are times (``2026-12-01T02:00``, in ``timezone`` if they name
    none, epoch milliseconds, ``now``) or ''; ``duration`` such as ``2h``. Once: from ``start`` (now) to ``end``, or for
    ``duration``. With ``cron``: for ``duration`` each time, between ``start`` and ``end``."""

    rule: str = ""
    service: str = ""
    severity: str = ""
    entity: Mapping[str, str] = field(default_factory=dict)
    start: str = ""
    end: str = ""
    duration: str = ""
    cron: str = ""
    timezone: str = "UTC"
    comment: str = ""


class Notices:
    """Every method raises StoreUnavailable when the metadata database cannot be reached."""

    def __init__(self, metadata: MetadataStore, secrets: Secrets, tools: Tools) -> None:
        self.store = metadata.notices
        self._alerts = metadata.alerts
        self._secrets = secrets
        self._tools = tools
        self._clock = tools.clock
        self._actions = AlertActions(metadata.alerts, tools.clock)

    def now_ms(self) -> int:
        return self._clock.now_ms()

    async def channel(self, name: str) -> Channel:
        """Return a channel. Raises NotFoundError."""
        channel = await self.store.channel(name)
        if channel is None:
            raise NotFoundError("no channel has this name", field="name")
        return channel

    async def save_channel(
        self,
        name: str,
        kind: str,
        settings: Mapping[str, Any],
        *,
        enabled: bool,
        actor: str,
        revision: int | None = None,
    ) -> Channel:
        """Store a channel, or replace that of its name; secrets that are not given stay. Raises InputError that names
        the setting, ConflictError, and ConfigError without a key to encrypt with."""
        before = await self.store.channel(name.strip())
        channel = sealed_channel(
            name,
            kind,
            settings,
            enabled=enabled,
            before=before,
            secrets=self._secrets,
            outgoing=self._tools.outgoing,
        )
        return await self.store.save_channel(channel, actor=actor, revision=revision)

    async def remove_channel(self, name: str, *, actor: str) -> None:
        """Remove a channel. Raises NotFoundError."""
        if not await self.store.remove_channel(name, actor=actor):
            raise NotFoundError("no channel has this name", field="name")

    async def test_channel(self, name: str) -> str:
        """Send a notice that says it is a test, and one that closes it; return why it was not accepted, '' if it was.
        Raises NotFoundError."""
        channel = await self.channel(name)
        now_ms = self._clock.now_ms()
        notice = example_notice(channel, now_ms=now_ms)
        try:
            await send(channel, notice, self._secrets, self._tools)
            await send(channel, ended_example(notice, now_ms=now_ms), self._secrets, self._tools)
        except NotifyError as error:
            return str(error)
        return ""

    async def silence(self, silence_id: int) -> Silence:
        """Return a silence. Raises NotFoundError."""
        silence = await self.store.silence(silence_id) if 0 < silence_id < 1 << 62 else None
        if silence is None:
            raise NotFoundError("no silence has this id", field="id")
        return silence

    async def silences(self) -> list[SilenceState]:
        """Return the silences that are active, planned, or ended within a week, in this order."""
        now_ms = self._clock.now_ms()
        rows = await self.store.silences(ended_since_ms=now_ms - ENDED_SHOWN_MS)
        states = [self.state(silence) for silence in rows]
        return sorted(states, key=lambda state: ("active", "planned", "ended").index(state.word))

    def state(self, silence: Silence) -> SilenceState:
        """Return how a silence is now."""
        now_ms = self._clock.now_ms()
        limit = OCCURRENCES if silence.cron else 1
        return SilenceState(silence, active_window(silence, now_ms), next_windows(silence, now_ms, limit=limit))

    async def save_silence(
        self, fields: SilenceFields, *, actor: str, silence_id: int = 0, revision: int | None = None
    ) -> Silence:
        """Store a silence: a new one, or in place of that of an id. Raises InputError that names the field,
        NotFoundError, ConflictError."""
        silence = checked_silence(self._silence(fields))
        if silence_id:
            await self.silence(silence_id)
        saved = replace(silence, id=silence_id)
        return await self.store.save_silence(saved, actor=actor, revision=revision)

    async def remove_silence(self, silence_id: int, *, actor: str) -> None:
        """Remove a silence. Raises NotFoundError."""
        await self.silence(silence_id)
        if not await self.store.remove_silence(silence_id, actor=actor):
            raise NotFoundError("no silence has this id", field="id")

    async def retry(self, notification_id: int, *, actor: str) -> None:
        """Send a notice again that failed. Raises NotFoundError."""
        known = 0 < notification_id < 1 << 62
        if not known or not await self.store.retry(notification_id, actor=actor, at_ms=self._clock.now_ms()):
            raise NotFoundError("no notice with this id has failed", field="id")

    async def settings(self) -> NoticeSettings:
        """Return what is set for all notices; the defaults where what is stored cannot be used."""
        try:
            return notice_settings(await self._alerts.alert_settings())
        except InputError:
            return NoticeSettings()

    async def save_settings(self, settings: NoticeSettings, *, actor: str) -> NoticeSettings:
        """Store what is set for all notices; settings of alerts that are not of notices stay. Raises InputError."""
        given = msgspec.to_builtins(settings)
        checked = notice_settings(given)
        check_recurrence(checked.digest_cron, checked.digest_timezone)
        await self._alerts.save_alert_settings({**await self._alerts.alert_settings(), **given}, actor=actor)
        return checked

    async def linked(self, token: str) -> tuple[Link, Alert]:
        """Return what a link permits and its alert. Raises ForbiddenError, NotFoundError."""
        link = self._tools.links.read(token)
        alert = await self._alerts.alert(link.alert_id)
        if alert is None:
            raise NotFoundError("this alert is not stored any more", field="alert")
        return link, alert

    async def act(self, token: str, *, duration: str = "1h", note: str = "") -> str:
        """Do what a link permits, and return it in words. Raises ForbiddenError, InputError, ConflictError."""
        link, alert = await self.linked(token)
        if link.act is Act.ACKNOWLEDGE:
            await self._actions.acknowledge(alert.id, actor=LINK_ACTOR, note=note)
            return "The alert is acknowledged."
        if duration not in LINK_SILENCES_MS:
            raise InputError(f"is none of {', '.join(LINK_SILENCES_MS)}", field="duration")
        now_ms = self._clock.now_ms()
        silence = Silence(
            now_ms,
            now_ms + LINK_SILENCES_MS[duration],
            rule=_literal(alert.rule),
            entity={name: _literal(text) for name, text in alert.entity.items()},
            comment=f"by a link in a notice of alert {alert.id}",
        )
        await self.store.save_silence(checked_silence(silence), actor=LINK_ACTOR)
        return f"Its notices are silenced for {duration}."

    def _silence(self, fields: SilenceFields) -> Silence:
        check_recurrence(fields.cron.strip(), fields.timezone.strip())
        now_ms = self._clock.now_ms()
        start_ms = _time(fields.start, fields.timezone, now_ms, "start") if fields.start.strip() else now_ms
        end_ms = _time(fields.end, fields.timezone, now_ms, "end") if fields.end.strip() else None
        duration_ms = parse_duration_ms(fields.duration, field="duration") if fields.duration.strip() else 0
        cron = fields.cron.strip()
        if not cron and end_ms is None and duration_ms:
            end_ms = start_ms + duration_ms
        return Silence(
            start_ms,
            end_ms,
            rule=fields.rule.strip(),
            service=fields.service.strip(),
            severity=fields.severity.strip(),
            entity=dict(fields.entity),
            cron=cron,
            timezone=fields.timezone.strip(),
            duration_ms=duration_ms if cron else 0,
            comment=fields.comment.strip(),
        )


def public_settings(channel: Channel) -> dict[str, Any]:
    """Return the settings of a channel; of its secrets only whether they are set."""
    secrets = [setting.name for setting in settings_of(kind_of(channel.kind)) if setting.is_secret]
    return {**channel.settings, **{name: "set" if name in channel.sealed else "not set" for name in secrets}}


def entity_of(text: str) -> dict[str, str]:
    """Return the names and values of ``pod=a, host=b*``. Raises InputError."""
    entity: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if part.strip() and not (equals and name.strip() and value.strip()):
            raise InputError("is not like pod=a, host=b*", field="entity")
        if part.strip():
            entity[name.strip()] = value.strip()
    return entity


def _time(text: str, timezone: str, now_ms: int, field: str) -> int:
    """Return epoch milliseconds; a time without a zone is one of ``timezone``. Raises InputError."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return parse_time(text, now_ms=now_ms, field=field)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(timezone.strip()))
    return parse_time(moment.isoformat(), now_ms=now_ms, field=field)


def _literal(text: str) -> str:
    """Return a pattern that a text matches; its stars match others too, as silences have no other characters."""
    return text[:500]
