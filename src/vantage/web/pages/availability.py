"""``/alerts/slos``: objectives and their budgets; ``/alerts/checks``: heartbeats and HTTP checks; with editors."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Redirect

from vantage.alerting.changes import AlertChanges
from vantage.alerting.heartbeats import HeartbeatState, heartbeat_state
from vantage.alerting.slo import SloState, read_slo
from vantage.core.api_key import Scope
from vantage.core.availability import Heartbeat, HttpCheck, StoredCheck, StoredHeartbeat
from vantage.core.errors import BusyError, InputError, NotFoundError, StoreTimeout, StoreUnavailable, VantageError
from vantage.core.slo import NAME_LENGTH_MAX, Slo, StoredSlo
from vantage.query.availability import (
    find_check,
    find_heartbeat,
    find_slo,
    list_checks,
    list_heartbeats,
    list_slos,
    read_uptimes,
)
from vantage.query.context import QueryContext
from vantage.web.pages.charts import Chart, chart_of_points
from vantage.web.pages.rule_form import Field, field_text, with_fields
from vantage.web.render import explore_query, query_string, render

AnyRequest = Request[Any, Any, Any]
STATES_MAX: Final = 30  # SLOs whose budget the list computes
STATE_TTL_S: Final = 30.0
LISTED_MAX: Final = 500
SPARK_POINTS: Final = 60
ADMIN: Final = {"scope": Scope.ADMIN}

SLO_FIELDS: Final = (
    Field("name", "Name", required=True),
    Field(
        "kind",
        "Good are",
        "select",
        (("errors", "requests that do not fail"), ("latency", "requests that are fast"), ("check", "runs of a check")),
    ),
    Field("service", "Service"),
    Field("endpoint", "Endpoint", placeholder="any", hint="GET /orders"),
    Field("threshold_ms", "Fast is, in ms", "number", hint="for fast requests"),
    Field("check", "HTTP check", hint="for runs of a check"),
    Field("objective", "Objective, in %", "number", placeholder="99.9"),
    Field("days", "Days", "number", placeholder="30"),
    Field("description", "Description"),
)
HEARTBEAT_FIELDS: Final = (
    Field("name", "Name", required=True),
    Field("service", "Service"),
    Field("every", "Every", placeholder="1d"),
    Field("cron", "or at the times of cron", placeholder="0 3 * * *"),
    Field("timezone", "Timezone", placeholder="UTC"),
    Field("grace", "Grace", placeholder="15m"),
    Field("description", "Description"),
    Field("enabled", "Enabled", "check"),
)
CHECK_FIELDS: Final = (
    Field("name", "Name", required=True),
    Field("url", "URL", required=True, placeholder="https://"),
    Field("service", "Service"),
    Field("method", "Method", "select", (("GET", "GET"), ("HEAD", "HEAD"))),
    Field("every", "Every", placeholder="1m"),
    Field("timeout", "Timeout", placeholder="10s"),
    Field("status_from", "Status from", "number", placeholder="200"),
    Field("status_to", "to", "number", placeholder="299"),
    Field("text", "With the text"),
    Field("description", "Description"),
    Field("enabled", "Enabled", "check"),
)


@dataclass(frozen=True, slots=True)
class Editor:
    """What is edited: its title, its fields, its type, and where its pages are."""

    title: str
    path: str
    back: str
    fields: tuple[Field, ...]
    kind: Any


EDITORS: Final = {
    "slo": Editor("SLO", "/alerts/slos", "/alerts/slos", SLO_FIELDS, Slo),
    "heartbeat": Editor("heartbeat", "/alerts/heartbeats", "/alerts/checks", HEARTBEAT_FIELDS, Heartbeat),
    "check": Editor("HTTP check", "/alerts/checks", "/alerts/checks", CHECK_FIELDS, HttpCheck),
}


@get("/alerts/slos", include_in_schema=False)
async def slos(request: AnyRequest, context: NamedDependency[QueryContext]) -> Response[str]:
    problem = ""
    stored: Sequence[StoredSlo] = ()
    try:
        stored = await list_slos(context)
    except StoreUnavailable as error:
        problem = str(error)
    rows = []
    for number, item in enumerate(stored[:LISTED_MAX]):
        state, why = await _state(context, item.slo) if number < STATES_MAX else (None, "open it to see its budget")
        rows.append((item, state, why, _spark(state.history) if state is not None else ()))
    return await render(
        request,
        "pages/slos.html",
        section="bell",
        rows=rows,
        omitted=max(0, len(stored) - LISTED_MAX),
        problem=problem,
    )


@get("/alerts/slos/{name:str}", include_in_schema=False)
async def slo(request: AnyRequest, context: NamedDependency[QueryContext], name: FromPath[str]) -> Response[str]:
    """Show an objective with its budget; ``new`` is the editor of another one."""
    if name == "new":
        service = request.query_params.get("service", "")[:255]
        return await _editor(request, "slo", {"service": service} if service else {}, None)
    stored = await find_slo(context, name)
    state, why = await _state(context, stored.slo)
    return await _editor(
        request,
        "slo",
        msgspec.to_builtins(stored.slo),
        stored,
        state=state,
        why=why,
        chart=_budget_chart(state) if state is not None and state.total else None,
        rules_url=f"/alerts/rules/new{query_string({'kind': 'burn_rate'})}",
    )


@get("/alerts/checks", include_in_schema=False)
async def checks(request: AnyRequest, context: NamedDependency[QueryContext]) -> Response[str]:
    problem = ""
    heartbeats: Sequence[StoredHeartbeat] = ()
    stored: Sequence[StoredCheck] = ()
    try:
        heartbeats, stored = await list_heartbeats(context), await list_checks(context)
    except StoreUnavailable as error:
        problem = str(error)
    uptimes: Mapping[str, float] = {}
    if stored:
        with contextlib.suppress(BusyError, InputError, StoreTimeout, StoreUnavailable):
            uptimes = await read_uptimes(context)
    now_ms = context.clock.now_ms()
    return await render(
        request,
        "pages/checks.html",
        section="bell",
        heartbeats=[(item, heartbeat_state(item, now_ms=now_ms)) for item in heartbeats[:LISTED_MAX]],
        checks=stored[:LISTED_MAX],
        uptimes=uptimes,
        omitted=max(0, len(heartbeats) - LISTED_MAX) + max(0, len(stored) - LISTED_MAX),
        problem=problem,
    )


@get("/alerts/checks/{name:str}", include_in_schema=False)
async def check(request: AnyRequest, context: NamedDependency[QueryContext], name: FromPath[str]) -> Response[str]:
    if name == "new":
        return await _editor(request, "check", {}, None)
    stored = await find_check(context, name)
    service = stored.check.service or "checks"
    explore = explore_query(service, "check.up", agg="avg", tag=f"check:{stored.check.name}")
    return await _editor(
        request,
        "check",
        msgspec.to_builtins(stored.check),
        stored,
        result=stored.result,
        explore_url=f"/explore{query_string({'range': '24h'}, **explore)}",
    )


@get("/alerts/heartbeats/{name:str}", include_in_schema=False)
async def heartbeat(request: AnyRequest, context: NamedDependency[QueryContext], name: FromPath[str]) -> Response[str]:
    if name == "new":
        return await _editor(request, "heartbeat", {}, None)
    stored = await find_heartbeat(context, name)
    state: HeartbeatState = heartbeat_state(stored, now_ms=context.clock.now_ms())
    url = f"{str(request.base_url).rstrip('/')}/heartbeat/{stored.token}"
    document = msgspec.to_builtins(stored.heartbeat)
    return await _editor(request, "heartbeat", document, stored, beat=state, url=url if _may_change(request) else "")


@post("/alerts/slos/save", include_in_schema=False, opt=ADMIN, status_code=200)
async def save_slo(request: AnyRequest, alerting: NamedDependency[AlertChanges]) -> Response[Any]:
    return await _save(request, alerting, "slo")


@post("/alerts/heartbeats/save", include_in_schema=False, opt=ADMIN, status_code=200)
async def save_heartbeat(request: AnyRequest, alerting: NamedDependency[AlertChanges]) -> Response[Any]:
    return await _save(request, alerting, "heartbeat")


@post("/alerts/checks/save", include_in_schema=False, opt=ADMIN, status_code=200)
async def save_check(request: AnyRequest, alerting: NamedDependency[AlertChanges]) -> Response[Any]:
    return await _save(request, alerting, "check")


@post("/alerts/slos/remove", include_in_schema=False, opt=ADMIN)
async def remove_slo(request: AnyRequest, alerting: NamedDependency[AlertChanges]) -> Redirect:
    form = await request.form()
    with contextlib.suppress(NotFoundError):  # somebody else did
        await alerting.availability.remove_slo(str(form.get("name", "")), actor=request.state.principal.id)
    return Redirect("/alerts/slos", status_code=303)


@post("/alerts/heartbeats/remove", include_in_schema=False, opt=ADMIN)
async def remove_heartbeat(request: AnyRequest, alerting: NamedDependency[AlertChanges]) -> Redirect:
    form = await request.form()
    with contextlib.suppress(NotFoundError):
        await alerting.availability.remove_heartbeat(str(form.get("name", "")), actor=request.state.principal.id)
    return Redirect("/alerts/checks", status_code=303)


@post("/alerts/checks/remove", include_in_schema=False, opt=ADMIN)
async def remove_check(request: AnyRequest, alerting: NamedDependency[AlertChanges]) -> Redirect:
    form = await request.form()
    with contextlib.suppress(NotFoundError):
        await alerting.availability.remove_check(str(form.get("name", "")), actor=request.state.principal.id)
    return Redirect("/alerts/checks", status_code=303)


async def _save(request: AnyRequest, alerting: AlertChanges, of: str) -> Response[Any]:
    """Store what the form has, and go to where it is listed; or show the form again with what is wrong."""
    form, editor, actor = await request.form(), EDITORS[of], request.state.principal.id
    number = str(form.get("revision", ""))
    revision = int(number) if number.isascii() and number.isdigit() and len(number) < 15 else 0
    document: dict[str, Any] = {field.path: str(form.get(field.name, "")) for field in editor.fields}
    name = str(form.get("stored", ""))[:NAME_LENGTH_MAX]
    wanted = revision if name == str(form.get("f.name", "")).strip() else 0  # one with another name is a new one
    try:
        document = with_fields(editor.fields, {}, form)
        item = msgspec.convert(document, editor.kind)
        if of == "slo":
            await alerting.availability.save_slo(item, actor=actor, revision=wanted)
        elif of == "heartbeat":
            await alerting.availability.save_heartbeat(item, actor=actor, revision=wanted)
        else:
            await alerting.availability.save_check(item, actor=actor, revision=wanted)
    except (VantageError, msgspec.ValidationError) as error:
        field = error.field if isinstance(error, InputError) else ""
        sent = {"name": name, "revision": revision}
        return await _editor(request, of, document, None, status=400, problem=str(error), field=field, **sent)
    return Redirect(editor.back, status_code=303)


async def _editor(
    request: AnyRequest,
    of: str,
    document: Mapping[str, Any],
    stored: StoredSlo | StoredHeartbeat | StoredCheck | None,
    *,
    status: int = 200,
    problem: str = "",
    field: str = "",
    **more: Any,
) -> Response[str]:
    editor = EDITORS[of]
    shown: dict[str, Any] = {"name": "", "revision": 0}
    if stored is not None:
        shown = {"name": str(document.get("name", "")), "revision": stored.revision}
    shown |= {"state": None, "why": "", "chart": None, "rules_url": "", "result": None, "explore_url": "", "beat": None}
    return await render(
        request,
        "pages/availability_editor.html",
        status=status,
        section="bell",
        of=of,
        editor=editor,
        fields=[(item, field_text(item, document)) for item in editor.fields],
        stored=stored,
        problem=problem,
        wrong=field,
        may_change=_may_change(request),
        **{**shown, "url": "", **more},
    )


def _may_change(request: AnyRequest) -> bool:
    principal = request.state.get("principal")
    return principal is not None and principal.allows(Scope.ADMIN)


async def _state(context: QueryContext, slo: Slo) -> tuple[SloState | None, str]:
    """Return the state of an objective, at most STATE_TTL_S old, and why there is none."""

    async def load() -> tuple[SloState | None, str]:
        try:
            return await read_slo(context, slo, at_ms=context.present().now_ms), ""
        except (BusyError, InputError, StoreTimeout, StoreUnavailable) as error:
            return None, str(error)

    return await context.cache.cached(("slo", repr(slo)), load, ttl_s=STATE_TTL_S)


def _spark(history: Sequence[float]) -> Sequence[float]:
    step = max(1, len(history) // SPARK_POINTS)
    return [max(0.0, value) for value in history[::step]]


def _budget_chart(state: SloState) -> Chart:
    times = [state.start_ms + (position + 1) * state.step_ms for position in range(len(state.history))]
    left = [value * 100 for value in state.history]
    return chart_of_points(times, [("budget left", "rate", left)], unit="%")


handlers = [
    slos,
    slo,
    save_slo,
    remove_slo,
    checks,
    check,
    save_check,
    remove_check,
    heartbeat,
    save_heartbeat,
    remove_heartbeat,
]
