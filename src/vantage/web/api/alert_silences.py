"""``/api/alerts/silences`` and ``/api/alerts/notifications``: when nobody is disturbed, and who was."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import Body, Parameter

from vantage.alerting.dispatch import NoticeSettings
from vantage.alerting.notices import Notices, SilenceFields, SilenceState
from vantage.core.api_key import Scope
from vantage.core.errors import InputError
from vantage.core.notification import Fate, Notification
from vantage.web.api.params import examples, problems

ADMIN = {"scope": Scope.ADMIN}
AnyRequest = Request[Any, Any, Any]
SilenceId = Annotated[int, Parameter(description="Its id, as listed.", examples=examples(1))]
NoticeId = Annotated[int, Parameter(description="Its id, as listed.", examples=examples(1))]


class WindowOut(msgspec.Struct):
    """A time in which it is active, in epoch milliseconds."""

    start: int
    end: int


class SilenceOut(msgspec.Struct):
    """Times are epoch milliseconds; `end` null: for good. `state` is active, planned or ended, `active` the window it
    is in, and `coming` the next ones."""

    id: int
    rule: str
    service: str
    severity: str
    entity: dict[str, str]
    start: int
    end: int | None
    cron: str
    timezone: str
    duration: int
    comment: str
    state: str
    active: WindowOut | None
    coming: list[WindowOut]
    revision: int
    author: str
    timestamp: int


class SilencesOut(msgspec.Struct):
    silences: list[SilenceOut]


class SilenceIn(msgspec.Struct, forbid_unknown_fields=True):
    """What it silences has all that is given; `*` stands for any text. `start` and `end` are times, in `timezone` where
    they name none. Once: from `start` (now) to `end`, or for `duration`. With `cron`: for `duration` each time."""

    rule: str = ""
    service: Annotated[str, msgspec.Meta(examples=["checkout"])] = ""
    severity: str = ""
    entity: dict[str, str] = {}
    start: str | int = ""
    end: str | int | None = None
    duration: Annotated[str, msgspec.Meta(examples=["2h"])] = ""
    cron: str = ""
    timezone: str = "UTC"
    comment: str = ""
    revision: int | None = None


_SILENCE: Final = {"service": "checkout", "duration": "2h", "comment": "deploying 2.5"}
SilenceBody = Annotated[SilenceIn, Body(examples=examples(_SILENCE))]
SettingsBody = Annotated[NoticeSettings, Body(examples=examples({"group_wait": "30s", "repeat": "4h"}))]


class NoticeAlertOut(msgspec.Struct):
    id: int
    rule: str
    service: str
    severity: str
    status: str
    entity: dict[str, str]
    text: str
    is_new: bool


class NoticeOut(msgspec.Struct):
    """`fate` is waiting, sent, failed or suppressed, and `reason` why it is: first, changed, ended, repeated, or by
    what it was suppressed. `problem` is why the latest of the `attempts` failed. Times are epoch milliseconds."""

    id: int
    channel: str
    service: str
    fate: str
    reason: str
    alerts: list[NoticeAlertOut]
    created: int
    due: int
    done: int | None
    attempts: int
    problem: str


class NoticesOut(msgspec.Struct):
    """`before` is that of the next page, null at the end."""

    notifications: list[NoticeOut]
    before: int | None


@get("/api/alerts/silences", summary="Silences", responses=problems(), tags=["alerts"])
async def list_silences(notices: NamedDependency[Notices]) -> SilencesOut:
    """List the silences that are active, then those planned, then those that ended within a week."""
    return SilencesOut([_silence(state) for state in await notices.silences()])


@post("/api/alerts/silences", summary="Silence alerts", responses=problems(400, 409), tags=["alerts"], opt=ADMIN)
async def create_silence(request: AnyRequest, notices: NamedDependency[Notices], data: SilenceBody) -> SilenceOut:
    """Create a silence or a maintenance window."""
    saved = await notices.save_silence(_fields(data), actor=request.state.principal.id)
    return _silence(notices.state(saved))


@get("/api/alerts/silences/{silence_id:int}", summary="A silence", responses=problems(404), tags=["alerts"])
async def read_silence(notices: NamedDependency[Notices], silence_id: SilenceId) -> SilenceOut:
    """Return a silence by its id."""
    return _silence(notices.state(await notices.silence(silence_id)))


@put(
    "/api/alerts/silences/{silence_id:int}",
    summary="Change a silence",
    responses=problems(400, 404, 409),
    tags=["alerts"],
    opt=ADMIN,
)
async def save_silence(
    request: AnyRequest, notices: NamedDependency[Notices], silence_id: SilenceId, data: SilenceBody
) -> SilenceOut:
    """Replace a silence; with `revision` only if it has it, 409 otherwise."""
    saved = await notices.save_silence(
        _fields(data), actor=request.state.principal.id, silence_id=silence_id or -1, revision=data.revision
    )
    return _silence(notices.state(saved))


@delete(
    "/api/alerts/silences/{silence_id:int}", summary="Remove a silence", responses=problems(404), tags=["alerts"],
    opt=ADMIN,
)  # fmt: skip
async def remove_silence(request: AnyRequest, notices: NamedDependency[Notices], silence_id: SilenceId) -> None:
    """Remove a silence: what still fires is notified."""
    await notices.remove_silence(silence_id, actor=request.state.principal.id)


@get("/api/alerts/notifications", summary="Notices", responses=problems(400), tags=["alerts"])
async def list_notices(
    notices: NamedDependency[Notices],
    fate: Annotated[
        str, Parameter(description="`waiting`, `sent`, `failed` or `suppressed`; '' for any.", max_length=16)
    ] = "",
    channel: Annotated[str, Parameter(description="The channel's name; '' for any.", max_length=100)] = "",
    limit: Annotated[int, Parameter(description="The most to return.", ge=1, le=500)] = 100,
    before: Annotated[int | None, Parameter(description="Only those with an id below this one.", ge=0)] = None,
) -> NoticesOut:
    """List what was sent, waits, failed or was suppressed, the latest first."""
    if fate and fate not in set(Fate):
        raise InputError(f"is none of {', '.join(Fate)}", field="fate")
    fates = [Fate(fate)] if fate else []
    rows = await notices.store.notifications(fates=fates, channel=channel, before_id=before, limit=limit)
    return NoticesOut([_notice(row) for row in rows], rows[-1].id if len(rows) == limit else None)


@post(
    "/api/alerts/notifications/{notice_id:int}/retry",
    summary="Send a notice again that failed",
    responses=problems(404),
    tags=["alerts"],
    status_code=200,
    opt=ADMIN,
)
async def retry_notice(request: AnyRequest, notices: NamedDependency[Notices], notice_id: NoticeId) -> None:
    """Make a notice that failed wait to be sent again."""
    await notices.retry(notice_id, actor=request.state.principal.id)


@get("/api/alerts/settings", summary="Settings of notices", responses=problems(), tags=["alerts"])
async def read_settings(notices: NamedDependency[Notices]) -> NoticeSettings:
    """Return the times of grouping, repeats and duplicates, when an alert is flapping, and the weekly digest."""
    return await notices.settings()


@put("/api/alerts/settings", summary="Change settings of notices", responses=problems(400), tags=["alerts"], opt=ADMIN)
async def save_settings(request: AnyRequest, notices: NamedDependency[Notices], data: SettingsBody) -> NoticeSettings:
    """Replace them; what is not given has its default."""
    return await notices.save_settings(data, actor=request.state.principal.id)


def _fields(data: SilenceIn) -> SilenceFields:
    return SilenceFields(
        data.rule,
        data.service,
        data.severity,
        data.entity,
        str(data.start),
        "" if data.end is None else str(data.end),
        data.duration,
        data.cron,
        data.timezone,
        data.comment,
    )


def _silence(state: SilenceState) -> SilenceOut:
    silence, active = state.silence, state.active
    return SilenceOut(
        silence.id,
        silence.rule,
        silence.service,
        silence.severity,
        dict(silence.entity),
        silence.start_ms,
        silence.end_ms,
        silence.cron,
        silence.timezone,
        silence.duration_ms,
        silence.comment,
        state.word,
        None if active is None else WindowOut(active.start_ms, active.end_ms),
        [WindowOut(window.start_ms, window.end_ms) for window in state.coming],
        silence.revision,
        silence.author,
        silence.at_ms,
    )


def _notice(row: Notification) -> NoticeOut:
    alerts = [
        NoticeAlertOut(
            alert.alert_id,
            alert.rule,
            alert.service,
            alert.severity,
            str(alert.status),
            dict(alert.entity),
            alert.text,
            alert.is_new,
        )
        for alert in row.alerts
    ]
    return NoticeOut(
        row.id,
        row.channel,
        row.service,
        str(row.fate),
        row.reason,
        alerts,
        row.created_ms,
        row.due_ms,
        row.done_ms,
        row.attempts,
        row.problem,
    )


handlers = [
    list_silences,
    create_silence,
    read_silence,
    save_silence,
    remove_silence,
    list_notices,
    retry_notice,
    read_settings,
    save_settings,
]
