"""Discord's webhooks."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from vantage.alerting.channels.notifier import SECRET, Notice, NotifierKind, Tools, post_json
from vantage.alerting.channels.text import check_template, links_of, render, title
from vantage.alerting.outgoing import Outgoing
from vantage.core.notification import Status

COLORS: Final = {"critical": 0xC4314B, "warning": 0xB7791F, "info": 0x2B6CB0, "resolved": 0x2F855A}
_MARKDOWN: Final = re.compile(r"([\\`*_\[\]()#|<>~@-])")


class DiscordConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: Annotated[
        str, Meta(title="Webhook URL", description="https://discord.com/api/webhooks/…, of the channel.", extra=SECRET)
    ]
    template: Annotated[str, Meta(title="Text", description="A template; empty: the usual text.")] = ""


class DiscordNotifier:
    def __init__(self, config: DiscordConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools

    async def send(self, notice: Notice) -> None:
        await post_json(self._tools, self._config.url, self._payload(notice))

    def _payload(self, notice: Notice) -> dict[str, Any]:
        links = " · ".join(f"[{word}](<{url}>)" for word, url in links_of(notice.alerts[0], self._tools))
        text = _escaped(render(self._config.template, notice, self._tools))[:3000]
        color = COLORS["resolved" if notice.status is Status.RESOLVED else notice.severity]
        embed = {"title": _escaped(title(notice))[:256], "description": f"{text}\n\n{links}", "color": color}
        return {"embeds": [embed], "allowed_mentions": {"parse": []}}


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _check(config: DiscordConfig, outgoing: Outgoing) -> None:
    outgoing.check_url(config.url, field="url")
    check_template(config.template)


KIND = NotifierKind("discord", "Discord", DiscordConfig, DiscordNotifier, _check)
