"""``/api/alerts``: what fires, what has fired, and what people do about it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.params import Body, Parameter, QueryParameter

from vantage.alerting.actions import NOTE_LENGTH_MAX
from vantage.alerting.changes import AlertChanges
from vantage.core.alert import Alert, AlertEvent, State
from vantage.core.alert_rule import Severity
from vantage.core.api_key import Scope
from vantage.core.errors import InputError
from vantage.query import alerts as stored_alerts
from vantage.query.alerts import LIST_MAX, OPEN, alert_events, find_alert
from vantage.query.context import QueryContext
from vantage.web.api.params import Service, examples, problems

_SCANNED_MAX: Final = 10  # pages that are read to fill one of a severity

AlertId = Annotated[int, Parameter(description="Its id, as listed.", examples=examples(1))]
StateName = Annotated[
    str,
    QueryParameter(
        name="state",
        description="`firing`, `acknowledged`, `no data`, `pending`, `resolved`, `all`, or `open`: all but resolved.",
        max_length=16,
        examples=examples("open"),
    ),
]
RuleName = Annotated[str, Parameter(description="The rule's name; '' for any.", max_length=100)]
SeverityName = Annotated[
    str, Parameter(description="`critical`, `warning` or `info`; '' for any.", max_length=16, examples=examples(""))
]


class NoteIn(msgspec.Struct):
    note: Annotated[str, msgspec.Meta(max_length=NOTE_LENGTH_MAX)] = ""


OptionalNote = Annotated[NoteIn | None, Body(examples=examples({"note": "looking into it"}))]


class AlertOut(msgspec.Struct):
    """An alert. Times are epoch milliseconds of the data's clock: `since` it is in its `state`, `begun` when the
    condition began to hold, `fired` first (null: it has not), `ended` when it was resolved (null: it is open)."""

    id: int
    rule: str
    entity: dict[str, str]
    service: str
    severity: str
    state: str
    since: int
    begun: int
    fired: int | None
    ended: int | None
    value: float | None
    unit: str
    text: str
    actor: str
    note: str
    labels: dict[str, str]


class AlertsOut(msgspec.Struct):
    """`before` is that of the next page, null at the end."""

    alerts: list[AlertOut]
    before: int | None


class AlertEventOut(msgspec.Struct):
    """A transition, at `timestamp` (epoch milliseconds)."""

    id: int
    timestamp: int
    before: str
    after: str
    actor: str
    note: str
    value: float | None
    text: str


class AlertDetailOut(AlertOut):
    """With its transitions, the latest first."""

    events: list[AlertEventOut]


@get("/api/alerts", summary="Alerts", responses=problems(), tags=["alerts"])
async def list_alerts(
    context: NamedDependency[QueryContext],
    of_state: StateName = "open",
    service: Service = "",
    rule: RuleName = "",
    severity: SeverityName = "",
    limit: Annotated[int, Parameter(description="The most to return.", ge=1, le=LIST_MAX)] = 100,
    before: Annotated[int | None, Parameter(description="Only alerts with an id below this one.", ge=0)] = None,
) -> AlertsOut:
    """List alerts, those that began last first. `/api/alerts/` is the same."""
    states = states_of(of_state)
    if severity and severity not in set(Severity):
        raise InputError(f"is not one of {', '.join(Severity)}", field="severity")
    alerts: list[Alert] = []
    at_end = False
    for _ in range(_SCANNED_MAX):
        page = await stored_alerts.list_alerts(
            context, states=states, service=service, rule=rule, before_id=before, limit=limit
        )
        for alert in page:
            before = alert.id
            if not severity or alert.severity == severity:
                alerts.append(alert)
            if len(alerts) == limit:
                break
        at_end = len(page) < limit
        if at_end or len(alerts) == limit:
            break
    more = before if not at_end or (alerts and len(alerts) == limit) else None
    return AlertsOut([AlertOut(**_fields(alert)) for alert in alerts], more)


@get("/api/alerts/{alert_id:int}", summary="An alert", responses=problems(404), tags=["alerts"])
async def show_alert(context: NamedDependency[QueryContext], alert_id: AlertId) -> AlertDetailOut:
    """Return an alert with its transitions."""
    return await _detail(context, alert_id)


@post(
    "/api/alerts/{alert_id:int}/acknowledge",
    summary="Acknowledge an alert",
    responses=problems(404, 409),
    status_code=200,
    tags=["alerts"],
    opt={"scope": Scope.ADMIN},
)
async def acknowledge(
    request: Request[Any, Any, Any],
    context: NamedDependency[QueryContext],
    alerting: NamedDependency[AlertChanges],
    alert_id: AlertId,
    data: OptionalNote = None,
) -> AlertDetailOut:
    """Say that somebody works on it: it is not escalated any more. A body is optional."""
    note = data.note if data is not None else ""
    await alerting.actions.acknowledge(alert_id, actor=request.state.principal.id, note=note)
    return await _detail(context, alert_id)


@post(
    "/api/alerts/{alert_id:int}/resolve",
    summary="Resolve an alert",
    responses=problems(404, 409),
    status_code=200,
    tags=["alerts"],
    opt={"scope": Scope.ADMIN},
)
async def resolve(
    request: Request[Any, Any, Any],
    context: NamedDependency[QueryContext],
    alerting: NamedDependency[AlertChanges],
    alert_id: AlertId,
    data: OptionalNote = None,
) -> AlertDetailOut:
    """End it. It does not fire again before its condition has recovered. A body is optional."""
    note = data.note if data is not None else ""
    await alerting.actions.resolve(alert_id, actor=request.state.principal.id, note=note)
    return await _detail(context, alert_id)


def states_of(name: str) -> Collection[State]:
    """Return the states that a name stands for; none for all. Raises InputError."""
    if name in ("", "open"):
        return OPEN
    if name == "all":
        return ()
    if name in set(State) - {State.OK}:
        return (State(name),)
    raise InputError(f"is not one of open, all, {', '.join((*OPEN, State.RESOLVED))}", field="state")


async def _detail(context: QueryContext, alert_id: int) -> AlertDetailOut:
    alert = await find_alert(context, alert_id)
    events = await alert_events(context, alert_id)
    return AlertDetailOut(**_fields(alert), events=[_event(event) for event in events])


def _event(event: AlertEvent) -> AlertEventOut:
    return AlertEventOut(
        event.id, event.at_ms, event.before, event.after, event.actor, event.note, event.value, event.text
    )


def _fields(alert: Alert) -> dict[str, Any]:
    return {
        "id": alert.id,
        "rule": alert.rule,
        "entity": dict(alert.entity),
        "service": alert.service,
        "severity": alert.severity,
        "state": alert.state,
        "since": alert.since_ms,
        "begun": alert.begun_ms,
        "fired": alert.fired_ms,
        "ended": alert.ended_ms,
        "value": alert.value,
        "unit": alert.unit,
        "text": alert.text,
        "actor": alert.actor,
        "note": alert.note,
        "labels": dict(alert.labels),
    }


handlers = [list_alerts, show_alert, acknowledge, resolve]
