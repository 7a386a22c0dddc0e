"""Anomalies end to end: the server learns from what is stored, and its pages show and explain what it noticed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from tests.e2e.test_every_page import AXE, WIDTHS, findings, too_wide
from tests.support.browser import chromium, looking, needs_chromium
from tests.support.npm_package import file_of_package
from tests.support.samples import a_series
from tests.support.server import Server, serving
from tests.support.wait import wait_until
from vantage.core.batch import build_batch
from vantage.core.clock import SystemClock
from vantage.storage.embedded.store import EmbeddedStore
from vantage.telemetry import Telemetry

pytestmark = needs_chromium
STEP_MS = 300_000
POINTS = 3 * 288
HOSTILE = "<img src=x onerror=window.attacked=1>\u202e🦊"


async def fill(folder: Path) -> None:
    """Store three days of a metric of two services, with a peak in the last hours."""
    end_ms = time.time_ns() // 1_000_000 // STEP_MS * STEP_MS
    rng = np.random.default_rng(1)
    async with EmbeddedStore(folder, clock=SystemClock(), telemetry=Telemetry()) as store:
        for service in ("shop", HOSTILE):
            value = 100 + 30 * np.sin(2 * np.pi * np.arange(POINTS) / 288) + rng.normal(0, 2, POINTS)
            value[-30:-20] = 500
            series = a_series(service, "queue.depth", unit="jobs")
            rows = [(series, end_ms - (POINTS - i) * STEP_MS + 1000, float(v)) for i, v in enumerate(value)]
            await store.write(build_batch(rows))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("anomalies") / "data"
    data.mkdir()
    with ThreadPoolExecutor(1) as thread:  # this one may have a loop, of the browser
        thread.submit(lambda: asyncio.run(fill(data))).result()
    with serving(data, environ={"VANTAGE_SELF_TELEMETRY": "false"}) as server:
        wait_until(lambda: len(server.get("/api/anomalies?start=now-7d").json()["anomalies"]) >= 2, timeout_s=60)
        yield server
        assert "Traceback" not in server.output, server.output


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def axe() -> str:
    return file_of_package(AXE, "axe.min.js", "axe").read_text()


def test_from_the_timeline_to_the_explanation(browser: Browser, server: Server, axe: str) -> None:
    with looking(browser, viewport={"width": 1440, "height": 900}) as page:
        page.goto(server.url + "/anomalies?range=7d", wait_until="load")
        page.evaluate(axe)
        assert page.locator(".timeline-row").count() == 2
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                assert too_wide(page) == [], f"{theme} at {width}"
            assert findings(page) == []
        page.set_viewport_size({"width": 1440, "height": 900})
        page.locator(".timeline-row .mark").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/anomalies/*")
        page.locator(".chart canvas").wait_for()
        page.evaluate(axe)
        assert page.get_by_role("heading", name="queue.depth").count() == 1
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert too_wide(page) == [], f"at {width}"
        assert findings(page) == []
        assert page.evaluate("window.attacked") is None


def test_explore_shades_what_was_expected(browser: Browser, server: Server) -> None:
    with looking(browser) as page, page.expect_response("**/api/anomalies/band?*") as answer:
        page.goto(server.url + "/explore?range=24h&a.service=shop&a.metric=queue.depth&a.agg=avg", wait_until="load")
        band = answer.value.json()
    assert len(band["anomalies"]) == 1
    assert band["low"][-1] < 130
    assert {len(band[name]) for name in ("times", "values", "expected", "low", "high")} == {len(band["times"])}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("?limit=0", 400),
        ("?start=x", 400),
        ("/band?service=shop&figure=x", 400),
        ("/band?service=shop&figure=rate&start=now-60d", 400),
        ("/band?service=nobody&figure=rate", 404),
        ("/band?service=shop&figure=metric&metric=nothing", 200),
        ("/forecast?service=shop&figure=metric&metric=queue.depth&limit=1e9", 200),
        ("/forecast?service=shop&figure=metric&metric=queue.depth&limit=nan", 400),
        ("/forecast?service=shop&figure=metric&metric=queue.depth&limit=5&hours=999", 400),
        ("/forecast?service=shop&figure=rate&limit=5", 400),
        ("/999999", 404),
        ("/99999999999999999999999", 404),
    ],
)
def test_parameters_may_be_anything(server: Server, path: str, status: int) -> None:
    assert server.get(f"/api/anomalies{path}").status == status
