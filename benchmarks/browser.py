"""``--only browser``: pages in headless Chromium. When each shows something, how soon data that was sent is on the
screen, and what twenty open tabs of the same page cost the server."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import websockets
from playwright.sync_api import Browser, BrowserContext

from benchmarks.baselines.key import KEY
from benchmarks.pages import ENDPOINTS, PAGES, SERVICES, SINGLE_PAGES, fill, serving
from benchmarks.payloads import request
from benchmarks.rounds import Loader, Running
from benchmarks.targets import Target, print_targets
from tests.support.browser import chromium

SAMPLES: Final = 4_000_000
QUICK_SAMPLES: Final = 400_000
PAINTS: Final = 7  # of each page, in turn, each in a browser that has cached nothing
PAINT_MUST_MS: Final = 500
PIXELS: Final = 15
PIXEL_MUST_MS: Final = 1500
PATIENCE_MS: Final = 30_000
LOOK_S: Final = 4.0  # of traffic around a look
WATCHERS: Final = (0, 1, 20)
WATCHERS_MUST: Final = 1.3
REQUESTS_PER_S: Final = 50.0  # a request a second of each service, with four samples
WATCH: Final = {"type": "watch", "url": "/?range=1h"}
PAINTED: Final = {
    **{name: paths[0] for name, paths in PAGES.items() if len(paths) == 1},
    **{name: paths[0] for name, paths in SINGLE_PAGES.items() if not paths[0].startswith("/api/")},
    "map": "/map",
}
_FIRST_PAINT: Final = """() => new Promise((resolve) => new PerformanceObserver((list) => {
  for (const entry of list.getEntriesByName("first-contentful-paint"))
    resolve([entry.startTime, performance.getEntriesByType("navigation")[0].responseStart]);
}).observe({ type: "paint", buffered: true }))"""
# The promise is of the time at which the frame with the text is over: the second frame after the change begins then.
_SHOWN: Final = """(text) => {
  const view = () => document.getElementById("view");
  window.shown = new Promise((resolve, reject) => {
    setTimeout(reject, 30_000, new Error(`${text} is not shown`));
    const observer = new MutationObserver(() => {
      if (!view().textContent.includes(text)) return;
      observer.disconnect();
      requestAnimationFrame(() => requestAnimationFrame(() => resolve(Date.now())));
    });
    observer.observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
  });
}"""


def bench_browser(rounds: int, seconds: float, work: Path, *, quick: bool) -> None:
    """Fill a folder, serve it and measure."""
    folder = work / "browser"
    asyncio.run(fill(folder, QUICK_SAMPLES if quick else SAMPLES))
    with serving(folder, _traffic) as running:
        with chromium() as browser:
            targets = _paints(browser, running) + _pixels(browser, running, PIXELS // 2 if quick else PIXELS)
        targets.append(asyncio.run(_watchers(running, rounds, seconds * 3)))
    print_targets(targets)


def _paints(browser: Browser, running: Running) -> list[Target]:
    took: dict[str, list[list[float]]] = {name: [] for name in PAINTED}
    for number in range(PAINTS + 1):
        for name, path in PAINTED.items():
            with _signed_in(browser, running) as context:
                page = context.new_page()
                page.goto(f"http://127.0.0.1:{running.port}{path}", wait_until="load")
                painted = page.evaluate(_FIRST_PAINT)
            if number:  # the first warms up
                took[name].append(painted)
    print(f"\n### Pages in headless Chromium, {SERVICES} services, nothing cached, median of {PAINTS}\n")
    print("| page | first contentful paint ms | of that until the first byte |\n| --- | --- | --- |")
    paints = {}
    for name, times in took.items():
        paints[name], first_byte_ms = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"| {name} | {paints[name]:.0f} | {first_byte_ms:.0f} |")
    slowest = max(paints, key=paints.__getitem__)
    return [
        Target(16, f"first contentful paint, the slowest page ({slowest})", paints[slowest], PAINT_MUST_MS, None, "ms")
    ]


def _pixels(browser: Browser, running: Running, looks: int) -> list[Target]:
    """Measure from a POST until what it brought is on the screen: a new service, a new metric of a service."""
    overview, service = "/?range=1h", "/services/service-07?range=1h"
    print(f"\n### From a POST to the pixel, {looks} times each\n")
    print("| page | beside | median ms | longest ms |\n| --- | --- | --- | --- |")
    targets = []
    for name, path in (("overview", overview), ("service", service)):
        for sending in (False, True):
            beside = f"{SERVICES} services that send each second" if sending else "nothing else"
            took_ms = _looks(browser, running, path, looks, sending=sending)
            print(f"| {name} | {beside} | {statistics.median(took_ms):.0f} | {max(took_ms):.0f} |")
            what = f"from a POST to the {name}'s pixel, beside {beside}, median"
            targets.append(Target(17, what, statistics.median(took_ms), PIXEL_MUST_MS, None, "ms"))
    return targets


def _looks(browser: Browser, running: Running, path: str, looks: int, *, sending: bool) -> list[float]:
    took_ms = []
    with _signed_in(browser, running) as context, ThreadPoolExecutor(1) as thread:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{running.port}{path}", wait_until="load")
        page.locator("#live[data-state=live]").wait_for()
        loader = Loader()
        try:
            for _ in range(looks):
                load = thread.submit(loader.load, running, LOOK_S, REQUESTS_PER_S) if sending else None
                page.wait_for_timeout(random.uniform(1000, 2000))  # at any time of the server's second
                name = f"pixel-{time.time_ns()}"
                page.evaluate(_SHOWN, name)
                sent = _body("service-07", metric=name) if path.startswith("/services/") else _body(name)
                sent_ms = time.time() * 1000
                _post(running, sent)
                took_ms.append(page.evaluate("window.shown") - sent_ms)
                if load is not None:
                    load.result()
        finally:
            loader.close()
    return took_ms


async def _watchers(running: Running, rounds: int, seconds: float) -> Target:
    """Measure the server's processor time beside traffic, with several numbers of tabs at one URL in turn."""
    shares: dict[int, list[float]] = {count: [] for count in WATCHERS}
    messages: dict[int, int] = dict.fromkeys(WATCHERS, 0)
    loader = Loader()
    try:
        for _ in range(rounds):
            for count in WATCHERS:
                async with _watching(running, count) as received:
                    before = sum(received)
                    load = await asyncio.to_thread(loader.load, running, seconds, REQUESTS_PER_S)
                    if min(received, default=1) < 1:
                        raise RuntimeError(f"one of {count} watchers received nothing")
                    messages[count] += sum(received) - before
                shares[count].append(load["cpu_us"] * load["requests"] / 1e6 / seconds)
    finally:
        loader.close()
    print(f"\n### Watchers of {WATCH['url']}, {SERVICES} services that send each second, ", end="")
    print(f"{rounds} rounds of {seconds:g} s\n")
    print("| watchers | processor time, share of a core | messages a second and watcher |\n| --- | --- | --- |")
    for count in WATCHERS:
        rate = f"{messages[count] / count / rounds / seconds:.2f}" if count else "–"
        print(f"| {count} | {statistics.median(shares[count]):.3f} | {rate} |")
    ratio = statistics.median(many / single for many, single in zip(shares[20], shares[1], strict=True))
    return Target(18, "processor time with 20 watchers, of that with one", ratio, WATCHERS_MUST, None)


@asynccontextmanager
async def _watching(running: Running, count: int) -> AsyncIterator[list[int]]:
    """Open tabs' sockets, and read what comes; yields how many messages each has received."""
    received = [0] * count

    async def read(number: int, socket: websockets.ClientConnection) -> None:
        async for message in socket:
            received[number] += isinstance(message, bytes)

    async with AsyncExitStack() as stack:
        url, headers = f"ws://127.0.0.1:{running.port}/ws/pages", {"X-API-Key": KEY}
        sockets = [
            await stack.enter_async_context(websockets.connect(url, additional_headers=headers, max_size=None))
            for _ in range(count)
        ]
        readers = [asyncio.create_task(read(number, socket)) for number, socket in enumerate(sockets)]
        for socket in sockets:
            await socket.send(json.dumps(WATCH))
        yield received
        for reader in readers:
            reader.cancel()


@contextmanager
def _signed_in(browser: Browser, running: Running) -> Iterator[BrowserContext]:
    """A browser that has cached nothing, with a session."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    try:
        url = f"http://127.0.0.1:{running.port}"
        context.request.post(f"{url}/login", form={"key": KEY, "next": "/"}, headers={"Origin": url}, max_redirects=0)
        yield context
    finally:
        context.close()


def _body(service: str, endpoint: int = 0, *, metric: str = "http.requests") -> bytes:
    """Return what two requests bring, as JSON: each counts in a metric and has a duration."""
    tags = {"endpoint": f"/api/things/{endpoint}", "method": "GET", "status": "200"}
    now_ms = int(time.time() * 1000)
    counted = {"metric_name": metric, "metric_type": "counter", "value": 1}
    timed = {"metric_name": "http.request.duration", "metric_type": "histogram", "value": 12.5, "unit": "ms"}
    metrics = [{**sample, "timestamp": now_ms, "tags": tags} for sample in (counted, timed) for _ in range(2)]
    return json.dumps({"service_name": service, "environment": "production", "metrics": metrics}).encode()


def _traffic(*_: object) -> list[bytes]:
    """Return a request of each service."""
    bodies = (_body(f"service-{number:02d}", number % ENDPOINTS) for number in range(SERVICES))
    return [request(body, "application/json") for body in bodies]


def _post(running: Running, body: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    connection.request("POST", "/v1/metrics", body, {"Content-Type": "application/json", "X-API-Key": KEY})
    status = connection.getresponse().status
    connection.close()
    if status != 202:
        raise RuntimeError(f"a POST was answered {status}")
