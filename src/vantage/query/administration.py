"""What the page of settings shows: the configuration, what takes space, keys, and the audit log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vantage.core.api_key import ApiKey
from vantage.core.audit import AuditEntry
from vantage.core.errors import BusyError, InputError, StoreTimeout, StoreUnavailable
from vantage.query.context import QueryContext
from vantage.query.deletion import Deletion
from vantage.query.long_work import LongWork, Progress
from vantage.query.storage_report import StorageReport, read_storage_report
from vantage.storage.metadata.ports import MetadataStore
from vantage.storage.ports import AgedBytes

AUDIT_SHOWN_MAX: Final = 50
DAY_MS: Final = 86_400_000
DAYS_PREVIEWED: Final = (7, 14, 30, 60, 90, 180, 365)
Backup = Callable[[Progress], Awaitable[str]]  # returns its outcome in words; raises VantageError
USAGE_SHOWN_MAX: Final = 25


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of one metric of a service, or of its spans (metric ''), over all tiers; ``items`` are samples or spans."""

    service: str
    metric: str
    nbytes: int
    items: int
    series: int


@dataclass(frozen=True, slots=True)
class Administration:
    """``space``: the largest first. ``problems``: why a part is not shown, by its name."""

    report: StorageReport | None
    space: tuple[Space, ...]
    space_left_out: int
    keys: tuple[ApiKey, ...]
    audit: tuple[AuditEntry, ...]
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Administered:
    """Where it is read from: ``configuration`` has every setting with its value, secrets masked, and its origin.
    ``work`` has the jobs that were begun there; ``backup`` copies the data folder, None where the store is elsewhere;
    ``deletion`` is None without a store."""

    metadata: MetadataStore
    configuration: Sequence[tuple[str, str, str]]
    work: LongWork
    backup: Backup | None = None
    deletion: Deletion | None = None


async def read_administration(
    context: QueryContext, metadata: MetadataStore, *, before_id: int | None = None
) -> Administration:
    """Read it all; the audit log from before the entry ``before_id``. What cannot be read is among the problems."""
    problems: dict[str, str] = {}
    report: StorageReport | None = None
    keys: Sequence[ApiKey] = ()
    audit: Sequence[AuditEntry] = ()
    try:
        report = await read_storage_report(context)
    except (BusyError, InputError, StoreTimeout, StoreUnavailable) as error:
        problems["storage"] = str(error)
    try:
        keys = await metadata.keys()
        audit = await metadata.audit(limit=AUDIT_SHOWN_MAX, before_id=before_id)
    except StoreUnavailable as error:
        problems["metadata"] = str(error)
    space = _space(report) if report is not None else []
    shown = tuple(space[:USAGE_SHOWN_MAX])
    return Administration(report, shown, len(space) - len(shown), tuple(keys), tuple(audit), problems)


def _space(report: StorageReport) -> list[Space]:
    spaces: dict[tuple[str, str], Space] = {}
    for row in report.usage.rows:
        before = spaces.get((row.service, row.metric), Space(row.service, row.metric, 0, 0, 0))
        items = 0 if row.tier == "rollups" else row.items
        spaces[row.service, row.metric] = Space(
            row.service, row.metric, before.nbytes + row.nbytes, before.items + items, max(before.series, row.series)
        )
    return sorted(spaces.values(), key=lambda space: (-space.nbytes, space.service, space.metric))


@dataclass(frozen=True, slots=True)
class RetentionPreview:
    """What ``retention_days`` of ``days`` would remove now, and what everything would take in the end at the rate of
    the latest week, None where there is less than a week of data. In bytes."""

    days: int
    removed_nbytes: int
    settled_nbytes: int | None


def preview_retention(aged: Sequence[AgedBytes], now_ms: int) -> list[RetentionPreview]:
    """Return the effect of several retentions."""
    per_day = _nbytes_a_day(aged, now_ms)
    return [
        RetentionPreview(
            days,
            sum(_removed(part, now_ms - days * DAY_MS) for part in aged),
            None if per_day is None else round(per_day * days),
        )
        for days in DAYS_PREVIEWED
    ]


def _removed(part: AgedBytes, before_ms: int) -> int:
    if part.time_range.end_ms <= before_ms:
        return part.nbytes
    if part.is_whole or part.time_range.start_ms >= before_ms:
        return 0
    length_ms = part.time_range.end_ms - part.time_range.start_ms
    return part.nbytes * (before_ms - part.time_range.start_ms) // length_ms


def _nbytes_a_day(aged: Sequence[AgedBytes], now_ms: int) -> float | None:
    """Return the mean of the latest parts that begin a week ago or earlier, up to now."""
    latest: list[AgedBytes] = []
    for part in sorted(aged, key=lambda part: part.time_range.start_ms, reverse=True):
        latest.append(part)
        began_ms = part.time_range.start_ms
        if began_ms <= now_ms - 7 * DAY_MS:
            return sum(part.nbytes for part in latest) / ((now_ms - began_ms) / DAY_MS)
    return None
