"""What the page of settings shows: the configuration, what takes space, keys, and the audit log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vantage.core.api_key import ApiKey
from vantage.core.audit import AuditEntry
from vantage.core.errors import BusyError, InputError, StoreTimeout, StoreUnavailable
from vantage.query.context import QueryContext
from vantage.query.storage_report import StorageReport, read_storage_report
from vantage.storage.ports import MetadataStore

AUDIT_SHOWN_MAX: Final = 50
USAGE_SHOWN_MAX: Final = 100


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
    """Where it is read from: ``configuration`` has every setting with its value, secrets masked, and its origin."""

    metadata: MetadataStore
    configuration: Sequence[tuple[str, str, str]]


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
