"""``/login`` and ``/logout``: browser sessions, made from an API key."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.response import Redirect

from vantage.core.errors import ForbiddenError
from vantage.web.auth import SESSION_COOKIE, SESSION_MS
from vantage.web.authorize import Authorizer
from vantage.web.render import Renderer

FORM_NBYTES_MAX: Final = 4 << 10
AnyRequest = Request[Any, Any, Any]


@get("/login", include_in_schema=False)
async def login_page(request: AnyRequest) -> Response[Any]:
    renderer: Renderer = request.app.state.renderer
    return renderer.page(request, "login.html", error="", next=_local(request.query_params.get("next", "/")))


@post("/login", include_in_schema=False, status_code=200, request_max_body_size=FORM_NBYTES_MAX)
async def login(request: AnyRequest) -> Response[Any]:
    authorizer: Authorizer = request.app.state.authorizer
    peer = request.client.host if request.client else ""
    address = authorizer.proxies.client(peer, request.scope["header_map"])  # type: ignore[typeddict-item]
    await authorizer.take_login(address)  # first: a form takes time to read
    form = await request.form()
    target = _local(str(form.get("next", "/")))
    try:
        session = authorizer.authenticator.start_session(str(form.get("key", "")).strip())
    except ForbiddenError as error:
        renderer: Renderer = request.app.state.renderer
        return renderer.page(request, "login.html", status=401, error=str(error), next=target)
    secure = request.url.scheme == "https" or (
        authorizer.proxies.trusts(peer) and request.headers.get("x-forwarded-proto", "") == "https"
    )
    cookie = Cookie(
        SESSION_COOKIE, value=session, max_age=SESSION_MS // 1000, httponly=True, samesite="lax", secure=secure
    )
    return Redirect(target, status_code=303, cookies=[cookie])


@post("/logout", include_in_schema=False)
async def logout() -> Redirect:
    return Redirect("/login", status_code=303, cookies=[Cookie(SESSION_COOKIE, value="", max_age=0)])


def _local(target: str) -> str:
    """Return a path of this site; ``/`` instead of any other address."""
    if not target.startswith("/") or target.startswith("//") or "\\" in target or not target.isprintable():
        return "/"
    return target


handlers = [login_page, login, logout]
