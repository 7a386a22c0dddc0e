"""``make screenshots``: the pictures of README.md, of a server in a temporary folder with the demo's traffic."""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlencode

from playwright.sync_api import Browser

from benchmarks.payloads import vantage
from benchmarks.rounds import Running, Subject
from tests.support.browser import CHROMIUM, chromium
from vantage.demo import run_demo

IMAGES: Final = Path(__file__).resolve().parents[1] / "docs" / "images"
SEED: Final = 7
SERVICE: Final = "checkout"
HISTORY_S_MAX: Final = 300.0
LIVE_S: Final = 45.0  # of traffic after the history, so that the latest buckets are full as well
SETTLE_MS: Final = 2500
EXPLORE: Final = {
    "range": "1h",
    "a.service": SERVICE,
    "a.metric": "http.request.duration",
    "a.agg": "p95",
    "a.by": "endpoint",
    "compare": "1h",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A page as it is shown: ``size`` in CSS pixels, ``scale`` in device pixels of each, more than one on a phone."""

    name: str
    path: str
    scheme: Literal["light", "dark"]
    size: tuple[int, int] = (1440, 900)
    scale: int = 1


def main() -> int:
    if CHROMIUM is None:
        print("vantage: pictures need Chromium: apt-get install chromium", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="vantage-screenshots-") as folder,
        _demo(Path(folder)) as port,
        chromium() as browser,
    ):
        trace_id = _trace_to_show(port)
        for picture in (
            Picture("overview", "/?range=1h", "light"),
            Picture("service", f"/services/{SERVICE}?range=1h", "dark"),
            Picture("trace", f"/traces/{trace_id}", "light", (1440, 1180)),
            Picture("explore", f"/explore?{urlencode(EXPLORE)}", "light"),
            Picture("map", "/map?range=1h", "dark"),
            Picture("overview-phone", "/?range=1h", "dark", (390, 844), 2),
        ):
            _take(browser, port, picture)
    return 0


@contextmanager
def _demo(folder: Path) -> Iterator[int]:
    """A server with the demo's history and live traffic; yields its port."""
    environ = {"VANTAGE_LOG_LEVEL": "warning"}
    server = Subject("screenshots", lambda port: vantage(folder / "data", port), lambda *_: b"", 0, environ)
    running, stop = Running(server, folder / "server.log"), threading.Event()
    url = f"http://127.0.0.1:{running.port}"
    traffic = threading.Thread(target=run_demo, args=(url,), kwargs={"api_key": None, "stop": stop, "seed": SEED})
    try:
        traffic.start()
        began_ms, deadline_s = time.time() * 1000, time.monotonic() + HISTORY_S_MAX
        # The latest of the history is from before the traffic began: what is later is live.
        while _last_seen_ms(running.port) < began_ms + 2000:
            if time.monotonic() > deadline_s or not traffic.is_alive():
                raise RuntimeError("the demo sends no live traffic")
            time.sleep(0.5)
        time.sleep(LIVE_S)
        yield running.port
    finally:
        stop.set()
        traffic.join()
        running.stop()


def _last_seen_ms(port: int) -> float:
    services = _get(port, "/api/services")["services"]
    return max((service["last_seen"] for service in services if service["name"] == SERVICE), default=0.0)


def _get(port: int, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status} {body[:300]!r}")
    return json.loads(body)


def _trace_to_show(port: int) -> str:
    """Return the id of a trace with many spans, one of which failed."""
    traces = _get(port, f"/api/traces?service={SERVICE}&status=error&limit=50")["traces"]
    return str(max(traces, key=lambda trace: trace["spans"])["trace_id"])


def _take(browser: Browser, port: int, picture: Picture) -> None:
    width, height = picture.size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        device_scale_factor=picture.scale,
        color_scheme=picture.scheme,
        is_mobile=picture.scale > 1,
    )
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{port}{picture.path}", wait_until="load")
    page.wait_for_timeout(SETTLE_MS)  # charts, parts, and the first update
    file = IMAGES / f"{picture.name}.png"
    page.screenshot(path=file, animations="disabled", caret="hide")
    context.close()
    print(f"{file.relative_to(IMAGES.parents[1])}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
