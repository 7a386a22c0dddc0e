"""PagerDuty's Events API, version 2: an event for each alert, distinguished by its fingerprint."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from vantage.alerting.channels.notifier import SECRET, Notice, NotifierKind, Tools, in_turn, post_json
from vantage.alerting.channels.text import line, links_of, value_of
from vantage.alerting.outgoing import Outgoing
from vantage.core.errors import InputError
from vantage.core.notification import NoticeAlert, Status
from vantage.core.printable import printable

URLS: Final = {
    "us": "https://events.pagerduty.com/v2/enqueue",
    "eu": "https://events.eu.pagerduty.com/v2/enqueue",
}
SUMMARY_LENGTH_MAX: Final = 1024
AT_ONCE: Final = 8
ACTIONS: Final = {
    Status.FIRING: "trigger",
    Status.FLAPPING: "trigger",
    Status.ACKNOWLEDGED: "acknowledge",
    Status.RESOLVED: "resolve",
}
KEY_LENGTH: Final = 32


class PagerDutyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    routing_key: Annotated[
        str, Meta(title="Integration key", description="Of an Events API v2 integration, 32 characters.", extra=SECRET)
    ]
    region: Annotated[Literal["us", "eu"], Meta(title="Region")] = "us"
    url: Annotated[
        str, Meta(title="Other URL", description="Of a service with the same API; empty: PagerDuty's own.")
    ] = ""


class PagerDutyNotifier:
    def __init__(self, config: PagerDutyConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools

    async def send(self, notice: Notice) -> None:
        """Send an event for each alert that is new: PagerDuty itself repeats and escalates. An event that arrives twice
        changes nothing, by its ``dedup_key``."""
        alerts = [alert for alert in notice.alerts if alert.is_new]
        await in_turn([partial(self._send, notice, alert) for alert in alerts], at_once=AT_ONCE)

    async def _send(self, notice: Notice, alert: NoticeAlert) -> None:
        await post_json(self._tools, self._config.url or URLS[self._config.region], self._event(notice, alert))

    def _event(self, notice: Notice, alert: NoticeAlert) -> dict[str, Any]:
        event: dict[str, Any] = {
            "routing_key": self._config.routing_key,
            "event_action": ACTIONS[alert.status],
            "dedup_key": f"vantage/{alert.fingerprint}",
        }
        if event["event_action"] != "trigger":
            return event
        details = {
            **{f"label {name}": text for name, text in alert.labels.items()},
            **alert.entity,
            "rule": alert.rule,
            "value": value_of(alert),
            "owner": alert.owner,
            "channel": notice.channel,
        }
        return event | {
            "client": "Vantage",
            "client_url": self._tools.alert_url(alert),
            "links": [{"href": url, "text": word} for word, url in links_of(alert, self._tools)],
            "payload": {
                "summary": line(alert)[:SUMMARY_LENGTH_MAX],
                "source": printable(alert.service or next(iter(alert.entity.values()), "") or "vantage"),
                "severity": alert.severity,
                "timestamp": datetime.fromtimestamp(alert.start_ms / 1000, tz=UTC).isoformat(timespec="milliseconds"),
                "component": printable(alert.service),
                "class": printable(alert.rule),
                "custom_details": {name: printable(text) for name, text in details.items() if text},
            },
        }


def _check(config: PagerDutyConfig, outgoing: Outgoing) -> None:
    if len(config.routing_key) != KEY_LENGTH or not config.routing_key.isalnum() or not config.routing_key.isascii():
        raise InputError(f"is not {KEY_LENGTH} letters and digits", field="routing_key")
    if config.url:
        outgoing.check_url(config.url, field="url")


KIND = NotifierKind("pagerduty", "PagerDuty", PagerDutyConfig, PagerDutyNotifier, _check)
