"""``/alerts/noise``: how useful the alerts of each rule were, and changes that would make noisy rules quieter."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.response import Redirect

from vantage.alerting.changes import AlertChanges
from vantage.alerting.ledger import Grade, RuleLedger, read_ledger
from vantage.core.alert_rule import Rule
from vantage.core.api_key import Scope
from vantage.core.errors import ConflictError, InputError, StoreUnavailable
from vantage.query.context import QueryContext
from vantage.web.pages.ranges import page_range
from vantage.web.render import render

AnyRequest = Request[Any, Any, Any]
DEFAULT_RANGE: Final = "7d"
ALERTS_SHOWN_MAX: Final = 20  # of a rule
RULES_SHOWN_MAX: Final = 50
DOCUMENT_LENGTH_MAX: Final = 64_000


@get("/alerts/noise", include_in_schema=False)
async def noise(request: AnyRequest, context: NamedDependency[QueryContext]) -> Response[str]:
    return await _show(request, context)


@post("/alerts/noise/apply", include_in_schema=False, opt={"scope": Scope.ADMIN})
async def apply(
    request: AnyRequest, context: NamedDependency[QueryContext], alerting: NamedDependency[AlertChanges]
) -> Response[Any]:
    """Store a rule as it was proposed, unless it has been changed meanwhile."""
    form = await request.form()
    document, revision = str(form.get("rule", "")), str(form.get("revision", ""))
    try:
        if len(document) > DOCUMENT_LENGTH_MAX or not (revision.isascii() and revision.isdigit()):
            raise InputError("is not one that was proposed", field="rule")
        try:
            rule = msgspec.json.decode(document, type=Rule)
        except msgspec.MsgspecError as error:
            raise InputError(f"is not one that was proposed: {error}", field="rule") from error
        await alerting.rules.save(rule, actor=request.state.principal.id, revision=int(revision[:18]))
    except (ConflictError, InputError, StoreUnavailable) as error:
        return await _show(request, context, problem=str(error), status=400)
    return Redirect("/alerts/noise?applied=1", status_code=303)


async def _show(request: AnyRequest, context: QueryContext, *, problem: str = "", status: int = 200) -> Response[str]:
    params = request.query_params
    has_range = params.get("range") or params.get("start")
    within = page_range(
        preset=params.get("range", "") if has_range else DEFAULT_RANGE,
        start=params.get("start", ""),
        end=params.get("end", ""),
        now_ms=context.present().now_ms,
    )
    ledgers: list[RuleLedger] = []
    try:
        ledgers = await read_ledger(context, within.time_range)
    except StoreUnavailable as error:
        problem = problem or str(error)
    return await render(
        request,
        "pages/alert_noise.html",
        status=status,
        section="bell",
        range=within,
        ledgers=[
            (ledger, [(item, msgspec.json.encode(item.rule).decode()) for item in ledger.proposals])
            for ledger in ledgers[:RULES_SHOWN_MAX]
        ],
        omitted=max(0, len(ledgers) - RULES_SHOWN_MAX),
        alerts_max=ALERTS_SHOWN_MAX,
        grades=list(Grade),
        was_applied=params.get("applied") == "1",
        problem=problem,
    )


handlers = [noise, apply]
