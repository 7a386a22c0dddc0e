"""``/alerts/channels``: where notices go, a form for each kind, and tests of them."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.response import Redirect

from vantage.alerting.channel_config import Setting, kind_of, settings_of
from vantage.alerting.channels.kinds import KINDS
from vantage.alerting.dispatch import NoticeSettings
from vantage.alerting.notices import Notices
from vantage.core.api_key import Scope
from vantage.core.channel import Channel
from vantage.core.errors import ConfigError, InputError, NotFoundError, StoreUnavailable
from vantage.core.notification import Fate
from vantage.web.render import query_string, render

AnyRequest = Request[Any, Any, Any]
ADMIN: Final = {"scope": Scope.ADMIN}
FAILURES_SHOWN: Final = 5
DAY_MS: Final = 86_400_000


@get("/alerts/channels", include_in_schema=False)
async def channels(request: AnyRequest, notices: NamedDependency[Notices]) -> Response[str]:
    return await _page(request, notices)


@post("/alerts/channels", include_in_schema=False, opt=ADMIN, status_code=200)
async def save(request: AnyRequest, notices: NamedDependency[Notices]) -> Response[Any]:
    """Store what the form says. An empty secret is one that stays, if there is one."""
    form = await request.form()
    kind, name = str(form.get("kind", "")), str(form.get("name", ""))
    typed: dict[str, Any] = {}
    try:
        before = await notices.store.channel(name.strip())
        for setting in settings_of(kind_of(kind)):
            value = _typed(
                setting, str(form.get(setting.name, "")), before, kind, cleared=bool(form.get(f"clear-{setting.name}"))
            )
            if value is not None:
                typed[setting.name] = value
        revision = str(form.get("revision", ""))
        await notices.save_channel(
            name,
            kind,
            typed,
            enabled=bool(form.get("enabled")),
            actor=request.state.principal.id,
            revision=int(revision) if revision.isascii() and revision.isdigit() and len(revision) < 16 else 0,
        )
    except (InputError, ConfigError, StoreUnavailable) as error:
        return await _page(request, notices, status=400, problem=str(error), kind=kind, name=name, typed=typed)
    return Redirect(f"/alerts/channels{query_string({}, saved=name.strip())}", status_code=303)


@post("/alerts/channels/test", include_in_schema=False, opt=ADMIN, status_code=200)
async def test(request: AnyRequest, notices: NamedDependency[Notices]) -> Response[str]:
    """Send a test, and show its outcome."""
    name = str((await request.form()).get("name", ""))
    try:
        outcome = await notices.test_channel(name)
    except (NotFoundError, StoreUnavailable) as error:
        outcome = str(error)
    return await _page(request, notices, tested=name, outcome=outcome)


@post("/alerts/channels/settings", include_in_schema=False, opt=ADMIN, status_code=200)
async def save_settings(request: AnyRequest, notices: NamedDependency[Notices]) -> Response[Any]:
    """Store when notices are sent, and where the weekly digest goes."""
    form = await request.form()
    typed = {name: str(form.get(name, "")).strip() for name in NoticeSettings.__struct_fields__}
    try:
        settings = msgspec.convert(
            {
                **typed,
                "flapping_changes": int(typed["flapping_changes"]) if typed["flapping_changes"].isdecimal() else -1,
                "digest_channels": [part.strip() for part in typed["digest_channels"].split(",") if part.strip()],
            },
            NoticeSettings,
        )
        await notices.save_settings(settings, actor=request.state.principal.id)
    except (InputError, StoreUnavailable) as error:
        return await _page(request, notices, status=400, times_problem=str(error), times=typed)
    return Redirect("/alerts/channels?saved=When%20notices%20are%20sent#times-title", status_code=303)


@post("/alerts/channels/remove", include_in_schema=False, opt=ADMIN)
async def remove(request: AnyRequest, notices: NamedDependency[Notices]) -> Redirect:
    await notices.remove_channel(str((await request.form()).get("name", "")), actor=request.state.principal.id)
    return Redirect("/alerts/channels", status_code=303)


def _typed(setting: Setting, text: str, before: Channel | None, kind: str, *, cleared: bool) -> Any:
    """Return the value of a field of the form; None where it is not given."""
    if setting.is_secret and not text and not cleared:
        has = before is not None and before.kind == kind and setting.name in before.sealed
        return None if has else ""
    text = "" if cleared else text.strip()
    if setting.is_list:
        return [part.strip() for part in text.split(",") if part.strip()]
    if setting.is_number:
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else text
    return text if text or setting.default is None or setting.default == "" else None


async def _page(
    request: AnyRequest,
    notices: Notices,
    *,
    status: int = 200,
    problem: str = "",
    kind: str = "",
    name: str = "",
    typed: dict[str, Any] | None = None,
    tested: str = "",
    outcome: str = "",
    times: dict[str, Any] | None = None,
    times_problem: str = "",
) -> Response[str]:
    unavailable = ""
    rows: list[Channel] = []
    counts: dict[str, dict[str, int]] = {}
    failures: list[Any] = []
    try:
        rows = list(await notices.store.channels())
        for (channel, fate), count in (await notices.store.fates(since_ms=notices.now_ms() - DAY_MS)).items():
            counts.setdefault(channel, {})[str(fate)] = count
        times = times or msgspec.to_builtins(await notices.settings())
        failures = list(await notices.store.notifications(fates=[Fate.FAILED], limit=FAILURES_SHOWN))
    except StoreUnavailable as error:
        unavailable = str(error)
    edited = next((row for row in rows if row.name == request.query_params.get("name", "")), None)
    kind = kind or (edited.kind if edited is not None else request.query_params.get("kind", ""))
    kind = kind if kind in KINDS else ""
    return await render(
        request,
        "pages/alert_channels.html",
        status=status,
        section="bell",
        rows=rows,
        counts=counts,
        failures=failures,
        unavailable=unavailable,
        kinds=KINDS,
        kind=kind,
        edited=edited,
        name=name or (edited.name if edited is not None else ""),
        settings=settings_of(KINDS[kind]) if kind else [],
        values={**(edited.settings if edited is not None else {}), **(typed or {})},
        sealed=edited.sealed if edited is not None else {},
        problem=problem,
        tested=tested,
        outcome=outcome,
        times=times or {},
        times_problem=times_problem,
        saved=request.query_params.get("saved", "")[:200],
    )


handlers = [channels, save, test, save_settings, remove]
