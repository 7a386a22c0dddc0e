"""Microsoft Teams, by a webhook of its workflows: an adaptive card."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from vantage.alerting.channels.notifier import SECRET, Notice, NotifierKind, Tools, post_json
from vantage.alerting.channels.text import check_template, links_of, render, title
from vantage.alerting.outgoing import Outgoing
from vantage.core.notification import Status

COLORS: Final = {"critical": "Attention", "warning": "Warning", "info": "Accent", "resolved": "Good"}
_MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]()#+!|<>~-])")


class TeamsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: Annotated[
        str,
        Meta(title="Workflow URL", description="Of the workflow that posts when a webhook is received.", extra=SECRET),
    ]
    template: Annotated[str, Meta(title="Text", description="A template; empty: the usual text.")] = ""


class TeamsNotifier:
    def __init__(self, config: TeamsConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools

    async def send(self, notice: Notice) -> None:
        await post_json(self._tools, self._config.url, self._payload(notice))

    def _payload(self, notice: Notice) -> dict[str, Any]:
        color = COLORS["resolved" if notice.status is Status.RESOLVED else notice.severity]
        text = render(self._config.template, notice, self._tools)
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": [
                {
                    "type": "TextBlock",
                    "text": _escaped(title(notice)),
                    "weight": "Bolder",
                    "size": "Medium",
                    "color": color,
                    "wrap": True,
                },
                # Two line breaks are one on a card.
                {"type": "TextBlock", "text": _escaped(text).replace("\n", "\n\n"), "wrap": True},
            ],
            "actions": [
                {"type": "Action.OpenUrl", "title": word, "url": url}
                for word, url in links_of(notice.alerts[0], self._tools)
            ],
        }
        attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
        return {"type": "message", "attachments": [attachment]}


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _check(config: TeamsConfig, outgoing: Outgoing) -> None:
    outgoing.check_url(config.url, field="url")
    check_template(config.template)


KIND = NotifierKind("teams", "Microsoft Teams", TeamsConfig, TeamsNotifier, _check)
