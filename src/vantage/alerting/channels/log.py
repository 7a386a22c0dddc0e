"""Notices as lines of the server's own log."""

from __future__ import annotations

import msgspec
import structlog

from vantage.alerting.channels.notifier import Notice, NotifierKind, Tools
from vantage.alerting.channels.text import title, value_of

_log = structlog.get_logger("vantage.notices")


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """There is nothing to set."""


class LogNotifier:
    def __init__(self, _config: LogConfig, _tools: Tools) -> None:
        pass

    async def send(self, notice: Notice) -> None:
        """Write a line for each alert that is new."""
        for alert in notice.alerts:
            if alert.is_new or notice.reason in ("repeated", "digest"):
                _log.warning(
                    title(notice),
                    status=str(alert.status),
                    rule=alert.rule,
                    service=alert.service,
                    entity=dict(alert.entity),
                    value=value_of(alert),
                    text=alert.text,
                )


KIND = NotifierKind("log", "Log of the server", LogConfig, LogNotifier)
