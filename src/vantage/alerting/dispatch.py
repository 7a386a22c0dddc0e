"""From transitions to notices: what each channel is to be notified of, and when. The outbox gets it, see ``deliver``.

What a channel should know of an alert is computed from the alert's state; what it does know is stored. Where they
differ a notice is due, unless something suppresses it. So whatever ends a silence, and however late a process comes
back, the next decision sees the difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from vantage.alerting.digest import send_digest
from vantage.alerting.windows import active_window
from vantage.core.alert import Alert, State
from vantage.core.alert_rule import NoDataCondition, Rule, Severity
from vantage.core.clock import Clock
from vantage.core.errors import InputError
from vantage.core.notification import Fate, NoticeAlert, Notification, Status, fingerprint_of
from vantage.core.timerange import parse_duration_ms
from vantage.storage.metadata.notice_ports import Decision, NoticeGroup, Notified, Snapshot
from vantage.storage.metadata.ports import MetadataStore
from vantage.telemetry import Telemetry

POLL_S: Final = 2.0
DECIDE_EVERY_MS: Final = 15_000  # though nothing happened: silences end, and other processes write
ALERTS_MAX: Final = 500  # that one notice has; more alerts are more notices
ACKNOWLEDGING: Final = frozenset({"pagerduty"})  # kinds of channels that are notified of acknowledgements
KNOWN_MS: Final = 86_400_000  # what a channel knows of an alert that was resolved is removed after so long
_log = structlog.get_logger("vantage.alerting")


class NoticeSettings(msgspec.Struct, frozen=True):
    """What is set for all notices, among the settings of alerts: durations as texts such as ``5m``.

    The first notice of a service waits ``group_wait`` for others to join; changes are notified every ``group_interval``
    at most, and what still fires every ``repeat``. An alert is not notified as firing twice within ``duplicate``. One
    that fired or was resolved more than ``flapping_changes`` times in an hour is flapping. ``digest_channels`` get a
    summary of the week at the times of ``digest_cron`` in ``digest_timezone``.
    """

    group_wait: str = "30s"
    group_interval: str = "5m"
    repeat: str = "4h"
    duplicate: str = "5m"
    flapping_changes: int = 8
    digest_channels: tuple[str, ...] = ()
    digest_cron: str = "0 9 * * 1"
    digest_timezone: str = "UTC"


def notice_settings(document: Mapping[str, Any]) -> NoticeSettings:
    """Return those of a document; names that are not of notices are others'. Raises InputError that names the field."""
    try:
        settings = msgspec.convert(dict(document), NoticeSettings)
    except msgspec.ValidationError as error:
        raise InputError(str(error), field="settings") from error
    for name, text, least_ms in (
        ("group_wait", settings.group_wait, 0),
        ("group_interval", settings.group_interval, 1000),
        ("repeat", settings.repeat, 60_000),
        ("duplicate", settings.duplicate, 0),
    ):
        if not least_ms <= parse_duration_ms(text, field=name) <= 7 * 86_400_000:
            raise InputError(f"is not between {least_ms // 1000}s and 7d", field=name)
    if not 2 <= settings.flapping_changes <= 1000:
        raise InputError("is not between 2 and 1000", field="flapping_changes")
    return settings


class Dispatcher:
    """The loop that decides. Any number of processes may run it: one decides at a time, on what the others stored."""

    name = "notices"

    def __init__(self, metadata: MetadataStore, clock: Clock, telemetry: Telemetry) -> None:
        self._metadata = metadata
        self._clock = clock
        self._telemetry = telemetry
        self._next_ms = 0
        self._digest_minute = 0
        self._change_id = -1

    async def run(self) -> None:
        """Decide until cancelled. Raises what the metadata database raises: it then begins again."""
        while True:
            await self.step()
            await self._clock.sleep(POLL_S)

    async def step(self) -> None:
        """Decide if something happened, or may be due. Raises StoreUnavailable."""
        now_ms, change_id = self._clock.now_ms(), await self._metadata.last_change_id()
        if now_ms // 60_000 != self._digest_minute:
            await self._send_digest(now_ms)
            self._digest_minute = now_ms // 60_000
        is_due = now_ms >= self._next_ms or self._next_ms > now_ms + DECIDE_EVERY_MS or change_id != self._change_id
        if not is_due and not await self._metadata.alerts.unhandled_events(limit=1):
            return
        decision = await self._metadata.notices.decide(lambda snapshot: decide(snapshot, now_ms=now_ms), at_ms=now_ms)
        next_ms = now_ms + DECIDE_EVERY_MS
        self._next_ms = min(next_ms, decision.next_ms) if decision.next_ms is not None else next_ms
        self._change_id = change_id
        for reason, count in decision.losses.items():
            self._telemetry.lost.labels(reason).inc(count)
        for notification in decision.notifications:
            if notification.fate is Fate.SUPPRESSED:
                self._telemetry.notices.labels("suppressed").inc()

    async def _send_digest(self, now_ms: int) -> None:
        try:
            settings = notice_settings(await self._metadata.alerts.alert_settings())
        except InputError:
            return  # ``decide`` logs it
        if settings.digest_channels:
            await send_digest(
                self._metadata,
                channels=settings.digest_channels,
                cron=settings.digest_cron,
                timezone=settings.digest_timezone,
                now_ms=now_ms,
            )


class _Wanted(NamedTuple):
    """What a channel should know of an alert. ``reason`` is why nothing is sent of it, '' if it may be."""

    alert: Alert
    status: Status
    reason: str


@dataclass(slots=True)
class _Group:
    """The alerts of a service on a channel, by fingerprint, with what the channel knows of each."""

    wanted: dict[str, _Wanted]
    known: dict[str, Notified]


def decide(snapshot: Snapshot, *, now_ms: int, acknowledging: Collection[str] = ACKNOWLEDGING) -> Decision:
    """Return what is to be sent now, and what is to be stored so that the next decision goes on from it. A pure
    function of the snapshot and the time. ``acknowledging`` are the kinds of channels that are notified of
    acknowledgements, too."""
    try:
        settings = notice_settings(snapshot.settings)
    except InputError as error:
        _log.warning("settings of notices are invalid, the defaults are used", reason=str(error))
        settings = NoticeSettings()
    return _Deciding(snapshot, settings, now_ms, acknowledging).decision()


class _Deciding:
    def __init__(
        self, snapshot: Snapshot, settings: NoticeSettings, now_ms: int, acknowledging: Collection[str]
    ) -> None:
        self._snapshot = snapshot
        self._acknowledging = acknowledging
        self._now_ms = now_ms
        self._wait_ms = parse_duration_ms(settings.group_wait, field="group_wait")
        self._interval_ms = parse_duration_ms(settings.group_interval, field="group_interval")
        self._repeat_ms = parse_duration_ms(settings.repeat, field="repeat")
        self._duplicate_ms = parse_duration_ms(settings.duplicate, field="duplicate")
        self._flapping = {key for key, count in snapshot.changes.items() if count > settings.flapping_changes}
        self._rules = {name: stored.rule for name, stored in snapshot.rules.items()}
        self._channels = {channel.name: channel for channel in snapshot.channels}
        self._alerts = {alert.id: alert for alert in snapshot.alerts}
        self._silenced = [item for item in snapshot.silences if active_window(item, now_ms) is not None]
        self._known = {(item.channel, item.fingerprint): item for item in snapshot.notified}
        self._known_of: dict[str, list[Notified]] = {}
        for item in snapshot.notified:
            self._known_of.setdefault(item.fingerprint, []).append(item)
        self._fired = {event.alert_id for event in snapshot.events if event.after is State.FIRING}
        self._groups = {(group.channel, group.service): group for group in snapshot.groups}
        self._notifications: list[Notification] = []
        self._notified: dict[tuple[str, str], Notified] = {}
        self._removed: list[Notified] = []
        self._new_groups: list[NoticeGroup] = []
        self._removed_groups: list[NoticeGroup] = []
        self._due: list[int] = []
        self._losses: Counter[str] = Counter()

    def decision(self) -> Decision:
        for (channel, service), group in sorted(self._grouped().items()):
            self._decide_group(channel, service, group)
        return Decision(
            self._notifications,
            list(self._notified.values()),
            self._new_groups,
            self._removed,
            self._removed_groups,
            min(self._due, default=None),
            self._losses,
        )

    def _grouped(self) -> dict[tuple[str, str], _Group]:
        """Return what each channel should know and does know, by channel and service."""
        newest: dict[str, Alert] = {}
        for alert in self._alerts.values():
            key = fingerprint_of(alert)
            if alert.fired_ms is not None and (key not in newest or alert.id > newest[key].id):
                newest[key] = alert
        inhibitors = self._inhibitors(newest.values())
        groups: dict[tuple[str, str], _Group] = {}
        for key, alert in newest.items():
            suppressed = self._suppressed(alert, inhibitors)
            known_on = {item.channel for item in self._known_of.get(key, ())}
            for channel in sorted({*self._routes(key, alert), *known_on}):
                known = self._known.get((channel, key))
                if known is None and not alert.is_open and alert.id not in self._fired:
                    continue  # it ended, and that is recorded
                group = groups.setdefault((channel, alert.service), _Group({}, {}))
                wanted = self._wanted(key, alert, known, suppressed)
                group.wanted[key] = wanted
                if known is not None:
                    group.known[key] = known
        for group_row in self._snapshot.groups:
            if group_row.due_ms is not None:
                groups.setdefault((group_row.channel, group_row.service), _Group({}, {}))
        # Of alerts that are no longer stored.
        self._removed += [item for item in self._snapshot.notified if item.fingerprint not in newest]
        return groups

    def _wanted(self, key: str, alert: Alert, known: Notified | None, suppressed: str) -> _Wanted:
        status = known.status if known is not None else Status.NONE
        is_known = status in (Status.FIRING, Status.ACKNOWLEDGED, Status.FLAPPING)
        if not alert.is_open:
            if key in self._flapping and status is Status.FLAPPING:
                return _Wanted(alert, status, "it is flapping")
            if is_known:  # silence or not: its end closes what it opened elsewhere
                return _Wanted(alert, Status.RESOLVED, "")
            is_quiet = status is Status.NONE or known is None or known.alert_id != alert.id
            return _Wanted(alert, status, (suppressed or "it ended before its notice was due") if is_quiet else "")
        if alert.state is State.ACKNOWLEDGED:
            if is_known:
                return _Wanted(alert, Status.ACKNOWLEDGED, "")
            return _Wanted(alert, status, "it was acknowledged before its notice was due")
        if alert.state is State.NO_DATA and status in (Status.FIRING, Status.ACKNOWLEDGED):
            return _Wanted(alert, status, "")
        if suppressed:
            return _Wanted(alert, status, suppressed)
        if key in self._flapping:
            return _Wanted(alert, Status.FLAPPING, "it is flapping" if status is Status.FLAPPING else "")
        if self._is_duplicate(known):
            return _Wanted(alert, status, "it was notified a short time ago")
        return _Wanted(alert, Status.FIRING, "")

    def _is_duplicate(self, known: Notified | None) -> bool:
        """Return whether an alert fires again so soon after its last notice that another says nothing new."""
        if known is None or known.firing_ms is None or known.status in (Status.FIRING, Status.ACKNOWLEDGED):
            return False
        is_recent = 0 <= self._now_ms - known.firing_ms < self._duplicate_ms
        if is_recent:
            self._due.append(known.firing_ms + self._duplicate_ms)
        return is_recent

    def _inhibitors(self, alerts: Iterable[Alert]) -> dict[str, tuple[Alert | None, Alert | None]]:
        """Return for each service the alert that it sends nothing, and one of its critical ones; None for none."""
        result: dict[str, tuple[Alert | None, Alert | None]] = {}
        for alert in sorted(alerts, key=lambda item: item.id):
            if not alert.service or not alert.is_open or alert.state is State.NO_DATA:
                continue
            silent, critical = result.get(alert.service, (None, None))
            if _is_of_silent_service(self._rules.get(alert.rule)):
                silent = silent or alert
            elif alert.severity is Severity.CRITICAL:
                critical = critical or alert
            result[alert.service] = (silent, critical)
        return result

    def _suppressed(self, alert: Alert, inhibitors: Mapping[str, tuple[Alert | None, Alert | None]]) -> str:
        """Return why nobody is notified of an alert, '' if somebody may be."""
        for silence in self._silenced:
            if silence.matches(alert):
                return f"silence {silence.id}: {silence.comment or 'no comment'}"[:300]
        silent, critical = inhibitors.get(alert.service, (None, None))
        if _is_of_silent_service(self._rules.get(alert.rule)):
            return ""  # never inhibited: of two that inhibit each other nobody would hear
        if silent is not None and silent.id != alert.id:
            return f"inhibited: {alert.service} sends no data ({silent.rule})"[:300]
        if critical is not None and critical.id != alert.id and alert.severity is not Severity.CRITICAL:
            return f"inhibited by the critical alert of {critical.rule}"[:300]
        return ""

    def _routes(self, key: str, alert: Alert) -> set[str]:
        """Return the names of the channels that an alert goes to: those of its rule, and those of the escalations that
        its age has reached while nobody acknowledged it."""
        rule = self._rules.get(alert.rule)
        enabled = {name for name, channel in self._channels.items() if channel.enabled}
        if rule is None:
            return set()
        names = set(rule.channels) or enabled
        if rule.escalate and alert.is_open and alert.state is not State.ACKNOWLEDGED:
            seen_ms = min(
                (item.seen_ms for item in self._known_of.get(key, ()) if item.alert_id == alert.id),
                default=self._now_ms,
            )
            for step in rule.escalate:
                due_ms = min(seen_ms, self._now_ms) + parse_duration_ms(step.after, field="after")
                if due_ms <= self._now_ms:
                    names |= set(step.channels)
                else:
                    self._due.append(due_ms)
        self._losses["notice_channel_unknown"] += sum(
            name not in self._channels and (name, key) not in self._known for name in names
        )
        return names

    def _decide_group(self, channel: str, service: str, group: _Group) -> None:
        row = self._groups.get((channel, service), NoticeGroup(channel, service))
        problem = ""
        if channel not in self._channels:
            problem = "there is no channel of this name"
        elif not self._channels[channel].enabled:
            problem = "the channel is not enabled"
        changed: list[str] = []
        firing = False
        for key, wanted in group.wanted.items():
            known = group.known.get(key)
            status = known.status if known is not None else Status.NONE
            reason = problem if problem and wanted.status is not status else wanted.reason
            is_change = not reason and wanted.status is not status
            firing = firing or (wanted.status is status is Status.FIRING and not reason)
            self._note(channel, key, wanted, known, reason)
            if is_change and not self._is_silent(channel, wanted.status):
                changed.append(key)
            elif is_change:
                noted = self._notified.get((channel, key), known)
                assert noted is not None  # only what is known can be acknowledged
                self._notified[channel, key] = replace(noted, status=wanted.status)
        last_ms = row.last_ms if row.last_ms is None else min(row.last_ms, self._now_ms)  # a clock was set back
        repeats = firing and last_ms is not None and self._now_ms - last_ms >= self._repeat_ms
        if firing and last_ms is not None:
            self._due.append(last_ms + self._repeat_ms)
        if not changed and not repeats:
            self._replace_group(row, NoticeGroup(channel, service, None, last_ms), empty=not group.wanted)
            return
        earliest_ms = self._now_ms + self._wait_ms
        if last_ms is not None and (firing or any(group.known[key].status for key in changed if key in group.known)):
            earliest_ms = max(earliest_ms, last_ms + self._interval_ms)
        due_ms = earliest_ms if row.due_ms is None else min(row.due_ms, earliest_ms)
        if repeats:
            due_ms = self._now_ms
        if due_ms > self._now_ms:
            self._due.append(due_ms)
            self._replace_group(row, NoticeGroup(channel, service, due_ms, last_ms), empty=False)
            return
        self._notify(channel, service, group, changed, first=last_ms is None or not firing)
        self._replace_group(row, NoticeGroup(channel, service, None, self._now_ms), empty=False)

    def _is_silent(self, channel: str, status: Status) -> bool:
        """Return whether a change is stored, and nothing sent of it."""
        return status is Status.ACKNOWLEDGED and self._channels[channel].kind not in self._acknowledging

    def _note(self, channel: str, key: str, wanted: _Wanted, known: Notified | None, reason: str) -> None:
        """Store that an alert was seen, and record why nobody is notified of it, once."""
        alert = wanted.alert
        if known is None or known.alert_id != alert.id:
            status = known.status if known is not None else Status.NONE
            firing_ms = known.firing_ms if known is not None else None
            fresh = Notified(channel, key, alert.service, alert.id, self._now_ms, status, firing_ms)
        else:
            fresh = known
        if reason and _kind(reason) != _kind(fresh.suppressed):
            status = Status.FIRING if alert.is_open else Status.RESOLVED
            self._notifications.append(
                Notification(
                    channel,
                    alert.service,
                    Fate.SUPPRESSED,
                    reason,
                    (self._noticed(key, alert, status, is_new=True),),
                    self._now_ms,
                    self._now_ms,
                    done_ms=self._now_ms,
                )
            )
        fresh = replace(fresh, suppressed=reason)
        is_over = not alert.is_open and fresh.status in (Status.NONE, Status.RESOLVED)
        if is_over and self._now_ms - (fresh.firing_ms or fresh.seen_ms) > KNOWN_MS:
            self._removed.append(fresh)
        elif is_over and fresh.status is Status.NONE and fresh.firing_ms is None:
            self._removed += [fresh] if known is not None else []
        elif fresh != known:
            self._notified[channel, key] = fresh

    def _notify(self, channel: str, service: str, group: _Group, changed: Sequence[str], *, first: bool) -> None:
        now_ms, news = self._now_ms, set(changed)
        alerts: list[NoticeAlert] = []
        for key, wanted in group.wanted.items():
            known = group.known.get(key)
            goes_on = known is not None and known.status is wanted.status is Status.FIRING and not wanted.reason
            if key in news or goes_on:
                alerts.append(self._noticed(key, wanted.alert, wanted.status, is_new=key in news))
                noted = self._notified.get((channel, key), known)
                assert noted is not None  # ``_note`` has stored it
                firing_ms = now_ms if wanted.status is Status.FIRING else noted.firing_ms
                self._notified[channel, key] = replace(noted, status=wanted.status, firing_ms=firing_ms)
        ranks = {Status.FIRING: 0, Status.FLAPPING: 1, Status.ACKNOWLEDGED: 2, Status.RESOLVED: 3}
        severities = list(Severity)
        alerts.sort(key=lambda item: (
            not item.is_new, ranks[item.status], severities.index(Severity(item.severity)), item.rule, item.alert_id
        ))  # fmt: skip
        is_end = all(item.status is Status.RESOLVED for item in alerts if item.is_new)
        reason = "repeated" if not changed else "ended" if is_end else "first" if first else "changed"
        for start in range(0, len(alerts), ALERTS_MAX):
            part = tuple(alerts[start : start + ALERTS_MAX])
            self._notifications.append(Notification(channel, service, Fate.WAITING, reason, part, now_ms, now_ms))

    def _noticed(self, key: str, alert: Alert, status: Status, *, is_new: bool) -> NoticeAlert:
        rule = self._rules.get(alert.rule)
        return NoticeAlert(
            fingerprint=key,
            alert_id=alert.id,
            rule=alert.rule,
            service=alert.service,
            severity=str(alert.severity),
            status=status,
            start_ms=alert.fired_ms if alert.fired_ms is not None else alert.begun_ms,
            end_ms=alert.ended_ms,
            is_new=is_new,
            entity=dict(alert.entity),
            labels=dict(alert.labels),
            value=alert.value,
            unit=alert.unit,
            text=alert.text,
            actor=alert.actor,
            note=alert.note,
            owner=rule.owner if rule is not None else "",
            runbook=rule.runbook if rule is not None else "",
        )

    def _replace_group(self, before: NoticeGroup, after: NoticeGroup, *, empty: bool) -> None:
        if empty and after.due_ms is None:
            self._removed_groups += [before] if (before.channel, before.service) in self._groups else []
        elif after != before:
            self._new_groups.append(after)


def _is_of_silent_service(rule: Rule | None) -> bool:
    """Return whether a rule is about services that send nothing at all."""
    return rule is not None and isinstance(rule.condition, NoDataCondition) and not rule.condition.metric


def _kind(reason: str) -> str:
    """Return the part of a reason that tells why: the comment of a silence may be changed meanwhile."""
    return reason.partition(":")[0]
