"""``--only pages``: how long pages take, and what ten times the samples add to that."""

from __future__ import annotations

import asyncio
import http.client
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Final

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

SIZES: Final = (400_000, 4_000_000, 20_000_000)
QUICK_SIZES: Final = (400_000, 4_000_000)
SERVICES: Final = 50
ENDPOINTS: Final = 10
DAY_MS: Final = 86_400_000
BATCH_SAMPLES: Final = 20_000
SAMPLES_PER_SPAN: Final = 100
SPANS_PER_TRACE: Final = 4
REQUESTS: Final = 7  # times each page is requested, after twice to warm up
RANGES: Final = ("1h", "24h", "7d")
PAGES: Final = {"overview": "/", "service": "/services/service-07", "traces": "/traces"}
SERVICES_API: Final = "/api/services"
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


async def _fill(folder: Path, samples: int) -> float:
    """Fill a folder with a day of samples that ends now, sealed and merged as they are while a day passes; returns the
    seconds that filling took."""
    series = tuple(_all_series())
    is_counter = np.array([item.kind is Kind.COUNTER for item in series])
    rng = np.random.default_rng(7)
    end_ms = int(time.time() * 1000)
    began_s = time.perf_counter()
    async with EmbeddedStore(folder, clock=SystemClock(), telemetry=Telemetry()) as store:
        for first in range(0, samples, BATCH_SAMPLES):
            count = min(BATCH_SAMPLES, samples - first)
            at_ms = end_ms - DAY_MS + ((first + np.arange(count)) * (DAY_MS / samples)).astype(np.int64)
            index = rng.integers(0, len(series), count).astype(np.uint32)
            value = np.where(is_counter[index], 1.0, np.round(rng.lognormal(3, 0.8, count), 2))
            spans = _spans(rng, int(at_ms[0]), int(at_ms[-1]) + 1, count // SAMPLES_PER_SPAN)
            await store.write(Batch(series, index, at_ms, value, NO_EXEMPLARS, spans))
        filled_s = time.perf_counter() - began_s
        await store.seal()
        await store.merge()
    return filled_s


class _Asker:
    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def get(self, path: str) -> tuple[float, int]:
        """Return the milliseconds that a response took, and its size in bytes."""
        began_s = time.perf_counter()
        self._connection.request("GET", path, headers={"X-API-Key": KEY, "Accept": "text/html, application/json"})
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {body[:300]!r}")
        return (time.perf_counter() - began_s) * 1000, len(body)


def _ask(port: int) -> dict[tuple[str, str], float]:
    asker = _Asker(port)
    paths = {(page, time_range): f"{path}?range={time_range}" for page, path in PAGES.items() for time_range in RANGES}
    paths[SERVICES_API, ""] = SERVICES_API
    took: dict[tuple[str, str], float] = {}
    for name, path in paths.items():
        # Each request is for a view of its own: one that others look at as well is not computed again.
        mark = "&" if "?" in path else "?"
        times = [asker.get(f"{path}{mark}request={number}")[0] for number in range(REQUESTS + 2)][2:]
        took[name] = statistics.median(times)
    return took


def bench_pages(work: Path, *, quick: bool) -> None:
    sizes = QUICK_SIZES if quick else SIZES
    results: dict[int, dict[tuple[str, str], float]] = {}
    facts = []
    for size in sizes:
        folder = work / f"pages-{size}"
        filled_s = asyncio.run(_fill(folder, size))
        subject = Subject("pages", lambda port, folder=folder: vantage(folder, port), lambda *_: b"", 0,
                          {**RATES, "VANTAGE_API_RATE_LIMIT": "0"})  # fmt: skip
        running = Running(subject, work / "pages.log")
        try:
            time.sleep(3.0)
            results[size] = _ask(running.port)
            facts.append((size, filled_s, running.watched.memory_info().rss))
        finally:
            running.stop()
    print(f"\n### 14 Pages: {SERVICES} services, samples of a day, warm, median of {REQUESTS}, in ms\n")
    print("| page | range | " + " | ".join(f"{size / 1e6:g} M" for size in sizes) + " | growth | must | aim |")
    print("| --- | --- | " + "--- | " * len(sizes) + "--- | --- | --- |")
    for name, (must_ms, aim_ms) in TARGETS_MS.items():
        times = [results[size][name] for size in sizes]
        growth = max(later / earlier for earlier, later in pairwise(times))
        met = "met" if times[-1] <= must_ms else "**missed**"
        print(
            f"| {name[0]} | {name[1]} | " + " | ".join(f"{took:.1f}" for took in times)
            + f" | {growth:.2f} (must ≤ {GROWTH_MUST}) | ≤ {must_ms}: {met} | ≤ {aim_ms} |"
        )  # fmt: skip
    for size, filled_s, resident in facts:
        print(f"\n{size / 1e6:g} M: filled in {filled_s:.0f} s, {resident / 1e6:.0f} MB resident after the pages")
