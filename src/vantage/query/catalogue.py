"""What there is: services, their metrics, the values of a tag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vantage.core.sample import TAG_VERSION
from vantage.query.context import QueryContext
from vantage.vql.tree import And, Call, Column, Compare, Literal, Select, SelectItem, equals

RATE_WINDOW_MS: Final = 300_000
TAG_VALUES_MAX: Final = 1000
REQUESTS: Final = "http.requests"
DURATION: Final = "http.request.duration"


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


async def services(reads: QueryContext) -> list[Service]:
    """Every service that samples or spans are held of, by name."""
    found: dict[str, _Collected] = {}
    for info in await reads.store.list_series():
        one = info.series
        held = found.setdefault(one.service, _Collected(info.first_ms, info.last_ms))
        held.add(one.environment, one.tag(TAG_VERSION), info.first_ms, info.last_ms)
        held.samples += info.samples
    for spans in await reads.store.services_with_spans():
        held = found.setdefault(spans.service, _Collected(spans.first_ms, spans.last_ms))
        held.add(spans.environment, spans.service_version, spans.first_ms, spans.last_ms)
        held.spans += spans.spans
    rates = await _request_rates(reads)
    return [
        Service(
            name,
            tuple(sorted(held.environments)),
            tuple(sorted(held.versions)),
            held.first_ms,
            held.last_ms,
            held.samples,
            held.spans,
            rates.get(name),
        )
        for name, held in sorted(found.items())
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


async def _request_rates(reads: QueryContext) -> dict[str, float]:
    """Requests a second: the counter ``http.requests`` where a service sends it, else the number of durations."""
    since = Compare(">=", Column("timestamp"), Literal(reads.clock.now_ms() - RATE_WINDOW_MS))
    rates: dict[str, float] = {}
    for metric, total in ((DURATION, Call("count")), (REQUESTS, Call("sum", (Column("value"),)))):
        table = await reads.select(
            "services",
            Select(
                "metrics",
                (SelectItem(Column("service_name"), "service"), SelectItem(total, "requests")),
                where=And((equals("metric_name", metric), since)),
                group_by=(Column("service_name"),),
            ),
        )
        rates |= {service: requests * 1000 / RATE_WINDOW_MS for service, requests in table.rows()}
    return rates


async def metrics(reads: QueryContext, service: str) -> list[Metric]:
    """The metrics of a service, by name. A metric sent with several kinds or units appears once for each."""
    found: dict[tuple[str, str, str], tuple[set[str], Counter[str]]] = {}
    last: dict[tuple[str, str, str], int] = {}
    for info in await reads.store.list_series(service=service):
        key = (info.series.metric, info.series.kind.value, info.series.unit)
        tag_keys, counts = found.setdefault(key, (set(), Counter()))
        tag_keys.update(name for name, _ in info.series.tags)
        counts["series"] += 1
        counts["samples"] += info.samples
        last[key] = max(last.get(key, 0), info.last_ms)
    return [
        Metric(*key, tuple(sorted(tag_keys)), counts["series"], counts["samples"], last[key])
        for key, (tag_keys, counts) in sorted(found.items())
    ]


async def tag_values(reads: QueryContext, *, service: str, metric: str, key: str) -> Sequence[tuple[str, int]]:
    """The values of a tag and how many series have each, the most frequent first; a thousand at most."""
    counts: Counter[str] = Counter()
    for info in await reads.store.list_series(service=service, metric=metric):
        if value := info.series.tag(key):
            counts[value] += 1
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:TAG_VALUES_MAX]
