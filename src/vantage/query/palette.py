"""What the command palette finds: services, their metrics, and a trace by its id."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from vantage.query.context import QueryContext

RESULTS_MAX: Final = 20
NAMES_TTL_S: Final = 15.0
TRACE_ID_LENGTH_MIN: Final = 4
WORDS_MAX: Final = 8
Kind = Literal["service", "metric", "trace"]


@dataclass(frozen=True, slots=True)
class Hit:
    """A result: ``name`` is that of a service or a metric, or a trace's id; ``service`` is that of a metric."""

    kind: Kind
    name: str
    service: str = ""


async def find(context: QueryContext, text: str) -> list[Hit]:
    """Return up to RESULTS_MAX results whose names have every word of the text in any case: those that begin with it
    first, then services, then by name."""
    words = text.casefold().split()[:WORDS_MAX]
    if not words:
        return []
    hits: list[Hit] = []
    trace_id = text.strip()
    if len(trace_id) >= TRACE_ID_LENGTH_MIN and " " not in trace_id:
        trace = await context.store.trace(trace_id)
        if trace.spans or trace.samples:
            hits.append(Hit("trace", trace_id))
    names = await context.cache.cached(("palette",), lambda: _names(context), ttl_s=NAMES_TTL_S)
    return [*hits, *await asyncio.to_thread(_matching, names, words)][:RESULTS_MAX]


async def _names(context: QueryContext) -> list[tuple[str, Hit]]:
    """Return services and metrics, each with the text that is looked through."""
    infos = await context.store.list_series()
    services = {info.service for info in await context.store.services()}

    def collect() -> list[tuple[str, Hit]]:
        pairs = {(info.series.metric, info.series.service) for info in infos}
        hits = [Hit("service", name) for name in sorted(services)]
        hits += [Hit("metric", metric, service) for metric, service in sorted(pairs)]
        return [(f"{hit.name} {hit.service}".casefold(), hit) for hit in hits]

    return await asyncio.to_thread(collect)


def _matching(names: Sequence[tuple[str, Hit]], words: Sequence[str]) -> list[Hit]:
    matches = [(not text.startswith(words[0]), hit) for text, hit in names if all(word in text for word in words)]
    matches.sort(key=lambda entry: entry[0])  # stable: services are first, and names in order
    return [hit for _, hit in matches[:RESULTS_MAX]]
