"""``--only pages``: how long pages take, of the clock and of the processor, and what ten times the samples add."""

from __future__ import annotations

import asyncio
import http.client
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import numpy as np

from benchmarks.baselines.key import KEY
from benchmarks.payloads import RATES, vantage
from benchmarks.rounds import Running, Subject
from vantage.core.batch import Batch
from vantage.core.clock import SystemClock
from vantage.core.exemplars import NO_EXEMPLARS
from vantage.core.sample import Kind
from vantage.core.series import Series, make_series
from vantage.core.span import Span, SpanKind, SpanStatus
from vantage.storage.embedded.store import EmbeddedStore
from vantage.telemetry import Telemetry
from vantage.web.pages.service_parts import PARTS
from vantage.web.pages.vql import EXAMPLES

SIZES: Final = (400_000, 4_000_000, 20_000_000)
QUICK_SIZES: Final = (400_000, 4_000_000)
SERVICES: Final = 50
ENDPOINTS: Final = 10
DAY_MS: Final = 86_400_000
BATCH_SAMPLES: Final = 20_000
SAMPLES_PER_SPAN: Final = 100
SPANS_PER_TRACE: Final = 4
REQUESTS: Final = 9  # times each page is requested, the sizes in turn
WARM_UP: Final = 2  # times before that
RANGES: Final = ("1h", "24h", "7d")
TRACE_ID: Final = f"{7:032x}"  # of the trace that is looked at
TRACE_SPANS: Final = 300
SERVICES_API: Final = "/api/services"
BY_ENDPOINT: Final = {
    "a.service": "service-07",
    "a.metric": "http.request.duration",
    "a.agg": "p95",
    "a.by": "endpoint",
    "compare": "1d",
}
# What is requested, one after the other, without the range. NN is another service each time: parts are cached.
PAGES: Final = {
    "overview": ("/",),
    "service": ("/services/service-07",),
    "service, its parts": tuple(f"/services/service-NN/{part}" for part in PARTS),
    "traces": ("/traces",),
    "explore": (f"/explore?{urlencode(BY_ENDPOINT)}",),
}
SINGLE_PAGES: Final = {
    "trace": (f"/traces/{TRACE_ID}",),
    "VQL": (f"/vql?{urlencode({'query': EXAMPLES['Slowest endpoints of an hour']})}",),
    SERVICES_API: (SERVICES_API,),
}
NAMES: Final = [
    *((page, time_range) for page in PAGES for time_range in RANGES),
    *((page, "") for page in SINGLE_PAGES),
]
# Milliseconds at the largest size: what must be met, and the aim.
TARGETS_MS: Final = {
    ("overview", "1h"): (40, 20),
    ("overview", "24h"): (60, 30),
    ("overview", "7d"): (80, 40),
    **{(page, time_range): (50, 25) for page in ("service", "traces") for time_range in RANGES},
    (SERVICES_API, ""): (20, 5),
}
GROWTH_MUST: Final = 1.2


def _all_series() -> list[Series]:
    series = []
    for number in range(SERVICES):
        for endpoint in range(ENDPOINTS):
            tags = {"endpoint": f"/api/things/{endpoint}", "method": "GET", "status": "500" if endpoint == 9 else "200"}
            for metric, kind, unit in (
                ("http.requests", Kind.COUNTER, ""),
                ("http.request.duration", Kind.HISTOGRAM, "ms"),
            ):
                series.append(
                    make_series(
                        service=f"service-{number:02d}", environment="production", metric=metric, kind=kind, unit=unit,
                        tags=tags, service_version="1.0.0", instance="a",
                    )
                )  # fmt: skip
    return series


def _spans(rng: np.random.Generator, first_ms: int, last_ms: int, count: int) -> tuple[Span, ...]:
    spans = []
    for trace in range(count // SPANS_PER_TRACE):
        trace_id = rng.bytes(16).hex()
        start_ns = int(rng.integers(first_ms, last_ms)) * 1_000_000
        parent, route = "", f"/api/things/{trace % ENDPOINTS}"
        for depth in range(SPANS_PER_TRACE):
            span_id = rng.bytes(8).hex()
            duration_ns = int(rng.lognormal(3, 0.8) * 1e6) + 1
            spans.append(
                Span(
                    trace_id, span_id, f"service-{(trace + depth) % SERVICES:02d}", f"GET {route}",
                    start_ns + depth, duration_ns, parent, SpanKind.SERVER,
                    SpanStatus.ERROR if trace % 50 == 0 else SpanStatus.OK, "production", "1.0.0", "a",
                    {"http.route": route, "http.request.method": "GET"},
                )
            )  # fmt: skip
            parent = span_id
    return tuple(spans)


def _trace(start_ms: int) -> tuple[Span, ...]:
    """Return a trace of many spans, each a child of one before it."""
    rng = np.random.default_rng(11)
    return tuple(
        Span(
            TRACE_ID, f"{number + 1:016x}", f"service-{number % 7:02d}", f"GET /api/things/{number % ENDPOINTS}",
            (start_ms + number) * 1_000_000, (TRACE_SPANS - number) * 1_000_000,
            f"{int(rng.integers(0, number)) + 1:016x}" if number else "", SpanKind.SERVER,
            SpanStatus.ERROR if number % 50 == 49 else SpanStatus.OK, "production", "1.0.0", "a",
            {"http.route": f"/api/things/{number % ENDPOINTS}", "http.request.method": "GET"},
        )
        for number in range(TRACE_SPANS)
    )  # fmt: skip


async def fill(folder: Path, samples: int) -> float:
    """Fill a folder with a day of samples that ends now, sealed and merged as they are while a day passes, and as dense
    a day before it of the service that is compared with it; returns the seconds that filling took."""
    series = _all_series()
    compared = [item for item in series if item.service == BY_ENDPOINT["a.service"]]
    rng = np.random.default_rng(7)
    end_ms = int(time.time() * 1000)
    began_s = time.perf_counter()
    async with EmbeddedStore(folder, clock=SystemClock(), telemetry=Telemetry()) as store:
        before = _day(compared, end_ms - DAY_MS, samples // SERVICES, rng, samples_per_span=0)
        for batch in (*before, *_day(series, end_ms, samples, rng, samples_per_span=SAMPLES_PER_SPAN)):
            await store.write(batch)
        await store.write(Batch(spans=_trace(end_ms - 60_000)))
        filled_s = time.perf_counter() - began_s
        await store.seal()
        await store.merge()
    return filled_s


def _day(
    series: list[Series], end_ms: int, samples: int, rng: np.random.Generator, *, samples_per_span: int
) -> Iterator[Batch]:
    is_counter = np.array([item.kind is Kind.COUNTER for item in series])
    for first in range(0, samples, BATCH_SAMPLES):
        count = min(BATCH_SAMPLES, samples - first)
        at_ms = end_ms - DAY_MS + ((first + np.arange(count)) * (DAY_MS / samples)).astype(np.int64)
        index = rng.integers(0, len(series), count).astype(np.uint32)
        value = np.where(is_counter[index], 1.0, np.round(rng.lognormal(3, 0.8, count), 2))
        spans = count // samples_per_span if samples_per_span else 0
        yield Batch(
            tuple(series), index, at_ms, value, NO_EXEMPLARS, _spans(rng, int(at_ms[0]), int(at_ms[-1]) + 1, spans)
        )


class _Reader:
    """A server's pages over one connection, and what each request took."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=120)
        self.took_ms: dict[tuple[str, str], list[float]] = {}
        self.cpu_ms: dict[tuple[str, str], float] = {}

    def look(self, name: tuple[str, str], number: int) -> None:
        """Request a page, and what belongs to it, for the ``number``-th time. Each request is for a view of its own:
        one that others look at as well is not computed again."""
        page, time_range = name
        more = {"request": str(number), **({"range": time_range} if time_range else {})}
        before_s, began_s = self._running.cpu_s(), time.perf_counter()
        for path in (PAGES | SINGLE_PAGES)[page]:
            mark = "&" if "?" in path else "?"
            self._get(f"{path.replace('NN', f'{10 + number}')}{mark}{urlencode(more)}")
        if number >= WARM_UP:
            self.took_ms.setdefault(name, []).append((time.perf_counter() - began_s) * 1000)
            used_ms = (self._running.cpu_s() - before_s) * 1000
            self.cpu_ms[name] = self.cpu_ms.get(name, 0.0) + used_ms / REQUESTS

    def _get(self, path: str) -> None:
        self._connection.request("GET", path, headers={"X-API-Key": KEY, "Accept": "text/html, application/json"})
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {body[:300]!r}")


@contextmanager
def serving(folder: Path, requests: Callable[..., list[bytes]] = lambda *_: []) -> Iterator[Running]:
    """A server of a folder that has been filled, and the requests to load it with."""
    environ = {**RATES, "VANTAGE_API_RATE_LIMIT": "0"}
    running = Running(Subject("pages", lambda port: vantage(folder, port), requests, 0, environ),
                      folder.with_suffix(".log"))  # fmt: skip
    try:
        time.sleep(3.0)
        yield running
    finally:
        running.stop()


def bench_pages(work: Path, *, quick: bool) -> None:
    sizes = QUICK_SIZES if quick else SIZES
    filled_s = {size: asyncio.run(fill(work / f"pages-{size}", size)) for size in sizes}
    with ExitStack() as stack:
        servers = {size: stack.enter_context(serving(work / f"pages-{size}")) for size in sizes}
        readers = {size: _Reader(server) for size, server in servers.items()}
        for name in NAMES:
            for number in range(WARM_UP + REQUESTS):
                for reader in readers.values():
                    reader.look(name, number)
        resident = {size: server.watched.memory_info().rss for size, server in servers.items()}
    print(f"\n### 14 Pages: {SERVICES} services, samples of a day, warm, median of {REQUESTS} in turn, in ms\n")
    print("In brackets the server's processor time, the mean; growth is of that.\n")
    print("| page | range | " + " | ".join(f"{size / 1e6:g} M" for size in sizes) + " | growth | must | aim |")
    print("| --- | --- | " + "--- | " * len(sizes) + "--- | --- | --- |")
    for name in NAMES:
        times = [statistics.median(reader.took_ms[name]) for reader in readers.values()]
        used = [reader.cpu_ms[name] for reader in readers.values()]
        growth = max(later / earlier for earlier, later in pairwise(used))
        cells = " | ".join(f"{took:.1f} ({cpu:.0f})" for took, cpu in zip(times, used, strict=True))
        must_ms, aim_ms = TARGETS_MS.get(name, (0, 0))
        limits = [f"≤ {limit}: {'met' if times[-1] <= limit else '**missed**'}" for limit in (must_ms, aim_ms) if limit]
        row = f"| {name[0]} | {name[1]} | {cells} | {growth:.2f} (must ≤ {GROWTH_MUST}) "
        print(row + f"| {' | '.join(limits or ['–', '–'])} |")
    for size in sizes:
        print(
            f"\n{size / 1e6:g} M: filled in {filled_s[size]:.0f} s, {resident[size] / 1e6:.0f} MB resident after them"
        )
