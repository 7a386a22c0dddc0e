"""Alerts in a browser: acknowledged on a phone, and a rule that is previewed, backtested and saved in its editor."""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import chromium, looking, needs_chromium
from tests.support.load import NO_RATES
from tests.support.server import Server, serving
from tests.support.wait import wait_until
from vantage.core.clock import SystemClock

pytestmark = needs_chromium
PHONE = {"width": 390, "height": 844}
RULE = {
    "name": "queue is long",
    "condition": {"kind": "threshold", "value": {"of": "metric", "service": "api", "metric": "queue"}, "above": 10},
    "for": "0s",
    "every": "5s",
    "severity": "critical",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("alerts") / "data", environ=NO_RATES) as server:
        now_ms = SystemClock().now_ms()
        samples = [
            {"metric_name": "queue", "metric_type": "gauge", "value": 50.0, "timestamp": now_ms - 1000 * n}
            for n in range(120)
        ]
        server.send({"service_name": "api", "environment": "prod", "metrics": samples})
        saved = server.send(RULE, "/api/alerts/rules")
        assert saved.status == 201, saved.body
        wait_until(lambda: server.get("/api/alerts?rule=queue%20is%20long").json()["alerts"], timeout_s=30)
        yield server
        assert "Traceback" not in server.output, server.output


def test_an_alert_is_acknowledged_and_resolved_on_a_phone(browser: Browser, server: Server) -> None:
    with looking(browser, viewport=PHONE) as page:
        page.goto(server.url + "/alerts?rule=queue+is+long", wait_until="load")
        card = page.locator("article", has_text="queue is long")
        button = card.get_by_role("button", name="Acknowledge")
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 44
        card.get_by_label("Note on queue is long").fill("on it")
        button.click()
        page.wait_for_url("**/alerts?rule=queue+is+long")
        expect(card.get_by_text("acknowledged")).to_be_visible()
        expect(card).to_contain_text("local: on it")
        card.get_by_role("link", name="queue is long").click()
        page.get_by_role("heading", name="What happened").wait_for()
        page.get_by_role("button", name="Resolve").click()
        expect(page.locator(".head .alert-state")).to_have_text("resolved")


def test_alerts_can_be_acted_on_without_a_script(browser: Browser, server: Server) -> None:
    context = browser.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(server.url + "/alerts/rules/queue is long", wait_until="load")
        page.get_by_role("button", name="Preview").click()
        expect(page.locator("#preview")).to_contain_text("would fire")
        page.get_by_role("button", name="Backtest over 7 days").click()
        expect(page.locator("#backtest")).to_contain_text("evaluations")
    finally:
        context.close()


def test_a_rule_is_written_in_the_editor(browser: Browser, server: Server) -> None:
    with looking(browser, viewport={"width": 1440, "height": 900}) as page:
        page.goto(server.url + "/alerts/rules/new?kind=metric&service=api", wait_until="load")
        page.get_by_label("Metric", exact=True).fill("queue")
        page.get_by_label("Fires above").fill("20")
        page.get_by_label("Name", exact=True).fill("queue is very long")
        page.get_by_label("Name", exact=True).press("Tab")
        expect(page.locator("#preview")).to_contain_text("1 of 1 would fire")
        expect(page.locator("#preview")).to_contain_text("above: 20.0")
        page.get_by_label("Back at").fill("30")
        page.get_by_label("Back at").press("Tab")
        expect(page.locator("#preview")).to_contain_text("contradicts the limit")
        page.get_by_label("Back at").fill("15")
        page.get_by_role("button", name="Backtest over 7 days").click()
        expect(page.locator("#backtest")).to_contain_text("evaluations")
        assert server.get("/api/alerts/rules/queue%20is%20very%20long").status == 404
        page.get_by_role("button", name="Save").click()
        page.wait_for_url("**/alerts/rules/queue%20is%20very%20long")
        expect(page.locator("#preview")).to_contain_text("1 of 1 would fire")
    stored = server.get("/api/alerts/rules/queue%20is%20very%20long").json()["rule"]
    assert json.dumps(stored["condition"]["recover"]) == "15.0"
