"""``/settings``: what takes space and grows, keys, the configuration in effect with its origins, and the audit log."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency

from vantage.core.api_key import ApiKey, Scope
from vantage.core.errors import InputError
from vantage.query.administration import AUDIT_SHOWN_MAX, Administered, read_administration
from vantage.query.context import QueryContext
from vantage.web.render import render


@get("/settings", include_in_schema=False, opt={"scope": Scope.ADMIN})
async def settings(
    request: Request[Any, Any, Any],
    context: NamedDependency[QueryContext],
    administered: NamedDependency[Administered],
) -> Response[str]:
    before = request.query_params.get("before", "")
    if before and not (before.isascii() and before.isdigit() and len(before) < 19):
        raise InputError("is no number of an entry", field="before")
    data = await read_administration(context, administered.metadata, before_id=int(before) if before else None)
    now_ms, configuration = context.clock.now_ms(), administered.configuration
    return await render(
        request,
        "pages/settings.html",
        section="settings",
        admin=data,
        report=data.report,
        usage=data.report.usage if data.report is not None else None,
        total_nbytes=sum(data.report.usage.files.values()) if data.report is not None else 0,
        keys=[(key, _state(key, now_ms)) for key in data.keys],
        configuration=configuration,
        changed=sum(origin != "default" for _, _, origin in configuration),
        next_before=data.audit[-1].id if len(data.audit) == AUDIT_SHOWN_MAX else 0,
        is_first=not before,
    )


def _state(key: ApiKey, now_ms: int) -> str:
    if key.is_active(now_ms):
        return "active"
    return "expired" if key.revoked_ms is None else "revoked"


handlers = [settings]
