"""``/settings``: what takes space and grows, retention, keys, the configuration in effect with its origins, backups and
deletion with their progress, and the audit log."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.response import Redirect

from vantage.core.api_key import ApiKey, Scope
from vantage.core.errors import ConflictError, InputError, NotFoundError, StoreUnavailable
from vantage.query import catalogue
from vantage.query.administration import AUDIT_SHOWN_MAX, Administered, preview_retention, read_administration
from vantage.query.api_keys import create_key
from vantage.query.context import QueryContext
from vantage.query.long_work import Progress
from vantage.web.render import render

AnyRequest = Request[Any, Any, Any]
SERVICES_MAX: Final = 1000
GROWING_SHOWN: Final = 8
SCOPES: Final = {
    Scope.INGEST: "send data",
    Scope.READ: "read data and pages",
    Scope.ADMIN: "all of it, and delete and change",
}
ADMIN: Final = {"scope": Scope.ADMIN}


@get("/settings", include_in_schema=False, opt=ADMIN)
async def settings(
    request: AnyRequest, context: NamedDependency[QueryContext], administered: NamedDependency[Administered]
) -> Response[str]:
    return await _page(request, context, administered)


@get("/settings/work", include_in_schema=False, opt=ADMIN)
async def work(request: AnyRequest, administered: NamedDependency[Administered]) -> Response[str]:
    """Show what runs for long, as a part of the page that requests itself again while there is any."""
    return await render(request, "parts/work.html", block="work", jobs=administered.work.jobs)


@post("/settings/keys", include_in_schema=False, opt=ADMIN, status_code=200)
async def add_key(
    request: AnyRequest, context: NamedDependency[QueryContext], administered: NamedDependency[Administered]
) -> Response[str]:
    """Create a key, and show its secret this once: it is in no address and nowhere else."""
    form = await request.form()
    days = str(form.get("expires", "")).strip()
    try:
        if days and not (days.isascii() and days.isdigit() and len(days) < 9):
            raise InputError("is no number of days", field="expires")
        key, secret = await create_key(
            administered.metadata,
            context.clock,
            str(form.get("name", "")),
            [str(scope) for scope in form.getall("scope", [])],
            expires_days=int(days) if days else None,
            actor=request.state.principal.id,
        )
    except (InputError, StoreUnavailable) as error:
        return await _page(request, context, administered, status=400, key_problem=str(error))
    response = await _page(request, context, administered, created=key, secret=secret)
    response.headers["Cache-Control"] = "no-store"
    return response


@post("/settings/keys/revoke", include_in_schema=False, opt=ADMIN)
async def revoke_key(request: AnyRequest, administered: NamedDependency[Administered]) -> Redirect:
    form = await request.form()
    await administered.metadata.revoke_key(str(form.get("id", "")), actor=request.state.principal.id)
    return Redirect("/settings#keys-title", status_code=303)


@post("/settings/backup", include_in_schema=False, opt=ADMIN)
async def back_up(request: AnyRequest, administered: NamedDependency[Administered]) -> Redirect:
    if administered.backup is None:
        raise NotFoundError("this server's store is not in a folder of its own: back it up with its own tools")
    with contextlib.suppress(ConflictError):  # one is being made: the page shows it
        administered.work.start("backup", "Backup", administered.backup, actor=request.state.principal.id)
    return Redirect("/settings#work", status_code=303)


@post("/settings/delete", include_in_schema=False, opt=ADMIN)
async def delete(
    request: AnyRequest, context: NamedDependency[QueryContext], administered: NamedDependency[Administered]
) -> Response[Any]:
    form = await request.form()
    service, typed = str(form.get("service", "")), str(form.get("typed", "")).strip()
    actor, deletion = request.state.principal.id, administered.deletion
    problem = ""
    if deletion is None:
        problem = "this server has no store"
    elif not service or typed != service:
        problem = "type the name of the service to confirm that all of its data is to be deleted"
    else:

        async def run(_progress: Progress) -> str:
            deleted = await deletion.delete(service, "", actor=actor)
            return f"{deleted.samples} samples, {deleted.spans} spans and {deleted.series} series are gone"

        try:
            administered.work.start("deletion", f"Deletion of {service}", run, actor=actor)
        except ConflictError as error:
            problem = str(error)
    if problem:
        return await _page(request, context, administered, status=400, delete_problem=problem)
    return Redirect("/settings#work", status_code=303)


async def _page(
    request: AnyRequest,
    context: QueryContext,
    administered: Administered,
    *,
    status: int = 200,
    created: ApiKey | None = None,
    secret: str = "",
    key_problem: str = "",
    delete_problem: str = "",
) -> Response[str]:
    before = request.query_params.get("before", "")
    if before and not (before.isascii() and before.isdigit() and len(before) < 19):
        raise InputError("is no number of an entry", field="before")
    data = await read_administration(context, administered.metadata, before_id=int(before) if before else None)
    now_ms, configuration = context.clock.now_ms(), administered.configuration
    usage = data.report.usage if data.report is not None else None
    return await render(
        request,
        "pages/settings.html",
        status=status,
        section="settings",
        admin=data,
        report=data.report,
        growing_shown=GROWING_SHOWN,
        usage=usage,
        total_nbytes=sum(usage.files.values()) if usage is not None else 0,
        retention=preview_retention(usage.aged, now_ms) if usage is not None and usage.aged else [],
        keys=[(key, _state(key, now_ms)) for key in data.keys],
        scopes=SCOPES,
        created=created,
        secret=secret,
        key_problem=key_problem,
        configuration=configuration,
        changed=sum(origin != "default" for _, _, origin in configuration),
        jobs=administered.work.jobs,
        may_back_up=administered.backup is not None,
        may_delete=administered.deletion is not None,
        delete_problem=delete_problem,
        services=[service.name for service in await catalogue.services(context)][:SERVICES_MAX],
        next_before=data.audit[-1].id if len(data.audit) == AUDIT_SHOWN_MAX else 0,
        is_first=not before,
    )


def _state(key: ApiKey, now_ms: int) -> str:
    if key.is_active(now_ms):
        return "active"
    return "expired" if key.revoked_ms is None else "revoked"


handlers = [settings, work, add_key, revoke_key, back_up, delete]
