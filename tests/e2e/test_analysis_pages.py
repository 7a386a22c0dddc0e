"""Health and what changed in a real browser: from the overview to the reasons, and from a chart to what moved."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import chromium, looking, needs_chromium
from tests.support.server import Server, serving
from tests.support.wait import BUSY_S

WITHIN_MS = 2000 + BUSY_S * 1000

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("analysis-pages") / "data") as server:
        fill(server)
        yield server
        assert "Traceback (most recent call last)" not in server.output, server.output


def fill(server: Server) -> None:
    """Eight hours of steady requests, of which a tenth fails in the last ten minutes."""
    now_ms = int(time.time() * 1000)
    metrics: list[dict[str, Any]] = []
    for ago in range(8 * 60):
        for status, count in (("200", 540), ("503", 60)) if ago < 10 else (("200", 600),):
            sample = {"metric_name": "http.requests", "metric_type": "counter", "value": count + ago % 5}
            metrics.append({**sample, "timestamp": now_ms - ago * 60_000 - 1000, "tags": {"status": status}})
    assert server.send({"service_name": "shop", "metrics": metrics}).status == 202


def test_a_bad_score_leads_to_its_reasons_and_their_queries(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/?range=1h")
        row = page.locator("#service-shop")
        expect(row).to_contain_text("requests failed", timeout=WITHIN_MS)
        row.get_by_role("link", name=re.compile(r"Health \d+ degraded: why")).click()
        page.wait_for_url("**/services/shop/health", timeout=WITHIN_MS)
        errors = page.locator("[data-factor=error_rate]")
        expect(errors.locator(".health-figure strong")).to_have_text(re.compile(r"^\d+$"))
        errors.get_by_role("link", name="Open").click()
        page.wait_for_url("**/vql?**", timeout=WITHIN_MS)
        expect(page.locator("table").first).to_contain_text("failed", timeout=WITHIN_MS)


def test_a_point_of_a_chart_leads_to_what_changed_there(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/services/shop?range=1h")
        chart = page.locator("#chart-errors .chart")
        chart.locator("canvas").wait_for(timeout=WITHIN_MS)
        chart.focus()
        for key in ("End", "ArrowLeft", "ArrowLeft", "Enter"):
            page.keyboard.press(key)
        page.get_by_role("link", name="What changed here").click()
        page.wait_for_url("**/changes?**service=shop", timeout=WITHIN_MS)
        expect(page.locator(".moved").filter(has_text="errors").first).to_be_visible()
        page.locator(".moved summary").first.click()
        expect(page.locator(".moved-body").first).to_contain_text("effect = ")
