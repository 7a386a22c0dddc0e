"""``/act/{token}``: what a link in a notice opens, for people who are not signed in. Opening it does nothing: scanners
of mail open all links. Its button acts on the one alert that the token names."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from vantage.alerting.actions import NOTE_LENGTH_MAX
from vantage.alerting.links import Act
from vantage.alerting.notices import LINK_SILENCES_MS, Notices
from vantage.core.alert import State
from vantage.core.errors import ConflictError, ForbiddenError, InputError, NotFoundError
from vantage.web.authorize import Authorizer
from vantage.web.render import Renderer

FORM_NBYTES_MAX: Final = 8 << 10
AnyRequest = Request[Any, Any, Any]


@get("/act/{token:str}", include_in_schema=False)
async def show(request: AnyRequest, notices: NamedDependency[Notices], token: FromPath[str]) -> Response[Any]:
    await _take(request)
    return await _page(request, notices, token)


@post("/act/{token:str}", include_in_schema=False, status_code=200, request_max_body_size=FORM_NBYTES_MAX)
async def act(request: AnyRequest, notices: NamedDependency[Notices], token: FromPath[str]) -> Response[Any]:
    await _take(request)
    form = await request.form()
    try:
        done = await notices.act(token, duration=str(form.get("duration", "")), note=str(form.get("note", "")))
    except (ForbiddenError, NotFoundError):
        return await _page(request, notices, token)
    except (ConflictError, InputError) as error:
        return await _page(request, notices, token, problem=str(error))
    return await _page(request, notices, token, done=done)


async def _take(request: AnyRequest) -> None:
    """Count an attempt of this address. Raises RateLimited."""
    authorizer: Authorizer = request.app.state.authorizer
    peer = request.client.host if request.client else ""
    address = authorizer.proxies.client(peer, request.scope["header_map"])  # type: ignore[typeddict-item]
    await authorizer.take_login(address)


async def _page(
    request: AnyRequest, notices: Notices, token: str, *, done: str = "", problem: str = ""
) -> Response[Any]:
    renderer: Renderer = request.app.state.renderer
    try:
        link, alert = await notices.linked(token)
    except (ForbiddenError, NotFoundError) as error:
        status = 403 if isinstance(error, ForbiddenError) else 404
        response = renderer.page(request, "act.html", status=status, alert=None, problem=str(error), done="")
    else:
        is_over = alert.state is State.RESOLVED
        response = renderer.page(
            request,
            "act.html",
            status=409 if problem else 200,
            alert=alert,
            acknowledges=link.act is Act.ACKNOWLEDGE,
            is_acknowledged=alert.state is State.ACKNOWLEDGED,
            is_over=is_over,
            durations=list(LINK_SILENCES_MS),
            note_length_max=NOTE_LENGTH_MAX,
            token=token,
            problem=problem,
            done=done,
        )
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Robots-Tag"] = "noindex"
    return response


handlers = [show, act]
