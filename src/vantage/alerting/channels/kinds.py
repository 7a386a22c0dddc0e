"""The kinds of channels, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vantage.alerting.channels import discord, email, log, ntfy, pagerduty, slack, teams, webhook
from vantage.alerting.channels.notifier import NotifierKind

KINDS: Final[Mapping[str, NotifierKind]] = {
    module.KIND.kind: module.KIND for module in (email, slack, pagerduty, webhook, teams, discord, ntfy, log)
}
