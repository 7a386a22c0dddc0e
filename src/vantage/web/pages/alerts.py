"""``/alerts``: what fires now, and what has; ``/alerts/{id}`` explains one. Both acknowledge and resolve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Redirect

from vantage.alerting.actions import NOTE_LENGTH_MAX
from vantage.alerting.alert_points import AlertPoints, read_alert_points
from vantage.alerting.changes import AlertChanges
from vantage.alerting.words import rule_in_words
from vantage.core.alert import EVALUATOR, Alert, State
from vantage.core.alert_rule import Condition, MetricValue, Severity, StoredRule, Threshold, VqlValue
from vantage.core.api_key import Scope
from vantage.core.deployment import Deployment
from vantage.core.errors import ConflictError, StoreUnavailable
from vantage.core.timerange import TimeRange
from vantage.query.alerts import (
    EVENTS_MAX,
    LIST_MAX,
    OPEN,
    alert_events,
    find_alert,
    list_alerts,
    list_rules,
    rule_if_there,
    urgency,
)
from vantage.query.context import QueryContext
from vantage.query.deployments import deployments_if_known
from vantage.web.pages.charts import Chart, chart_of_points
from vantage.web.render import explore_query, query_string, render, segment, shared_page

AnyRequest = Request[Any, Any, Any]
OPEN_SHOWN_MAX: Final = 100
HISTORY_SHOWN: Final = 50
CHARTS_MAX: Final = 20  # alerts with a small chart of their own
SPARK_MS: Final = 3_600_000
SPARK_POINTS: Final = 40
CHART_POINTS: Final = 240
LONELY: Final = 2
BEFORE_MS: Final = 1_800_000  # of an alert, on its chart and in what changed
AROUND_MS_MAX: Final = 24 * 3_600_000
DEPLOYMENT_MS: Final = 1_800_000  # a deployment so long before an alert may be its cause
TEXT_LENGTH_MAX: Final = 255
ADMIN: Final = {"scope": Scope.ADMIN}


@dataclass(frozen=True, slots=True)
class AlertRow:
    """An alert with what a list shows of it; ``deployment`` is one that came shortly before it."""

    alert: Alert
    points: AlertPoints | None
    deployment: Deployment | None
    changes_url: str
    service_url: str

    @property
    def can_acknowledge(self) -> bool:
        return self.alert.state in (State.FIRING, State.NO_DATA)

    @property
    def can_resolve(self) -> bool:
        return self.alert.state in (State.FIRING, State.NO_DATA, State.ACKNOWLEDGED)

    @property
    def names(self) -> Mapping[str, str]:
        """Return what the entity is, but for its service."""
        return {name: value for name, value in self.alert.entity.items() if name != "service"}


@get("/alerts", include_in_schema=False)
async def alerts(request: AnyRequest, context: NamedDependency[QueryContext]) -> Response[bytes]:
    return await shared_page(request, "pages/alerts.html", lambda: _read(request, context))


@get("/alerts/{alert_id:int}", include_in_schema=False)
async def alert(request: AnyRequest, context: NamedDependency[QueryContext], alert_id: FromPath[int]) -> Response[str]:
    return await _show(request, context, alert_id)


@post("/alerts/{alert_id:int}/acknowledge", include_in_schema=False, opt=ADMIN)
async def acknowledge(
    request: AnyRequest,
    context: NamedDependency[QueryContext],
    alerting: NamedDependency[AlertChanges],
    alert_id: FromPath[int],
) -> Response[Any]:
    form = await request.form()
    try:
        await alerting.actions.acknowledge(alert_id, actor=request.state.principal.id, note=str(form.get("note", "")))
    except (ConflictError, StoreUnavailable) as error:
        return await _show(request, context, alert_id, problem=str(error))
    return _back(form, alert_id)


@post("/alerts/{alert_id:int}/resolve", include_in_schema=False, opt=ADMIN)
async def resolve(
    request: AnyRequest,
    context: NamedDependency[QueryContext],
    alerting: NamedDependency[AlertChanges],
    alert_id: FromPath[int],
) -> Response[Any]:
    form = await request.form()
    try:
        await alerting.actions.resolve(alert_id, actor=request.state.principal.id, note=str(form.get("note", "")))
    except (ConflictError, StoreUnavailable) as error:
        return await _show(request, context, alert_id, problem=str(error))
    return _back(form, alert_id)


def _back(form: Mapping[str, Any], alert_id: int) -> Redirect:
    """Redirect to where the button was: the list with its filters, or the alert."""
    state = str(form.get("list", ""))
    if state.startswith("?") and len(state) < 2000 and state.isprintable():
        return Redirect(f"/alerts{state}" if len(state) > 1 else "/alerts", status_code=303)
    return Redirect(f"/alerts/{alert_id}", status_code=303)


async def _read(request: AnyRequest, context: QueryContext) -> dict[str, Any]:
    params = request.query_params
    filters = {name: params.get(name, "").strip()[:TEXT_LENGTH_MAX] for name in ("service", "rule")}
    severity = params.get("severity", "")
    filters["severity"] = severity if severity in set(Severity) else ""
    before = params.get("before", "")
    before_id = int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None
    service, rule = filters["service"], filters["rule"]
    variables: dict[str, Any] = {
        "section": "bell",
        "filters": filters,
        "list_state": query_string(filters),
        "note_length_max": NOTE_LENGTH_MAX,
        "text_length_max": TEXT_LENGTH_MAX,
        "severities": [str(item) for item in Severity],
        "open_max": OPEN_SHOWN_MAX,
        "is_first": before_id is None,
        "problem": "",
        "rows": [],
        "pending": [],
        "cut": 0,
        "history": [],
        "next_before": 0,
        "rules": [],
        "broken": [],
    }
    try:
        rules = await list_rules(context)
        opened = (
            await list_alerts(context, states=OPEN, rule=rule, service=service, limit=LIST_MAX)
            if before_id is None
            else ()
        )
        ended = await list_alerts(
            context, states=(State.RESOLVED,), before_id=before_id, limit=HISTORY_SHOWN + 1, rule=rule, service=service
        )
    except StoreUnavailable as error:
        return variables | {"problem": str(error)}
    chosen = sorted((item for item in opened if severity in ("", item.severity)), key=urgency)
    firing = [item for item in chosen if item.state is not State.PENDING]
    by_name = {stored.rule.name: stored for stored, _ in rules}
    history = ended[:HISTORY_SHOWN]
    return variables | {
        "rows": await _rows(context, firing[:OPEN_SHOWN_MAX], by_name),
        "pending": [item for item in chosen if item.state is State.PENDING][:OPEN_SHOWN_MAX],
        "cut": max(0, len(firing) - OPEN_SHOWN_MAX),
        "history": [item for item in history if severity in ("", item.severity)],
        "next_before": history[-1].id if len(ended) > HISTORY_SHOWN else 0,
        "rules": rules,
        "broken": [item for _, item in rules if item is not None and item.problem],
    }


async def _rows(context: QueryContext, alerts: Sequence[Alert], rules: Mapping[str, StoredRule]) -> list[AlertRow]:
    if not alerts:
        return []
    now_ms = context.present().now_ms
    # Complete minutes: the newest one is noise, and a page that is read every second reads the values once a minute.
    end_ms = now_ms // 60_000 * 60_000
    window = TimeRange(end_ms - SPARK_MS, end_ms)
    first_ms = min(item.begun_ms for item in alerts)
    deployments = await deployments_if_known(
        context, time_range=TimeRange(first_ms - DEPLOYMENT_MS, max(now_ms, first_ms) + 1), limit=200
    )
    rows = []
    for position, item in enumerate(alerts):
        stored = rules.get(item.rule)
        points = None
        if stored is not None and position < CHARTS_MAX:
            points, _ = await read_alert_points(
                context, stored.rule.condition, item.entity, window, points=SPARK_POINTS
            )
        rows.append(_row(item, points, deployments, now_ms))
    return rows


def _row(alert: Alert, points: AlertPoints | None, deployments: Sequence[Deployment], now_ms: int) -> AlertRow:
    near = (
        item
        for item in deployments
        if item.service == alert.service and alert.begun_ms - DEPLOYMENT_MS <= item.at_ms <= alert.begun_ms
    )
    window = _window(alert, now_ms)
    return AlertRow(
        alert,
        points,
        max(near, key=lambda item: item.at_ms, default=None),
        f"/changes{query_string(window, service=alert.service)}",
        f"/services/{segment(alert.service)}{query_string(window)}" if alert.service else "",
    )


def _window(alert: Alert, now_ms: int) -> dict[str, object]:
    """Return the times of a page that shows how an alert began."""
    start_ms = alert.begun_ms - BEFORE_MS
    end_ms = min(alert.ended_ms or now_ms, alert.begun_ms + AROUND_MS_MAX)
    return {"start": start_ms, "end": max(end_ms, alert.begun_ms + 60_000)}


async def _show(request: AnyRequest, context: QueryContext, alert_id: int, *, problem: str = "") -> Response[str]:
    item = await find_alert(context, alert_id)
    events = await alert_events(context, alert_id)
    stored = await rule_if_there(context, item.rule)
    now_ms = context.present().now_ms
    window = _window(item, now_ms)
    around = TimeRange(item.begun_ms - BEFORE_MS, int(str(window["end"])) + 60_000)
    points, points_problem = None, ""
    if stored is not None:
        points, points_problem = await read_alert_points(
            context, stored.rule.condition, item.entity, around, points=CHART_POINTS
        )
    deployments = await deployments_if_known(context, service=item.service, time_range=around)
    return await render(
        request,
        "pages/alert.html",
        status=409 if problem else 200,
        section="bell",
        row=_row(item, points, deployments, now_ms),
        alert=item,
        evaluator=EVALUATOR,
        events=events,
        events_max=EVENTS_MAX,
        stored=stored,
        words=rule_in_words(stored.rule) if stored is not None else "",
        chart=points_chart(points, item) if points is not None else None,
        points=points,
        points_problem=points_problem,
        deployments=deployments if item.service else (),
        problem=problem,
        note_length_max=NOTE_LENGTH_MAX,
        traces_url=f"/traces{query_string(window, service=item.service)}" if item.service else "",
        explore_url=_explore_url(stored.rule.condition, item, window) if stored is not None else "",
        vql_url=_vql_url(stored.rule.condition) if stored is not None else "",
        other_url=f"/alerts{query_string({'rule': item.rule})}",
    )


def points_chart(points: AlertPoints, alert: Alert | None = None) -> Chart:
    """Return a chart of values with the limits they are compared with; shares in percent."""
    scale = 100.0 if points.unit == "%" else 1.0
    times = [points.start_ms + position * points.step_ms for position in range(len(points.values))]
    lines: list[tuple[str, str, Sequence[float | None]]] = [
        ("value", "rate", [None if value is None else value * scale for value in points.values])
    ]
    for label, limit, colour in (("limit", points.limit, "--bad"), ("recovery", points.recover, "--line-strong")):
        if limit is not None:
            lines.append((label, colour, [limit * scale] * len(times)))
    if alert is not None and alert.fired_ms is not None:
        end_ms = alert.ended_ms if alert.ended_ms is not None else times[-1]
        fired = [
            value if alert.fired_ms <= at_ms <= end_ms else None
            for at_ms, value in zip(times, lines[0][2], strict=True)
        ]
        if sum(value is not None for value in fired) > LONELY:  # fewer would be drawn as dots, as all lines then are
            lines.append(("firing", "--bad", fired))
    return chart_of_points(times, lines, unit=points.unit)


def _explore_url(condition: Condition, alert: Alert, window: Mapping[str, object]) -> str:
    value = condition.value if isinstance(condition, Threshold) else None
    if not isinstance(value, MetricValue):
        return ""
    tags = tuple(f"{name}:{alert.entity[name]}" for name in value.group_by if alert.entity.get(name))
    fields = explore_query(value.service, value.metric, agg=value.agg, tag=(*value.tags, *tags) or None)
    return f"/explore{query_string(window, **fields)}"


def _vql_url(condition: Condition) -> str:
    value = condition.value if isinstance(condition, Threshold) else None
    return f"/vql{query_string({'query': value.query})}" if isinstance(value, VqlValue) else ""


handlers = [alerts, alert, acknowledge, resolve]
