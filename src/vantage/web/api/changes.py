"""``/api/changes``: what moved in a window."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import Parameter

from vantage.query.context import QueryContext
from vantage.query.what_changed import Against, What, read_changes
from vantage.web.api.params import End, Start, problems, time_range


class ChangeOut(msgspec.Struct):
    """What moved: the ``requests`` a second, the share of ``errors`` or the ``p95`` in milliseconds of a service, or a
    ``metric``; of all of it, or of one value of a tag. ``before`` and ``after`` are means of buckets, null where
    there is nothing; ``change`` is the relative growth. ``effect`` is from 0 to 1, ``p`` the probability by chance, and
    ``q`` that after correction for all that was compared. ``step`` is the length of a bucket in seconds."""

    service: str
    what: What
    metric: str
    kind: str
    unit: str
    tag: str | None
    value: str | None
    before: float | None
    after: float | None
    change: float | None
    effect: float
    p: float
    q: float
    is_beyond_chance: bool
    step: float


class ChangesOut(msgspec.Struct):
    """The window in complete buckets, and the time that it was compared with: those of requests; metrics may have
    longer buckets, and so begin earlier. Of ``compared`` items ``moved`` did so beyond chance; they come first, those
    with a large effect that may be chance after them. ``notes`` say what was left out."""

    start: int
    end: int
    before_start: int
    before_end: int
    changes: list[ChangeOut]
    moved: int
    compared: int
    notes: list[str]


@get("/api/changes", summary="What changed", responses=problems(), tags=["analysis"])
async def list_changes(
    context: NamedDependency[QueryContext],
    start: Start = "now-1h",
    end: End = "now",
    service: Annotated[
        str, Parameter(description="One service, in more detail; all when absent.", max_length=255)
    ] = "",
    against: Annotated[
        Against, Parameter(description="The time before the window, or the same time of a day or a week before.")
    ] = "before",
) -> ChangesOut:
    """Return what moved most in a window: more than chance explains, the largest effect first."""
    in_range = time_range(start, end, now_ms=context.present().now_ms)
    changes = await read_changes(context, in_range, service=service, against=against)
    return ChangesOut(
        changes.requests.window.start_ms,
        changes.requests.window.end_ms,
        changes.requests.before.start_ms,
        changes.requests.before.end_ms,
        [
            ChangeOut(
                item.service,
                item.what,
                item.metric,
                item.kind,
                item.unit,
                item.tag or None,
                item.value if item.tag else None,
                change.before,
                change.after,
                change.growth,
                change.effect,
                change.p,
                change.q,
                change.is_beyond_chance,
                change.scope.step_ms / 1000,
            )
            for change in changes.changes
            for item in (change.item,)
        ],
        changes.moved,
        changes.compared,
        list(changes.notes),
    )


handlers = [list_changes]
