"""Alerts and rules as pages and the API read them. Everything raises StoreUnavailable."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from vantage.core.alert import Alert, AlertEvent, State
from vantage.core.alert_rule import StoredRule
from vantage.core.errors import NotFoundError, StoreUnavailable
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.storage.metadata.alert_ports import Evaluation

OPEN: Final = (State.FIRING, State.ACKNOWLEDGED, State.NO_DATA, State.PENDING)
FIRED: Final = (State.FIRING, State.ACKNOWLEDGED, State.NO_DATA)
LIST_MAX: Final = 1000
EVENTS_MAX: Final = 200
OPEN_MAX: Final = 2000  # open alerts that are counted by service
OPEN_TTL_S: Final = 1.0
WAIT_S: Final = 0.5


async def list_alerts(
    context: QueryContext,
    *,
    states: Collection[State] = (),
    rule: str = "",
    service: str = "",
    time_range: TimeRange | None = None,
    before_id: int | None = None,
    limit: int = 100,
) -> Sequence[Alert]:
    """Return up to ``limit`` alerts, those that began last first."""
    return await context.metadata.alerts.alerts(
        states=states, rule=rule, service=service, time_range=time_range, before_id=before_id, limit=limit
    )


async def find_alert(context: QueryContext, alert_id: int) -> Alert:
    """Return an alert. Raises NotFoundError."""
    alert = await context.metadata.alerts.alert(alert_id) if 0 < alert_id < 1 << 62 else None
    if alert is None:
        raise NotFoundError("no alert has this id", field="alert")
    return alert


async def alert_events(context: QueryContext, alert_id: int, *, limit: int = EVENTS_MAX) -> Sequence[AlertEvent]:
    """Return the transitions of an alert, the latest first."""
    return await context.metadata.alerts.events(alert_id=alert_id, limit=limit)


async def list_rules(context: QueryContext) -> Sequence[tuple[StoredRule, Evaluation | None]]:
    """Return all rules by name, each with its latest evaluation."""
    stored = await context.metadata.alerts.rules()
    evaluations = {item.rule: item for item in await context.metadata.alerts.evaluations()}
    return [(item, evaluations.get(item.rule.name)) for item in stored]


async def find_rule(context: QueryContext, name: str) -> StoredRule:
    """Return a rule. Raises NotFoundError."""
    stored = await rule_if_there(context, name)
    if stored is None:
        raise NotFoundError("no rule has this name", field="name")
    return stored


async def rule_if_there(context: QueryContext, name: str) -> StoredRule | None:
    """Return a rule; None: there is none of this name."""
    return await context.metadata.alerts.rule(name)


async def rule_evaluation(context: QueryContext, name: str) -> Evaluation | None:
    """Return the latest evaluation of a rule; None before the first."""
    return next((item for item in await context.metadata.alerts.evaluations() if item.rule == name), None)


async def open_by_service(context: QueryContext) -> Mapping[str, Sequence[Alert]]:
    """Return the alerts that have fired and are open, by service, the worst first; none where the metadata database
    does not answer within WAIT_S: what they are shown beside is of use without. Read once a second at most."""

    async def load() -> Mapping[str, Sequence[Alert]]:
        by_service: dict[str, list[Alert]] = {}
        try:
            async with asyncio.timeout(WAIT_S):
                alerts = await list_alerts(context, states=FIRED, limit=OPEN_MAX)
        except (StoreUnavailable, TimeoutError):
            return {}
        for alert in sorted(alerts, key=urgency):
            by_service.setdefault(alert.service, []).append(alert)
        return by_service

    return await context.cache.cached(("open alerts",), load, ttl_s=OPEN_TTL_S)


_SEVERITIES: Final = {"critical": 0, "warning": 1, "info": 2}


def urgency(alert: Alert) -> tuple[int, int, int]:
    """Return what orders alerts: those nobody has acknowledged first, by severity, the newest first."""
    acknowledged = alert.state in (State.ACKNOWLEDGED, State.PENDING)
    return acknowledged + (alert.state is State.PENDING), _SEVERITIES[alert.severity], -alert.since_ms
