"""List services, their metrics, and the values of a tag."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vantage.core.red import MINUTE_MS
from vantage.core.red_table import RedQuery
from vantage.core.semconv import DURATION, REQUESTS
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.storage.ports import SeriesInfo, ServiceInfo
from vantage.vql.tree import And, Call, Column, Compare, Literal, Select, SelectItem, equals

SELF: Final = "vantage"  # the service under which Vantage reports itself
RATE_WINDOW_MS: Final = 300_000
TAG_VALUES_MAX: Final = 1000
TAG_PAIRS_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Service:
    """A monitored application. ``request_rate_per_s`` is over the last five minutes; None without request data."""

    name: str
    environments: tuple[str, ...]
    versions: tuple[str, ...]
    first_ms: int
    last_ms: int
    samples: int
    spans: int
    request_rate_per_s: float | None


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a service, with the tag keys of its series."""

    name: str
    kind: str
    unit: str
    tag_keys: tuple[str, ...]
    series: int
    samples: int
    last_ms: int


async def services(context: QueryContext) -> list[Service]:
    """Return every service that has samples or spans, by name."""
    infos = await context.store.services()
    rates = await _request_rates(context)
    return await asyncio.to_thread(_list_services, infos, rates)


async def has_data(context: QueryContext, *, service: str) -> bool:
    """Return whether there are samples or spans of a service."""
    return bool(await context.store.services(service=service))


async def first_data_ms(context: QueryContext, *, service: str = "", now_ms: int) -> int:
    """Return the time of the first data of a service, or of any but Vantage itself where there is any; ``now_ms``
    without data."""
    infos = await context.store.services(service=service)
    others = [info for info in infos if service or info.service != SELF] or infos
    return min((info.first_ms for info in others), default=now_ms)


def _list_services(infos: Sequence[ServiceInfo], rates: Mapping[str, float]) -> list[Service]:
    collected: dict[str, _Collected] = {}
    for info in infos:
        totals = collected.setdefault(info.service, _Collected(info.first_ms, info.last_ms))
        totals.add(info.environment, info.service_version, info.first_ms, info.last_ms)
        totals.samples += info.samples
        totals.spans += info.spans
    return [
        Service(
            name,
            tuple(sorted(totals.environments)),
            tuple(sorted(totals.versions)),
            totals.first_ms,
            totals.last_ms,
            totals.samples,
            totals.spans,
            rates.get(name),
        )
        for name, totals in sorted(collected.items())
    ]


class _Collected:
    def __init__(self, first_ms: int, last_ms: int) -> None:
        self.first_ms, self.last_ms = first_ms, last_ms
        self.environments: set[str] = set()
        self.versions: set[str] = set()
        self.samples = 0
        self.spans = 0

    def add(self, environment: str, version: str, first_ms: int, last_ms: int) -> None:
        self.environments.add(environment)
        if version:
            self.versions.add(version)
        self.first_ms, self.last_ms = min(self.first_ms, first_ms), max(self.last_ms, last_ms)


async def _request_rates(context: QueryContext) -> dict[str, float]:
    """Return requests per second by service: of the counter ``http.requests`` where it is sent, else of durations."""
    end_ms = context.clock.now_ms() + 1
    start_ms = (end_ms - RATE_WINDOW_MS) // MINUTE_MS * MINUTE_MS
    table = await context.red(RedQuery(TimeRange(start_ms, end_ms), MINUTE_MS))
    if table is not None:
        requests = {
            (table.groups[group].source, table.groups[group].service): count
            for group, count in zip(table.totals.group.tolist(), table.totals.requests.tolist(), strict=True)
        }
        rates = {service: count for (source, service), count in requests.items() if source == "durations"}
        rates |= {service: count for (source, service), count in requests.items() if source == "requests"}
        return {service: count * 1000 / (end_ms - start_ms) for service, count in rates.items()}
    since = Compare(">=", Column("timestamp"), Literal(end_ms - 1 - RATE_WINDOW_MS))
    rates = {}
    for metric, total in ((DURATION, Call("count")), (REQUESTS, Call("sum", (Column("value"),)))):
        rows = await context.select(
            "services",
            Select(
                "metrics",
                (SelectItem(Column("service_name"), "service"), SelectItem(total, "requests")),
                where=And((equals("metric_name", metric), since)),
                group_by=(Column("service_name"),),
            ),
        )
        rates |= {service: count * 1000 / RATE_WINDOW_MS for service, count in rows.rows()}
    return rates


async def metrics(context: QueryContext, service: str) -> list[Metric]:
    """Return the metrics of a service, by name. A metric sent with several kinds or units appears once for each."""
    return await asyncio.to_thread(_list_metrics, await context.store.list_series(service=service))


def _list_metrics(infos: Sequence[SeriesInfo]) -> list[Metric]:
    facts: dict[tuple[str, str, str], tuple[set[str], Counter[str]]] = {}
    last_ms: dict[tuple[str, str, str], int] = {}
    for info in infos:
        key = (info.series.metric, info.series.kind.value, info.series.unit)
        tag_keys, counts = facts.setdefault(key, (set(), Counter()))
        tag_keys.update(name for name, _ in info.series.tags)
        counts["series"] += 1
        counts["samples"] += info.samples
        last_ms[key] = max(last_ms.get(key, 0), info.last_ms)
    return [
        Metric(*key, tuple(sorted(tag_keys)), counts["series"], counts["samples"], last_ms[key])
        for key, (tag_keys, counts) in sorted(facts.items())
    ]


async def tag_values(context: QueryContext, *, service: str, metric: str, key: str) -> Sequence[tuple[str, int]]:
    """Return up to TAG_VALUES_MAX values of a tag and the number of series of each, the most frequent first."""
    infos = await context.store.list_series(service=service, metric=metric)
    return await asyncio.to_thread(_count_values, infos, key)


async def tag_pairs(context: QueryContext, *, service: str, metric: str) -> Sequence[str]:
    """Return the tags of a metric's series as ``key:value``, in order, TAG_PAIRS_MAX at most."""
    infos = await context.store.list_series(service=service, metric=metric)

    def collect() -> list[str]:
        return sorted({f"{key}:{value}" for info in infos for key, value in info.series.tags})[:TAG_PAIRS_MAX]

    return await asyncio.to_thread(collect)


def _count_values(infos: Sequence[SeriesInfo], key: str) -> Sequence[tuple[str, int]]:
    counts: Counter[str] = Counter()
    for info in infos:
        if value := info.series.tag(key):
            counts[value] += 1
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:TAG_VALUES_MAX]
