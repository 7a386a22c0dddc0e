"""Slack's incoming webhooks."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from vantage.alerting.channels.notifier import (
    SECRET,
    Notice,
    NotifierKind,
    PermanentNotifyError,
    Tools,
    post_json,
)
from vantage.alerting.channels.text import LINES_MAX, line, links_of, title
from vantage.alerting.outgoing import Outgoing
from vantage.core.notification import Status

SECTION_LENGTH_MAX: Final = 2900  # Slack's limit of a section is 3000 characters
COLORS: Final = {"critical": "#c4314b", "warning": "#b7791f", "info": "#2b6cb0", "resolved": "#2f855a"}


class SlackConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: Annotated[
        str, Meta(title="Webhook URL", description="https://hooks.slack.com/services/…, from the app.", extra=SECRET)
    ]
    mention: Annotated[
        str, Meta(title="Mention when critical", description="Such as <!here> or <@U0123>; empty: nobody.")
    ] = ""


class SlackNotifier:
    def __init__(self, config: SlackConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools

    async def send(self, notice: Notice) -> None:
        """Post it. Slack accepts a message by the text ``ok``, and nothing else."""
        response = await post_json(self._tools, self._config.url, self._payload(notice))
        if response.body.strip() != b"ok":
            text = response.body[:100].decode("utf-8", "replace")
            raise PermanentNotifyError(f"Slack answered {text!r}: is this the URL of an incoming webhook?")

    def _payload(self, notice: Notice) -> dict[str, Any]:
        head = title(notice)
        is_loud = notice.status is Status.FIRING and notice.severity == "critical" and notice.reason != "repeated"
        mention = f"{self._config.mention} " if is_loud and self._config.mention else ""
        blocks: list[dict[str, Any]] = [_section(f"{mention}*{_escaped(head)}*")]
        for alert in notice.alerts[:LINES_MAX]:
            links = " · ".join(f"<{_escaped(url)}|{word}>" for word, url in links_of(alert, self._tools))
            blocks.append(_section(f"{_escaped(line(alert))}\n{links}"))
        if len(notice.alerts) > LINES_MAX:
            blocks.append(_section(f"and {len(notice.alerts) - LINES_MAX} more: <{self._tools.public_url}/alerts|all>"))
        color = COLORS["resolved" if notice.status is Status.RESOLVED else notice.severity]
        return {"text": _escaped(head), "attachments": [{"color": color, "fallback": _escaped(head), "blocks": blocks}]}


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text[:SECTION_LENGTH_MAX]}}


def _escaped(text: str) -> str:
    """Return a text in which nothing mentions anybody or is a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _check(config: SlackConfig, outgoing: Outgoing) -> None:
    outgoing.check_url(config.url, field="url")


KIND = NotifierKind("slack", "Slack", SlackConfig, SlackNotifier, _check)
