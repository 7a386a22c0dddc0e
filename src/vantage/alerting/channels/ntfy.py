"""ntfy: notices on phones, by a public server or one's own."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from vantage.alerting.channels.notifier import SECRET, Notice, NotifierKind, Tools, post_json
from vantage.alerting.channels.text import check_template, links_of, render, title
from vantage.alerting.outgoing import Outgoing
from vantage.core.errors import InputError
from vantage.core.notification import Status

PRIORITIES: Final = {"critical": 5, "warning": 4, "info": 3}
MESSAGE_NBYTES_MAX: Final = 3800  # ntfy makes a file of what is longer than 4096
_TOPIC: Final = re.compile(r"[-_A-Za-z0-9]{1,64}")


class NtfyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    topic: Annotated[str, Meta(title="Topic", description="Hard to guess on a public server.", extra=SECRET)]
    url: Annotated[str, Meta(title="Server")] = "https://ntfy.sh"
    token: Annotated[str, Meta(title="Access token", extra=SECRET)] = ""
    template: Annotated[str, Meta(title="Text", description="A template; empty: the usual text.")] = ""


class NtfyNotifier:
    def __init__(self, config: NtfyConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools

    async def send(self, notice: Notice) -> None:
        headers = {"Authorization": f"Bearer {self._config.token}"} if self._config.token else {}
        await post_json(self._tools, self._config.url, self._payload(notice), headers=headers)

    def _payload(self, notice: Notice) -> dict[str, Any]:
        is_over = notice.status is Status.RESOLVED
        text = render(self._config.template, notice, self._tools).encode()[:MESSAGE_NBYTES_MAX]
        links = links_of(notice.alerts[0], self._tools)
        return {
            "topic": self._config.topic,
            "title": title(notice),
            "message": text.decode("utf-8", "ignore"),
            "priority": 2 if is_over else PRIORITIES[notice.severity],
            "tags": [
                "white_check_mark" if is_over else "rotating_light" if notice.severity == "critical" else "warning"
            ],
            "click": links[0][1],
            "actions": [{"action": "view", "label": word, "url": url} for word, url in links[1:3]],
        }


def _check(config: NtfyConfig, outgoing: Outgoing) -> None:
    outgoing.check_url(config.url, field="url")
    if not _TOPIC.fullmatch(config.topic):
        raise InputError("is not 1 to 64 letters, digits, - and _", field="topic")
    check_template(config.template)


KIND = NotifierKind("ntfy", "ntfy", NtfyConfig, NtfyNotifier, _check)
