"""The page of a service in a real browser: a heatmap for pointer and keys, parts that load when they come into view,
routes that are sorted without a new page, and nothing that needs more room than a phone has."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import chromium, looking, needs_chromium
from tests.support.server import Server, serving
from tests.support.wait import BUSY_S

WITHIN_MS = 2000 + BUSY_S * 1000
HOSTILE = "<img src=x onerror=\"document.title='run'\">\u202e"
PATH = "/services/shop?range=1h"
STACK = 'Traceback (most recent call last):\n  File "/srv/app/pay.py", line 4, in pay\n    raise KeyError("card")'
READOUT = re.compile(r"\d\d:\d\d – \d\d:\d\d, .+ – .+: [\d.k]+ requests?")

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("service-page") / "data") as server:
        fill(server)
        yield server
        assert "Traceback (most recent call last)" not in server.output, server.output


def fill(server: Server) -> None:
    """An hour of requests of three routes with a trace each, some of which failed, and the figures of a process."""
    now_ms = int(time.time() * 1000)
    metrics: list[dict[str, Any]] = []
    spans: list[dict[str, Any]] = []
    for number in range(300):
        at_ms, took_ms, route = now_ms - number * 11_000, 5 + (number * 37) % 400, f"/r{number % 3}"
        tags = {"http.route": route, "http.request.method": "GET", "status": "500" if number % 20 == 0 else "200"}
        duration = {"metric_name": "http.request.duration", "metric_type": "histogram", "unit": "ms"}
        metrics.append({**duration, "value": took_ms, "timestamp": at_ms, "tags": tags})
        cpu = {"metric_name": "process.cpu.percent", "metric_type": "gauge", "unit": "%"}
        metrics.append({**cpu, "value": number % 50, "timestamp": at_ms})
        span: dict[str, Any] = {"trace_id": f"shop-{number}", "span_id": "a", "name": f"GET {route}", "kind": "server"}
        span |= {"start_ns": at_ms * 1_000_000, "duration_ns": took_ms * 1_000_000, "status": "ok"}
        if number % 20 == 0:
            exception = {"exception.type": HOSTILE, "exception.message": "no card", "exception.stacktrace": STACK}
            span |= {"status": "error", "attributes": {"http.route": route, **exception}}
        spans.append(span)
    assert server.send({"service_name": "shop", "instance": "host-1", "metrics": metrics}).status == 202
    assert server.send({"service_name": "shop", "spans": spans}, "/v1/spans").status == 202


def parameters(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def test_dragging_over_the_heatmap_leads_to_the_traces_of_that_time_and_duration(
    browser: Browser, server: Server
) -> None:
    with looking(browser) as page:
        page.goto(server.url + PATH)
        canvas = page.locator(".heat-canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box is not None
        left, top = box["x"] + 58, box["y"] + 6
        width, height = box["width"] - 70, box["height"] - 26
        page.mouse.move(left + width * 0.5, top + height * 0.4)
        expect(page.locator(".heat-readout")).to_have_text(READOUT, timeout=WITHIN_MS)
        page.mouse.down()
        page.mouse.move(left + width * 0.9, top + height * 0.05, steps=3)
        page.mouse.up()
        page.wait_for_url("**/traces?**", timeout=WITHIN_MS)
        wanted = parameters(page.url)
        assert wanted["service"] == "shop"
        length_ms = int(wanted["end"]) - int(wanted["start"])
        assert 0.3 * 3_600_000 < length_ms < 0.5 * 3_600_000
        low_ms, high_ms = (int(wanted[name].removesuffix("ms")) for name in ("min_duration", "max_duration"))
        assert 5 < low_ms < high_ms
        expect(page.locator("main")).to_contain_text("GET /r", timeout=WITHIN_MS)


def test_the_heatmap_is_for_the_keyboard_too(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + PATH)
        page.locator(".heat-canvas").focus()
        expect(page.locator(".heat-readout")).to_contain_text("Arrow keys choose a cell")
        for key in ("ArrowUp", "ArrowUp", "ArrowLeft"):
            page.keyboard.press(key)
        expect(page.locator(".heat-readout")).to_contain_text(" – ")
        page.keyboard.press("Escape")
        expect(page.locator(".heat-readout")).to_contain_text("Arrow keys choose a cell")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Enter")
        page.wait_for_url("**/traces?**", timeout=WITHIN_MS)
        assert parameters(page.url)["service"] == "shop"


def test_parts_load_as_they_come_into_view_and_an_opened_one_stays_open(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + PATH)
        exceptions = page.locator("[data-part*='/exceptions']")
        exceptions.scroll_into_view_if_needed()
        expect(exceptions).to_contain_text("15 failed spans", timeout=WITHIN_MS)
        exceptions.locator("summary").first.click()
        expect(exceptions.locator("pre")).to_contain_text('raise KeyError("card")')
        expect(exceptions.locator(".failure-type")).to_have_text(HOSTILE)
        for name, text in (("traces", "Slowest"), ("deployments", "No version is known"), ("runtime", "host-1")):
            part = page.locator(f"[data-part*='/{name}?']")
            part.scroll_into_view_if_needed()
            expect(part).to_contain_text(text, timeout=WITHIN_MS)
        # What is new leads to an update of the view, which leaves parts and what is open in them alone.
        now = {"metric_name": "orders", "metric_type": "counter", "value": 1, "timestamp": int(time.time() * 1000)}
        assert server.send({"service_name": "shop", "metrics": [now]}).status == 202
        expect(page.locator(".metric-name", has_text="orders")).to_have_count(1, timeout=WITHIN_MS)
        expect(exceptions.locator("details[open] pre")).to_have_count(1)
        # Another range is another part.
        page.get_by_role("link", name="15m", exact=True).click()
        expect(page.locator("[data-part*='/exceptions?range=15m']")).to_contain_text("failed span", timeout=WITHIN_MS)


def test_routes_are_sorted_and_searched_in_the_url(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + PATH)
        routes = page.locator("#routes")
        routes.locator("th a", has_text="Route").click()
        expect(routes.locator("th[aria-sort=ascending]")).to_have_text("Route", timeout=WITHIN_MS)
        expect(routes.locator("a.route").first).to_have_text("/r0")
        routes.locator("th a", has_text="Route").click()
        expect(routes.locator("th[aria-sort=descending]")).to_have_text("Route", timeout=WITHIN_MS)
        assert parameters(page.url)["dir"] == "desc"
        expect(routes.locator("a.route").first).to_have_text("/r2")
        routes.get_by_label("Find a route").fill("R1")
        page.keyboard.press("Enter")
        expect(routes.locator("a.route")).to_have_text(["/r1"], timeout=WITHIN_MS)
        assert parameters(page.url)["route"] == "R1"
        assert parameters(page.url)["dir"] == "desc"


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_nothing_is_wider_than_the_screen(browser: Browser, server: Server, width: int) -> None:
    with looking(browser, viewport={"width": width, "height": 900}, color_scheme="dark") as page:
        page.goto(server.url + PATH)
        for name in ("exceptions", "traces", "deployments", "runtime"):
            part = page.locator(f"[data-part*='/{name}?']")
            part.scroll_into_view_if_needed()
            expect(part.locator("[data-label], .nothing, details").first).to_be_attached(timeout=WITHIN_MS)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_without_a_script_parts_are_pages(browser: Browser, server: Server) -> None:
    with looking(browser, java_script_enabled=False) as page:
        page.goto(server.url + PATH)
        expect(page.locator(".heat-table")).to_contain_text("As a table")
        page.locator("[data-part*='/exceptions'] a").click()
        expect(page.locator("main")).to_contain_text("15 failed spans")
        expect(page.locator("h1")).to_have_text("Exceptions")
