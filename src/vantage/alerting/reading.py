"""What rules read in one evaluation: each thing once, however many rules want it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from cachetools import LRUCache

from vantage.core.alert_rule import MetricValue, Ratio, Rule, Threshold
from vantage.core.red_table import RedQuery
from vantage.core.rollup import HOUR_MS
from vantage.core.sample import OVERFLOW
from vantage.core.timerange import TimeRange
from vantage.query.anomaly_watch import AnomalyRows
from vantage.query.catalogue import SELF
from vantage.query.context import QueryContext

DAY_TTL_MS: Final = 60_000
LASTING_MAX: Final = 4000  # results that one evaluation leaves for later ones
T = TypeVar("T")
Shape = tuple[str, str, tuple[str, ...], tuple[str, ...], str, int]  # of a MetricValue and window, but for the service


def shape_of(value: MetricValue, window_ms: int) -> Shape:
    """Return what values have in common that one query can read for all their services."""
    return value.metric, value.agg, value.group_by, value.tags, value.where, window_ms


@dataclass(slots=True)
class Lasting:
    """What stays from one evaluation to the next. ``anomalies`` are those of modes that are not the server's."""

    anomalies: dict[str, AnomalyRows] = field(default_factory=dict)
    _results: LRUCache[Hashable, tuple[int, Any]] = field(default_factory=lambda: LRUCache(LASTING_MAX))

    async def cached(self, key: Hashable, load: Callable[[], Awaitable[T]], *, now_ms: int, ttl_ms: int) -> T:
        """Return a result that is younger than ``ttl_ms``, or load it."""
        entry = self._results.get(key)
        if entry is not None and 0 <= now_ms - entry[0] < ttl_ms:
            result: T = entry[1]
            return result
        result = await load()
        self._results[key] = (now_ms, result)
        return result


class Reading:
    """One evaluation, at a time of the data's clock. Rules given at the start share queries."""

    def __init__(
        self, context: QueryContext, *, at_ms: int, rules: Iterable[Rule] = (), lasting: Lasting | None = None
    ) -> None:
        self.context = context
        self.at_ms = at_ms
        self.lasting = lasting or Lasting()
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}
        self._services: dict[Shape, set[str]] = {}
        for rule in rules:
            for value in _metric_values(rule):
                self._services.setdefault(shape_of(value, rule.window_ms), set()).add(value.service)

    async def once(self, key: Hashable, load: Callable[[], Awaitable[T]]) -> T:
        """Return the result of the first call with this key; its error is that of all."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(_started(load))
        result: T = await asyncio.shield(task)
        return result

    def close(self) -> None:
        """Cancel what still runs."""
        for task in self._tasks.values():
            if not task.done():
                task.cancel()
            elif not task.cancelled():
                task.exception()  # seen

    def window(self, length_ms: int) -> TimeRange:
        """Return the window that ends now."""
        return TimeRange(max(0, self.at_ms - length_ms) + 1, self.at_ms + 1)

    def services_of(self, value: MetricValue, window_ms: int) -> set[str]:
        """Return the services whose values are of the same shape, this one among them."""
        return self._services.get(shape_of(value, window_ms), set()) | {value.service}

    async def first_seen_ms(self) -> Mapping[str, int]:
        """Return the time of the first data of each service."""

        async def load() -> Mapping[str, int]:
            first: dict[str, int] = {}
            for info in await self.context.store.services():
                first[info.service] = min(first.get(info.service, info.first_ms), info.first_ms)
            return first

        return await self.once("first seen", load)

    async def last_seen_ms(self) -> Mapping[str, int]:
        """Return the time of the latest data of each service."""

        async def load() -> Mapping[str, int]:
            last: dict[str, int] = {}
            for info in await self.context.store.services():
                last[info.service] = max(last.get(info.service, 0), info.last_ms)
            return last

        return await self.once("last seen", load)

    async def last_requests_ms(self) -> Mapping[str, int]:
        """Return the time of the latest data of each service that has had requests in the last day."""

        async def load() -> Mapping[str, int]:
            end_ms = (self.at_ms // HOUR_MS + 1) * HOUR_MS
            query = RedQuery(TimeRange(end_ms - 25 * HOUR_MS, end_ms), HOUR_MS, with_bucket_quantiles=False)
            table = await self.lasting.cached(
                ("requests of a day",), lambda: self.context.red(query), now_ms=self.at_ms, ttl_ms=DAY_TTL_MS
            )
            services = {group.service for group in table.groups if group.source != "samples"} if table else set()
            last = await self.last_seen_ms()
            return {name: last[name] for name in services if name in last and name not in (SELF, OVERFLOW)}

        return await self.once("last requests", load)


async def _started(load: Callable[[], Awaitable[T]]) -> T:
    return await load()


def _metric_values(rule: Rule) -> list[MetricValue]:
    condition = rule.condition
    values = []
    if isinstance(condition, Threshold):
        values = [condition.value]
    elif isinstance(condition, Ratio):
        values = [condition.part, condition.total]
    return [value for value in values if isinstance(value, MetricValue)]
