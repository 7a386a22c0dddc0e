"""The weekly digest: what fired in the last seven days, by rule, at the times of a cron expression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vantage.alerting.windows import latest_time
from vantage.core.alert import Alert, State
from vantage.core.errors import InputError
from vantage.core.notification import Fate, NoticeAlert, Notification, Status, fingerprint
from vantage.core.timerange import TimeRange
from vantage.storage.metadata.notice_ports import NoticeGroup
from vantage.storage.metadata.ports import MetadataStore

WEEK_MS: Final = 7 * 86_400_000
LATE_MS_MAX: Final = 86_400_000  # one that is due for longer is not sent any more
ALERTS_MAX: Final = 5000
RULES_MAX: Final = 20
SERVICE: Final = "/digest"  # no service has a slash in its name
REASON: Final = "digest"


async def send_digest(
    metadata: MetadataStore, *, channels: Sequence[str], cron: str, timezone: str, now_ms: int
) -> int:
    """Put the digest that is due into the outbox, once over all processes, and return how many channels get it. A
    channel that is new gets the next one. Raises StoreUnavailable."""
    try:
        due_ms = latest_time(cron, timezone, now_ms)
    except InputError:
        return 0  # settings that were stored by hand
    if due_ms is None:
        return 0
    is_late = now_ms - due_ms > LATE_MS_MAX
    sent = 0
    summary: tuple[NoticeAlert, ...] | None = None
    enabled = {channel.name for channel in await metadata.notices.channels() if channel.enabled}
    for channel in channels:
        if channel not in enabled:
            continue
        is_new = await metadata.notices.add_notifications([], group=NoticeGroup(channel, SERVICE, None, 1))
        if is_late and not is_new:
            continue
        if summary is None:
            time_range = TimeRange(due_ms - WEEK_MS, due_ms)
            summary = summarize(await metadata.alerts.alerts(time_range=time_range, limit=ALERTS_MAX), time_range)
        digest = Notification(channel, SERVICE, Fate.WAITING, REASON, summary, now_ms, now_ms)
        group = NoticeGroup(channel, SERVICE, None, due_ms)
        if await metadata.notices.add_notifications([] if is_new else [digest], group=group):
            sent += not is_new
    return sent


def summarize(alerts: Sequence[Alert], time_range: TimeRange) -> tuple[NoticeAlert, ...]:
    """Return a line for each rule whose alerts fired, those that fired most first; at least one line."""
    by_rule: dict[str, list[Alert]] = {}
    for alert in alerts:
        if alert.fired_ms is not None:
            by_rule.setdefault(alert.rule, []).append(alert)
    ranked = sorted(by_rule.items(), key=lambda item: (-len(item[1]), item[0]))
    lines = [_line(rule, _text(rule, fired, time_range), time_range) for rule, fired in ranked[:RULES_MAX]]
    if len(ranked) > RULES_MAX:
        lines.append(_line("", f"and {len(ranked) - RULES_MAX} more rules", time_range))
    return tuple(lines) or (_line("", "Nothing fired in the last seven days.", time_range),)


def _text(rule: str, alerts: Sequence[Alert], time_range: TimeRange) -> str:
    lasted_ms = 0
    for alert in alerts:
        end_ms = alert.ended_ms if alert.ended_ms is not None else time_range.end_ms
        start_ms = max(alert.fired_ms or alert.begun_ms, time_range.start_ms)
        lasted_ms += max(0, min(end_ms, time_range.end_ms) - start_ms)
    services = sorted({alert.service for alert in alerts if alert.service})
    where = f" on {', '.join(services[:3])}" if services else ""
    more = f" and {len(services) - 3} more" if len(services) > 3 else ""
    times = "once" if len(alerts) == 1 else f"{len(alerts)} times"
    still = sum(alert.is_open and alert.state is not State.PENDING for alert in alerts)
    lasts = f", {still} not resolved" if still else ""
    return f"{rule} fired {times}{where}{more}, for {lasted_ms / 3_600_000:.1f} h{lasts}"


def _line(rule: str, text: str, time_range: TimeRange) -> NoticeAlert:
    return NoticeAlert(
        fingerprint(f"{REASON}\x1d{rule}", {}), 0, rule or "digest", "", "info", Status.NONE,
        start_ms=time_range.start_ms, end_ms=time_range.end_ms, is_new=False, text=text,
    )  # fmt: skip
