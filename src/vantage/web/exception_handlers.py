"""Turn errors of Litestar's handlers into responses: problem details for programs, a page for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, ValidationException
from litestar.response import Redirect

from vantage.core.errors import UnauthorizedError, VantageError
from vantage.web.problems import MEDIA_TYPE, Problem, problem_of
from vantage.web.render import Renderer

AnyRequest = Request[Any, Any, Any]
_MISSING = re.compile(r"Missing required \w+ parameter '(\w+)'")  # Litestar's text for a missing parameter
_log = structlog.get_logger("vantage.web")


def wants_page(request: AnyRequest) -> bool:
    """Return whether a browser requests a page."""
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")


def on_vantage_error(request: AnyRequest, error: VantageError) -> Response[Any]:
    if isinstance(error, UnauthorizedError) and wants_page(request):
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return Redirect(f"/login?next={quote(path, safe='')}")
    return _respond(request, problem_of(error))


def on_http_exception(request: AnyRequest, error: HTTPException) -> Response[Any]:
    headers: tuple[tuple[str, str], ...] = ()
    field, detail = "", error.detail
    if isinstance(error, ValidationException) and isinstance(error.extra, list) and error.extra:
        first: Mapping[str, Any] = error.extra[0]
        field, detail = str(first.get("key", "")), str(first.get("message", detail))
    elif missing := _MISSING.match(detail):
        field, detail = missing[1], "is missing"
    if isinstance(error, MethodNotAllowedException) and error.headers:
        headers = tuple((name.lower(), value) for name, value in error.headers.items() if name.lower() == "allow")
    titles = {400: "Bad request", 404: "Not found", 405: "Method not allowed", 413: "Body too large"}
    title = titles.get(error.status_code, "Error")
    if error.status_code == 404:
        detail = "there is no page at this address"
    return _respond(request, Problem(error.status_code, title, detail, field, headers))


def on_any_error(request: AnyRequest, error: Exception) -> Response[Any]:
    problem = problem_of(error)
    if problem.status == 500:
        _log.error("request failed", path=request.url.path, exc_info=error)
    else:
        _log.warning("request refused", path=request.url.path, reason=repr(error))
    return _respond(request, problem)


def _respond(request: AnyRequest, problem: Problem) -> Response[Any]:
    request_id = str(request.scope.get("request_id", ""))
    if wants_page(request):
        renderer: Renderer = request.app.state.renderer
        page = renderer.page(
            request,
            "error.html",
            status=problem.status,
            code=problem.status,
            title=problem.title,
            detail=problem.detail,
            request_id=request_id,
        )
        page.headers.update(dict(problem.headers))
        return page
    return Response(
        problem.body(request_id), status_code=problem.status, media_type=MEDIA_TYPE, headers=dict(problem.headers)
    )
