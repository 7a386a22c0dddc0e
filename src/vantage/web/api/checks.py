"""``/api/heartbeats`` and ``/api/checks``: jobs that must report, and URLs that are called; ``/heartbeat/{token}`` is
what the jobs themselves call."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from litestar import HttpMethod, Request, delete, get, put, route
from litestar.di import NamedDependency
from litestar.params import Body, Parameter, QueryParameter

from vantage.alerting.changes import AlertChanges
from vantage.alerting.heartbeats import heartbeat_state
from vantage.core.api_key import Scope
from vantage.core.availability import Heartbeat, HttpCheck, StoredCheck, StoredHeartbeat
from vantage.core.errors import InputError
from vantage.query.availability import find_check, find_heartbeat, list_checks, list_heartbeats
from vantage.query.context import QueryContext
from vantage.web.api.params import examples, problems
from vantage.web.authorize import Authorizer

ADMIN: Final = {"scope": Scope.ADMIN}
HEARTBEAT: Final = {"name": "nightly export", "cron": "0 3 * * *", "timezone": "Europe/Berlin", "grace": "30m"}
CHECK: Final = {"name": "home page", "url": "https://shop.example.com/health", "service": "shop", "every": "1m"}
Name = Annotated[str, Parameter(description="Its name.", max_length=100, examples=examples("nightly export"))]


class HeartbeatIn(msgspec.Struct):
    """A heartbeat, and the `revision` that it replaces: 0 for none, null for any."""

    heartbeat: Heartbeat
    revision: int | None = None


class HeartbeatOut(msgspec.Struct):
    """A heartbeat and its `state`: `on time`, `running`, `failed` or `late`. Times are epoch milliseconds, null for
    never; `expected` is by when success is to be reported. `path` is what the job calls: it is a secret, and given to
    those alone who may change it."""

    heartbeat: Heartbeat
    revision: int
    author: str
    timestamp: int
    state: str
    expected: int
    success: int | None
    start: int | None
    fail: int | None
    path: str | None


class HeartbeatsOut(msgspec.Struct):
    heartbeats: list[HeartbeatOut]


class CheckIn(msgspec.Struct):
    """A check, and the `revision` that it replaces: 0 for none, null for any."""

    check: HttpCheck
    revision: int | None = None


class CheckResultOut(msgspec.Struct):
    """How a check went: `status` is 0 without a response; `duration` is in ms."""

    timestamp: int
    up: bool
    status: int
    duration: float
    problem: str


class CheckOut(msgspec.Struct):
    """A check and its latest result, null before the first; `failures` in a row, and `since` when it is up or down."""

    check: HttpCheck
    revision: int
    author: str
    timestamp: int
    result: CheckResultOut | None
    failures: int
    since: int | None


class ChecksOut(msgspec.Struct):
    checks: list[CheckOut]


class PingOut(msgspec.Struct):
    status: str


HeartbeatBody = Annotated[HeartbeatIn, Body(examples=examples({"heartbeat": HEARTBEAT, "revision": None}))]
CheckBody = Annotated[CheckIn, Body(examples=examples({"check": CHECK, "revision": None}))]


@get("/api/heartbeats", summary="Heartbeats", responses=problems(), tags=["checks"])
async def all_heartbeats(request: Request[Any, Any, Any], context: NamedDependency[QueryContext]) -> HeartbeatsOut:
    """List all heartbeats by name."""
    stored = await list_heartbeats(context)
    return HeartbeatsOut([_heartbeat(request, item, context.clock.now_ms()) for item in stored])


@get("/api/heartbeats/{name:str}", summary="A heartbeat", responses=problems(404), tags=["checks"])
async def show_heartbeat(
    request: Request[Any, Any, Any], context: NamedDependency[QueryContext], name: Name
) -> HeartbeatOut:
    """Return a heartbeat."""
    return _heartbeat(request, await find_heartbeat(context, name), context.clock.now_ms())


@put("/api/heartbeats/{name:str}", summary="Save a heartbeat", responses=problems(409), tags=["checks"], opt=ADMIN)
async def save_heartbeat(
    request: Request[Any, Any, Any],
    context: NamedDependency[QueryContext],
    alerting: NamedDependency[AlertChanges],
    name: Name,
    data: HeartbeatBody,
) -> HeartbeatOut:
    """Store a heartbeat under its name, in place of the one that has it; the path that its job calls stays."""
    if data.heartbeat.name.strip() != name.strip():
        raise InputError("is not that of the address", field="heartbeat.name")
    actor = request.state.principal.id
    stored = await alerting.availability.save_heartbeat(data.heartbeat, actor=actor, revision=data.revision)
    return _heartbeat(request, stored, context.clock.now_ms())


@delete("/api/heartbeats/{name:str}", summary="Remove a heartbeat", responses=problems(404), tags=["checks"], opt=ADMIN)
async def remove_heartbeat(
    request: Request[Any, Any, Any], alerting: NamedDependency[AlertChanges], name: Name
) -> None:
    """Remove a heartbeat; its path is no more."""
    await alerting.availability.remove_heartbeat(name, actor=request.state.principal.id)


@get("/api/checks", summary="HTTP checks", responses=problems(), tags=["checks"])
async def all_checks(context: NamedDependency[QueryContext]) -> ChecksOut:
    """List all HTTP checks by name."""
    return ChecksOut([_check(item) for item in await list_checks(context)])


@get("/api/checks/{name:str}", summary="An HTTP check", responses=problems(404), tags=["checks"])
async def show_check(context: NamedDependency[QueryContext], name: Name) -> CheckOut:
    """Return an HTTP check. Its results over time are the metrics `check.up` and `check.duration` of its service."""
    return _check(await find_check(context, name))


@put("/api/checks/{name:str}", summary="Save an HTTP check", responses=problems(409), tags=["checks"], opt=ADMIN)
async def save_check(
    request: Request[Any, Any, Any], alerting: NamedDependency[AlertChanges], name: Name, data: CheckBody
) -> CheckOut:
    """Store an HTTP check under its name, in place of the one that has it. It runs at once."""
    if data.check.name.strip() != name.strip():
        raise InputError("is not that of the address", field="check.name")
    actor = request.state.principal.id
    return _check(await alerting.availability.save_check(data.check, actor=actor, revision=data.revision))


@delete("/api/checks/{name:str}", summary="Remove an HTTP check", responses=problems(404), tags=["checks"], opt=ADMIN)
async def remove_check(request: Request[Any, Any, Any], alerting: NamedDependency[AlertChanges], name: Name) -> None:
    """Remove an HTTP check. Its samples stay."""
    await alerting.availability.remove_check(name, actor=request.state.principal.id)


@route(
    "/heartbeat/{token:str}",
    http_method=[HttpMethod.GET, HttpMethod.POST],
    status_code=200,
    summary="Report that a job ran",
    responses=problems(404),
    tags=["checks"],
)
async def ping(
    request: Request[Any, Any, Any],
    alerting: NamedDependency[AlertChanges],
    token: Annotated[str, Parameter(description="The secret of the heartbeat.", examples=examples("x" * 32))],
    ping_state: Annotated[
        str,
        QueryParameter(
            name="state", description="`start`, `success` or `fail`.", max_length=16, examples=examples("success")
        ),
    ] = "success",
) -> PingOut:
    """Report that a job has started, succeeded or failed. No key is needed: the token is the secret."""
    authorizer: Authorizer = request.app.state.authorizer
    await authorizer.take_anonymous(request)
    await alerting.availability.ping(token, ping_state)
    return PingOut("ok")


def _heartbeat(request: Request[Any, Any, Any], stored: StoredHeartbeat, now_ms: int) -> HeartbeatOut:
    state = heartbeat_state(stored, now_ms=now_ms)
    is_allowed = request.state.principal.allows(Scope.ADMIN)
    return HeartbeatOut(
        stored.heartbeat,
        stored.revision,
        stored.author,
        stored.at_ms,
        state.word,
        state.expected_ms,
        stored.last_ms,
        stored.started_ms,
        stored.failed_ms,
        f"/heartbeat/{stored.token}" if is_allowed else None,
    )


def _check(stored: StoredCheck) -> CheckOut:
    result = stored.result
    return CheckOut(
        stored.check,
        stored.revision,
        stored.author,
        stored.at_ms,
        CheckResultOut(result.at_ms, result.is_up, result.status, result.duration_ms, result.problem)
        if result is not None
        else None,
        stored.failures,
        stored.since_ms,
    )


handlers = [
    all_heartbeats,
    show_heartbeat,
    save_heartbeat,
    remove_heartbeat,
    all_checks,
    show_check,
    save_check,
    remove_check,
]
unguarded = [ping]
