"""A webhook in the form of Alertmanager, version 4, which many receivers read; signed."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from vantage.alerting.channels.notifier import SECRET, Notice, NotifierKind, Tools, post_json
from vantage.alerting.channels.text import value_of
from vantage.alerting.outgoing import Outgoing
from vantage.core.notification import NoticeAlert, Status

NEVER: Final = "0001-01-01T00:00:00Z"  # Alertmanager's end of what goes on


class WebhookConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: Annotated[str, Meta(title="URL", description="It receives a POST with JSON.")]
    hmac_secret: Annotated[
        str,
        Meta(
            title="Signing secret",
            description="Signs each request: X-Vantage-Signature is sha256= and the HMAC of the timestamp, a dot, and "
            "the body.",
            extra=SECRET,
        ),
    ] = ""
    authorization: Annotated[
        str, Meta(title="Authorization header", description="Such as Bearer and a token.", extra=SECRET)
    ] = ""


class WebhookNotifier:
    def __init__(self, config: WebhookConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools

    async def send(self, notice: Notice) -> None:
        """Post it; ``groupKey`` and fingerprints are the same when it is repeated."""
        body = msgspec.json.encode(_payload(notice, self._tools))
        headers = {"Idempotency-Key": f"vantage-{notice.id}"}
        if self._config.authorization:
            headers["Authorization"] = self._config.authorization
        if self._config.hmac_secret:
            timestamp = str(self._tools.clock.now_ms() // 1000)
            key = self._config.hmac_secret.encode("utf-8", "surrogatepass")
            signature = hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
            headers |= {"X-Vantage-Timestamp": timestamp, "X-Vantage-Signature": f"sha256={signature}"}
        await post_json(self._tools, self._config.url, None, body=body, headers=headers)


def _payload(notice: Notice, tools: Tools) -> dict[str, Any]:
    alerts = [_alert(alert, tools) for alert in notice.alerts]
    labels = [alert["labels"] for alert in alerts]
    annotations = [alert["annotations"] for alert in alerts]
    return {
        "version": "4",
        "groupKey": f'{{}}:{{service="{notice.service}"}}',
        "truncatedAlerts": 0,
        "status": "resolved" if notice.status is Status.RESOLVED else "firing",
        "receiver": notice.channel,
        "groupLabels": {"service": notice.service},
        "commonLabels": _shared(labels),
        "commonAnnotations": _shared(annotations),
        "externalURL": tools.public_url,
        "alerts": alerts,
    }


def _alert(alert: NoticeAlert, tools: Tools) -> dict[str, Any]:
    is_over = alert.status is Status.RESOLVED and alert.end_ms is not None
    annotations = {
        "summary": alert.text,
        "value": value_of(alert),
        "runbook_url": alert.runbook,
        "state": str(alert.status),
    }
    return {
        "status": "resolved" if alert.status in (Status.RESOLVED, Status.NONE) else "firing",
        "labels": {**alert.labels, **alert.entity, "alertname": alert.rule, "severity": alert.severity},
        "annotations": {name: text for name, text in annotations.items() if text},
        "startsAt": _time(alert.start_ms),
        "endsAt": _time(alert.end_ms) if is_over and alert.end_ms is not None else NEVER,
        "generatorURL": tools.alert_url(alert),
        "fingerprint": alert.fingerprint,
    }


def _shared(maps: list[dict[str, str]]) -> dict[str, str]:
    return {name: text for name, text in maps[0].items() if all(item.get(name) == text for item in maps)}


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _check(config: WebhookConfig, outgoing: Outgoing) -> None:
    outgoing.check_url(config.url, field="url")


KIND = NotifierKind("webhook", "Webhook", WebhookConfig, WebhookNotifier, _check)
