"""``--only map``: the service map from edges that are kept, against a join of the spans of the range, in CPU time."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from vantage.core.batch import Batch
from vantage.core.clock import SystemClock
from vantage.core.span import Span, SpanKind, SpanStatus
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.ports import ServiceEdges
from vantage.storage.service_edges import service_edges, whole_buckets, with_parents
from vantage.telemetry import Telemetry

HOUR_MS: Final = 3_600_000
SERVICES: Final = 50
LOOKS: Final = 9
SIZES: Final = ((40_000, 1), (100_000, 4), (200_000, 20))  # spans of a day, and generations
RANGES_MS: Final = {"15 min": HOUR_MS // 4, "1 h": HOUR_MS, "24 h": 24 * HOUR_MS, "7 d": 7 * 24 * HOUR_MS}
_STEP_NS: Final = 1_000_000


def bench_map(work: Path, *, quick: bool) -> None:
    """Measure both, interleaved, on a store in this process."""
    print("\n### The service map\n")
    print("| spans of a day, generations | range | kept, CPU ms | joined, CPU ms | ratio |")
    print("| --- | --- | --- | --- | --- |")
    for spans, generations in SIZES[:1] if quick else SIZES:
        asyncio.run(_bench(work / f"map-{spans}", spans, generations))


async def _bench(folder: Path, spans: int, generations: int) -> None:
    clock = SystemClock()
    now_ms = clock.now_ms()
    async with EmbeddedStore(folder, clock=clock, telemetry=Telemetry(), synchronous="NORMAL") as store:
        waiting: list[Span] = []
        written = 0
        for trace in _traces(spans, now_ms):
            waiting += trace
            if len(waiting) >= spans // generations // 4:
                await store.write(Batch(spans=tuple(waiting)))
                written, waiting = written + 1, []
                if written % 4 == 0:
                    await store.seal()
        await store.write(Batch(spans=tuple(waiting)))
        for name, length_ms in RANGES_MS.items():
            time_range = TimeRange(now_ms - length_ms, now_ms)
            kept_ms, joined_ms = [], []
            for _ in range(LOOKS):
                began_s = time.process_time()
                stored = await store.edges(time_range)
                kept_ms.append((time.process_time() - began_s) * 1000)
                joined = _join_of(store, stored.time_range)
                began_s = time.process_time()
                again = await asyncio.to_thread(joined)
                joined_ms.append((time.process_time() - began_s) * 1000)
                assert {edge.calls for edge in again.edges} == {edge.calls for edge in stored.edges}
            first, second = statistics.median(kept_ms), statistics.median(joined_ms)
            print(f"| {spans}, {generations} | {name} | {first:.1f} | {second:.1f} | {first / second:.2f} |")


def _join_of(store: EmbeddedStore, time_range: TimeRange) -> Callable[[], ServiceEdges]:
    """Return a function that joins the spans of a range, as a folder of an earlier version has it done."""

    def join() -> ServiceEdges:
        with store._reader(store._budget(60.0), samples=False) as reader:
            return service_edges(reader.spans(with_parents(time_range)), whole_buckets(time_range, width_ms=300_000))

    return join


class _Trace:
    """A trace whose spans start a millisecond apart."""

    def __init__(self, chance: random.Random, start_ms: int) -> None:
        self._chance = chance
        self._start_ms = start_ms
        self._trace_id = f"{chance.getrandbits(128):032x}"
        self.spans: list[Span] = []

    def add(self, service: int, kind: SpanKind, parent: str, **attributes: str) -> str:
        """Add a span and return its id."""
        chance = self._chance
        span = Span(
            self._trace_id,
            f"{chance.getrandbits(64):016x}",
            f"service-{service}",
            "GET /",
            (self._start_ms + len(self.spans)) * _STEP_NS,
            chance.randrange(1, 200 * _STEP_NS),
            parent_span_id=parent,
            kind=kind,
            status=SpanStatus.ERROR if chance.random() < 0.02 else SpanStatus.OK,
            environment="prod",
            attributes=attributes,
        )
        self.spans.append(span)
        return span.span_id


def _traces(spans: int, now_ms: int) -> Iterator[list[Span]]:
    """Yield traces of six spans over a day: a request, two calls that are answered, and one of a database."""
    chance = random.Random(5)
    for start_ms in sorted(now_ms - chance.randrange(24 * HOUR_MS) for _ in range(spans // 6)):
        trace = _Trace(chance, start_ms)
        caller = chance.randrange(SERVICES)
        root = trace.add(caller, SpanKind.SERVER, "")
        for _ in range(2):
            callee = (caller * 7 + chance.randrange(4) + 1) % SERVICES
            call = trace.add(caller, SpanKind.CLIENT, root, **{"server.address": f"service-{callee}"})
            trace.add(callee, SpanKind.SERVER, call)
        trace.add(caller, SpanKind.CLIENT, root, **{"db.system.name": "postgresql"})
        yield trace.spans
