"""``/alerts/silences``: when nobody is disturbed; ``/alerts/notifications``: what was sent, waits, failed, and what was
suppressed and why."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.response import Redirect

from vantage.alerting.notices import Notices, SilenceFields, SilenceState, entity_of
from vantage.alerting.windows import local_text
from vantage.core.api_key import Scope
from vantage.core.errors import InputError, StoreUnavailable
from vantage.core.notification import Fate
from vantage.web.render import query_string, render

AnyRequest = Request[Any, Any, Any]
ADMIN: Final = {"scope": Scope.ADMIN}
NOTICES_SHOWN: Final = 50
SILENCES_SHOWN_MAX: Final = 200
TEXT_LENGTH_MAX: Final = 500
FIELDS: Final = ("rule", "service", "severity", "entity", "start", "end", "duration", "cron", "timezone", "comment")


@get("/alerts/silences", include_in_schema=False)
async def silences(request: AnyRequest, notices: NamedDependency[Notices]) -> Response[str]:
    """Show them with a form, whose fields may be in the address: links to it fill it in."""
    return await _silences(request, notices, _fields(request.query_params))


@post("/alerts/silences", include_in_schema=False, opt=ADMIN, status_code=200)
async def save(request: AnyRequest, notices: NamedDependency[Notices]) -> Response[Any]:
    fields = _fields(await request.form())
    try:
        given: dict[str, Any] = {**fields, "timezone": fields["timezone"] or "UTC"}
        given["entity"] = entity_of(fields["entity"])
        await notices.save_silence(SilenceFields(**given), actor=request.state.principal.id)
    except (InputError, StoreUnavailable) as error:
        return await _silences(request, notices, fields, status=400, problem=str(error))
    return Redirect("/alerts/silences", status_code=303)


@post("/alerts/silences/remove", include_in_schema=False, opt=ADMIN)
async def remove(request: AnyRequest, notices: NamedDependency[Notices]) -> Redirect:
    await notices.remove_silence(_number((await request.form()).get("id", "")), actor=request.state.principal.id)
    return Redirect("/alerts/silences", status_code=303)


@get("/alerts/notifications", include_in_schema=False)
async def notifications(request: AnyRequest, notices: NamedDependency[Notices]) -> Response[str]:
    params = request.query_params
    fate = params.get("fate", "")
    filters = {"fate": fate if fate in set(Fate) else "", "channel": params.get("channel", "")[:TEXT_LENGTH_MAX]}
    before = _number(params.get("before", "")) or None
    variables: dict[str, Any] = {"rows": [], "channels": [], "problem": ""}
    try:
        variables["channels"] = [channel.name for channel in await notices.store.channels()]
        variables["rows"] = await notices.store.notifications(
            fates=[Fate(filters["fate"])] if filters["fate"] else [],
            channel=filters["channel"],
            before_id=before,
            limit=NOTICES_SHOWN,
        )
    except StoreUnavailable as error:
        variables["problem"] = str(error)
    rows = variables["rows"]
    return await render(
        request,
        "pages/alert_notices.html",
        section="bell",
        filters=filters,
        fates=[str(item) for item in Fate],
        is_first=before is None,
        first_url=f"/alerts/notifications{query_string(filters)}",
        next_before=rows[-1].id if len(rows) == NOTICES_SHOWN else 0,
        **variables,
    )


@post("/alerts/notifications/retry", include_in_schema=False, opt=ADMIN)
async def retry(request: AnyRequest, notices: NamedDependency[Notices]) -> Redirect:
    await notices.retry(_number((await request.form()).get("id", "")), actor=request.state.principal.id)
    return Redirect("/alerts/notifications", status_code=303)


async def _silences(
    request: AnyRequest, notices: Notices, fields: dict[str, str], *, status: int = 200, problem: str = ""
) -> Response[str]:
    states: list[SilenceState] = []
    unavailable = ""
    try:
        states = await notices.silences()
    except StoreUnavailable as error:
        unavailable = str(error)
    return await render(
        request,
        "pages/alert_silences.html",
        status=status,
        section="bell",
        states=states[:SILENCES_SHOWN_MAX],
        cut=max(0, len(states) - SILENCES_SHOWN_MAX),
        fields=fields,
        local_text=local_text,
        problem=problem,
        unavailable=unavailable,
    )


def _fields(given: Any) -> dict[str, str]:
    return {name: str(given.get(name, ""))[:TEXT_LENGTH_MAX] for name in FIELDS}


def _number(text: Any) -> int:
    """Return a number of a form or an address; 0 where it is none."""
    text = str(text)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


handlers = [silences, save, remove, notifications, retry]
