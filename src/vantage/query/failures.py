"""What fails in a service: its newest failed spans, grouped by the type of the exception and by where it was raised."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vantage.core.semconv import STATUS_TAGS
from vantage.core.span import Span
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.stack_frames import Frame, application_frame
from vantage.storage.ports import SpanFilter

SPANS_MAX: Final = 200  # failed spans that are read, the newest
GROUPS_MAX: Final = 20
_TYPE, _MESSAGE, _STACKTRACE = "exception.type", "exception.message", "exception.stacktrace"


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failures of one type and one origin. ``frame`` is None where there is no stack trace: then groups differ by
    ``operation``, the name of the span. ``latest`` is the newest of ``count`` spans. ``type`` is '' where the spans
    have none."""

    type: str
    frame: Frame | None
    operation: str
    count: int
    first_ms: int
    last_ms: int
    latest: Span

    @property
    def message(self) -> str:
        return self.latest.attributes.get(_MESSAGE, "")

    @property
    def stacktrace(self) -> str:
        return self.latest.attributes.get(_STACKTRACE, "")


@dataclass(frozen=True, slots=True)
class Failures:
    """``groups``: the most frequent first, then the latest; ``omitted`` counts those beyond GROUPS_MAX. They are of the
    newest ``spans`` failed spans; ``since_ms`` is the start of the oldest of these where there may be more, else
    None."""

    groups: tuple[FailureGroup, ...]
    omitted: int
    spans: int
    since_ms: int | None


async def read_failures(context: QueryContext, time_range: TimeRange, *, service: str) -> Failures:
    """Return the failures of a service in a range. Raises what the store raises."""
    listed = await context.store.list_spans(SpanFilter(time_range, service, failed=True, limit=SPANS_MAX))
    groups = await asyncio.to_thread(group_failures, listed.spans)
    has_all = listed.is_complete and len(listed.spans) < SPANS_MAX
    oldest_ms = min((span.start_ms for span in listed.spans), default=time_range.start_ms)
    return Failures(
        tuple(groups[:GROUPS_MAX]),
        max(0, len(groups) - GROUPS_MAX),
        len(listed.spans),
        None if has_all else oldest_ms,
    )


def group_failures(spans: Sequence[Span]) -> list[FailureGroup]:
    """Return failed spans as groups, the most frequent first, then the latest."""
    frames: dict[str, Frame | None] = {}
    members: dict[tuple[str, ...], list[tuple[Span, Frame | None]]] = {}
    for span in spans:
        stacktrace = span.attributes.get(_STACKTRACE, "")
        if stacktrace not in frames:
            frames[stacktrace] = application_frame(stacktrace)
        frame = frames[stacktrace]
        origin = ("frame", *frame.key) if frame else ("operation", span.name)
        members.setdefault((_type_of(span), *origin), []).append((span, frame))
    groups = []
    for (name, *_), of_group in members.items():
        latest, frame = max(of_group, key=lambda member: (member[0].start_ns, member[0].trace_id))
        starts = [span.start_ms for span, _ in of_group]
        groups.append(FailureGroup(name, frame, latest.name, len(of_group), min(starts), max(starts), latest))
    return sorted(groups, key=lambda group: (-group.count, -group.last_ms, group.type, group.operation))


def _type_of(span: Span) -> str:
    """Return the type of the exception, else the ``error.type`` of OpenTelemetry's conventions, else the status of the
    answer."""
    attributes = span.attributes
    status = next((attributes[key] for key in STATUS_TAGS if attributes.get(key)), "")
    name = attributes.get(_TYPE) or attributes.get("error.type") or status
    return f"HTTP {name}" if len(name) == 3 and name.isdecimal() else name
