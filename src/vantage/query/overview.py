"""The overview: one row per service, totals, and the latest deployments."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from vantage.core.deployment import Deployment
from vantage.core.errors import BusyError, InputError, StoreTimeout
from vantage.query.catalogue import SELF
from vantage.query.context import QueryContext
from vantage.query.deployments import deployments_if_known
from vantage.query.http_semconv import QUANTILES_ALL, QUANTILES_OVERVIEW, Buckets
from vantage.query.red import BucketValues, RedStats, read_red
from vantage.query.thresholds import ERROR_RATIO_HIGH

SERVICES_SHOWN_MAX: Final = 100  # on one page
DEPLOYMENTS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A service. ``red`` is None when it has no data in the range. Versions: the last seen first."""

    name: str
    environments: tuple[str, ...]
    versions: tuple[str, ...]
    first_seen_ms: int
    last_seen_ms: int
    red: RedStats | None
    problem: str = ""  # why there are no figures although there may be data

    @property
    def is_self(self) -> bool:
        return self.name == SELF

    @property
    def has_traffic(self) -> bool:
        return self.red is not None and self.red.source != "samples"

    @property
    def has_errors(self) -> bool:
        return self.red is not None and (self.red.error_ratio or 0) >= ERROR_RATIO_HIGH


@dataclass(frozen=True, slots=True)
class Totals:
    """All services but Vantage itself. ``error_ratio`` is weighted by requests; None without any.
    ``rates_per_s`` sums the rates of all services per bucket."""

    services: int
    services_failing: int
    rate_per_s: float | None
    error_ratio: float | None
    slowest: ServiceRow | None
    rates_per_s: BucketValues


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything the first page shows: of the services whose name has a text, ``matching`` of them, one page of
    SERVICES_SHOWN_MAX, counted from 1. The totals are those of all. ``only_self``: nobody has sent anything yet."""

    buckets: Buckets
    services: tuple[ServiceRow, ...]
    totals: Totals
    deployments: tuple[Deployment, ...]
    only_self: bool
    matching: int
    page: int
    pages: int
    problem: str = ""  # why there are no figures although there may be data

    @property
    def approximate(self) -> bool:
        """Return whether quantiles are those of sketches."""
        return any(row.red is not None and row.red.approximate for row in self.services)


@dataclass(slots=True)
class _ServiceFacts:
    """Facts about one service, collected from its series and spans."""

    environments: set[str] = field(default_factory=set)
    versions: dict[str, int] = field(default_factory=dict)
    first_ms: int = 2**62
    last_ms: int = 0

    def add(self, environment: str, version: str, first_ms: int, last_ms: int) -> None:
        if environment:
            self.environments.add(environment)
        if version:
            self.versions[version] = max(last_ms, self.versions.get(version, 0))
        self.first_ms = min(self.first_ms, first_ms)
        self.last_ms = max(self.last_ms, last_ms)


async def read_overview(
    context: QueryContext, buckets: Buckets, *, exact: bool = False, text: str = "", page: int = 1
) -> Overview:
    """Read the overview: services with errors first, then those with traffic, then by name; Vantage itself last.
    ``exact``: from samples and spans, which takes as long as there are many. ``text`` is a part of the names, in
    whatever case; a ``page`` beyond the last is the last."""
    facts = await _known_services(context)
    first_ms = {name: known.first_ms for name, known in facts.items()}
    red, problem = await _read_figures(context, buckets, first_ms, QUANTILES_OVERVIEW, exact=exact)
    deployments = await deployments_if_known(context, limit=DEPLOYMENTS_MAX)

    def build() -> Overview:
        rows = sorted((_row(name, facts[name], red.get(name)) for name in facts), key=_sort_key)
        only_self = all(row.is_self for row in rows)
        matching = [row for row in rows if text.lower() in row.name.lower()] if text else rows
        pages = max(1, -(-len(matching) // SERVICES_SHOWN_MAX))
        number = min(max(1, page), pages)
        shown = tuple(matching[(number - 1) * SERVICES_SHOWN_MAX : number * SERVICES_SHOWN_MAX])
        totals = _totals(rows, buckets)
        return Overview(buckets, shown, totals, tuple(deployments), only_self, len(matching), number, pages, problem)

    return await asyncio.to_thread(build)


async def read_service(
    context: QueryContext, buckets: Buckets, *, service: str, exact: bool = False
) -> ServiceRow | None:
    """Read one service; None when it is unknown."""
    facts = (await _known_services(context, service=service)).get(service)
    if facts is None:
        return None
    first_ms = {service: facts.first_ms}
    red, problem = await _read_figures(context, buckets, first_ms, QUANTILES_ALL, exact=exact, with_cells=True)
    return replace(_row(service, facts, red.get(service)), problem=problem)


async def _read_figures(
    context: QueryContext,
    buckets: Buckets,
    services: Mapping[str, int],
    quantiles: Sequence[float],
    *,
    exact: bool,
    with_cells: bool = False,
) -> tuple[dict[str, RedStats], str]:
    """Return the figures, or why they cannot be read: a page is of use without them."""
    try:
        red = await read_red(
            context, buckets, services=services, quantiles=quantiles, exact=exact, with_cells=with_cells
        )
        return red, ""
    except (BusyError, InputError, StoreTimeout) as error:
        return {}, str(error)


async def _known_services(context: QueryContext, *, service: str = "") -> dict[str, _ServiceFacts]:
    infos = await context.store.services(service=service)

    def collect() -> dict[str, _ServiceFacts]:
        known: dict[str, _ServiceFacts] = {}
        for info in infos:
            facts = known.setdefault(info.service, _ServiceFacts())
            facts.add(info.environment, info.service_version, info.first_ms, info.last_ms)
        return known

    return await asyncio.to_thread(collect)


def _row(name: str, facts: _ServiceFacts, red: RedStats | None) -> ServiceRow:
    versions = sorted(facts.versions, key=lambda version: (-facts.versions[version], version))
    return ServiceRow(name, tuple(sorted(facts.environments)), tuple(versions), facts.first_ms, facts.last_ms, red)


def _sort_key(row: ServiceRow) -> tuple[bool, bool, bool, str]:
    return row.is_self, not row.has_errors, not row.has_traffic, row.name


def _totals(rows: Sequence[ServiceRow], buckets: Buckets) -> Totals:
    others = [row for row in rows if not row.is_self]
    reds = [row.red for row in others if row.red is not None and row.red.source != "samples"]
    with_ratio = [red for red in reds if red.error_ratio is not None]
    requests = sum(red.requests for red in with_ratio)
    slow = [row for row in others if row.red is not None and row.red.p95_ms is not None]
    per_bucket = [[red.rates_per_s[i] for red in reds] for i in range(buckets.count)]
    return Totals(
        services=len(others),
        services_failing=sum(row.has_errors for row in others),
        rate_per_s=sum(red.rate_per_s for red in reds) if reds else None,
        error_ratio=sum((red.error_ratio or 0) * red.requests for red in with_ratio) / requests if requests else None,
        slowest=max(slow, key=lambda row: (row.red.p95_ms or 0) if row.red else 0, default=None),
        rates_per_s=tuple(
            sum(rate for rate in rates if rate is not None) if any(rate is not None for rate in rates) else None
            for rates in per_bucket
        ),
    )
