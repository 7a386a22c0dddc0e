"""Every page, with the demo's data and with names full of markup: it fits three screens in both themes, its console is
quiet, nothing serious is wrong with it for those who cannot see or use a mouse, and it stays small."""

from __future__ import annotations

import gzip
import json
import random
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import chromium, looking, needs_chromium
from tests.support.npm_package import file_of_package
from tests.support.server import Server, serving, vantage
from tests.support.wait import wait_until

pytestmark = needs_chromium

AXE = "axe-core@4.14.1"
FOLLOW_MS = 3000
DEBUG = {"VANTAGE_INGEST_RATE_LIMIT": "0", "VANTAGE_DEBUG": "true", "VANTAGE_LOG_LEVEL": "warning"}
WIDTHS = (1440, 820, 390)
HOSTILE = [
    "<b onmouseover=window.attacked=1>bold</b>",
    "'\"><img src=x onerror=window.attacked=1>",
    "שלום עולם",
    "🦊 fox",
    " ",
]
EXPLORE = "/explore?range=1h&a.service=checkout&a.metric=http.request.duration&a.by=endpoint&compare=1d"
VQL = "/vql?query=SELECT+service_name%2C+count()+AS+n+FROM+metrics+GROUP+BY+service_name&range=1h"
PAGES = {
    "overview": "/?range=1h",
    "service": "/services/checkout?range=1h",
    "service of nothing": "/services/vantage?range=5m",
    "health": "/services/checkout/health",
    "health of nothing": "/services/vantage/health?window=1h",
    "what changed": "/changes?range=15m",
    "what changed in a service": "/changes?range=15m&service=checkout&against=before",
    "compare": "/compare?service=checkout&form=versions",
    "comparison": "COMPARISON",
    "anomalies": "/anomalies?range=7d",
    "alerts": "/alerts",
    "alert": "ALERT",
    "alert rules": "/alerts/rules",
    "alert rule": "/alerts/rules/everything%20is%20slow",
    "alert rule as YAML": "/alerts/rules/everything%20is%20slow?as=yaml",
    "new alert rule": "/alerts/rules/new?kind=metric",
    "SLOs": "/alerts/slos",
    "SLO": "/alerts/slos/checkout%20answers",
    "checks": "/alerts/checks",
    "check": "/alerts/checks/home",
    "heartbeat": "/alerts/heartbeats/nightly",
    "alert noise": "/alerts/noise?range=7d",
    "channels": "/alerts/channels?kind=email",
    "silences": "/alerts/silences",
    "notices": "/alerts/notifications",
    "map": "/map?range=1h",
    "explore": EXPLORE,
    "explore of nothing": "/explore?range=5m&a.service=checkout&a.metric=nothing&formula=(",
    "vql": VQL,
    "traces": "/traces?range=1h",
    "traces of nobody": "/traces?range=1h&service=nobody&min_duration=slow",
    "trace": "TRACE",
    "settings": "/settings",
    "pipeline": "/pipeline",
    "hostile trace": "/traces/hostile",
    "style guide": "/styleguide",
    "what slow traces have in common": "/traces?range=1h&compare=slow",
    "flame graph": "TRACE?view=flame",
    "search in a trace": "TRACE?q=cart&only=errors",
    "not there": "/nowhere",
    "login": "/login",
}
SCRIPT_NBYTES_MAX = 60_000
SCRIPT_NBYTES_MAX_OF = {"vql": 200_000}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("pages") / "data", environ=DEBUG) as server:
        sent = vantage("demo", "--once", "--url", server.url)
        assert sent.returncode == 0, sent.stderr
        send_hostile(server)
        set_alerts(server)
        yield server
        assert "Traceback" not in server.output, server.output


def set_alerts(server: Server) -> None:
    """Save a rule that fires for every service, the hostile ones too, and something of each other kind."""
    value = {"of": "requests", "figure": "p95", "by": "endpoint"}
    rule = {"name": "everything is slow", "for": "0s", "every": "5s", "severity": "critical", "window": "1h"}
    condition = {"kind": "threshold", "value": value, "above": 0.001}
    for path, method, body in (
        ("/api/alerts/rules", "POST", {**rule, "condition": condition}),
        ("/api/slos/checkout%20answers", "PUT", {"slo": {"name": "checkout answers", "service": "checkout"}}),
        ("/api/checks/home", "PUT", {"check": {"name": "home", "url": "https://shop.invalid/", "service": HOSTILE[0]}}),
        ("/api/heartbeats/nightly", "PUT", {"heartbeat": {"name": "nightly", "service": HOSTILE[1]}}),
    ):
        saved = server.request(method, path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        assert saved.status in (200, 201), saved.body
    wait_until(lambda: server.get("/api/alerts?state=firing").json()["alerts"], timeout_s=30)


def send_hostile(server: Server) -> None:
    now_ns = time.time_ns()
    for number, name in enumerate(HOSTILE):
        service = name if name.strip() else "blank tags"
        tags = {"http.route": name, "http.request.method": "GET"}
        metric = {"metric_name": "http.request.duration", "metric_type": "histogram", "value": 5, "tags": tags}
        span = {"trace_id": "hostile", "span_id": f"s{number}", "name": name, "start_ns": now_ns, "duration_ns": 10**6}
        span |= {"kind": "server", "status": "error", "attributes": {name: name, "http.route": name}}
        server.send({"service_name": service, "environment": "demo", "metrics": [metric]})
        server.send({"service_name": service, "environment": "demo", "spans": [span]}, "/v1/spans")


@pytest.fixture(scope="module")
def axe() -> str:
    return file_of_package(AXE, "axe.min.js", "axe").read_text()


def path_of(name: str, server: Server) -> str:
    path = PAGES[name]
    if path == "COMPARISON":
        versions = {"baseline_service": "checkout", "candidate_version": "2.5.0", "time_start": "now-6h"}
        path = f"/compare/{json.loads(server.send(versions, '/compare/services').body)['id']}"
    if path == "ALERT":
        path = f"/alerts/{server.get('/api/alerts?service=checkout').json()['alerts'][0]['id']}"
    if path.startswith("TRACE"):
        trace_id = server.get("/api/traces?service=checkout&limit=1").json()["traces"][0]["trace_id"]
        path = path.replace("TRACE", f"/traces/{trace_id}")
    return path


def too_wide(page: Page) -> list[str]:
    """Return what makes the page scroll sideways; charts have a moment to follow their width."""
    for _ in range(FOLLOW_MS // 50):
        if page.evaluate("document.documentElement.scrollWidth <= innerWidth"):
            return []
        page.wait_for_timeout(50)
    beyond = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)"
    texts: list[str] = page.evaluate(
        f"{beyond}.map(e => `${{e.tagName}}.${{e.className}} ${{e.textContent.slice(0, 60)}}`)"
    )
    return texts


def findings(page: Page) -> list[str]:
    """Return what axe holds against the page, of impact serious or critical."""
    result: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['impact']}: {violation['id']}: {node['html'][:160]}"
        for violation in result["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_fit_for_people(browser: Browser, server: Server, axe: str, name: str) -> None:
    quiet = name not in ("not there", "login")  # a browser reports the status of these as an error
    with looking(browser, viewport={"width": 1440, "height": 900}, quiet=quiet) as page:
        scripts: dict[str, int] = {}
        page.on("response", lambda answer: weigh(answer, scripts))
        page.goto(server.url + path_of(name, server), wait_until="load")
        page.wait_for_timeout(300)
        assert page.title()
        assert page.locator("h1").count() == 1
        page.evaluate(axe)
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                assert (wide := too_wide(page)) == [], f"{theme} at {width}: {wide}"
            assert not findings(page), f"{theme} at {width}"
            page.set_viewport_size({"width": 1440, "height": 900})
        assert not findings(page)
        assert page.evaluate("window.attacked") is None
        assert sum(scripts.values()) <= SCRIPT_NBYTES_MAX_OF.get(name, SCRIPT_NBYTES_MAX), scripts


def weigh(answer: Any, scripts: dict[str, int]) -> None:
    if answer.request.resource_type == "script":
        assert re.search(r"\?v=[0-9a-f]{12}$", answer.url), answer.url
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers.get("content-encoding") == "gzip" or len(answer.body()) < 1000
        scripts[answer.url] = len(gzip.compress(answer.body()))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_reads_without_scripts(browser: Browser, server: Server, name: str) -> None:
    with looking(browser, java_script_enabled=False, quiet=False) as page:
        page.goto(server.url + path_of(name, server), wait_until="load")
        assert len(page.locator("body").inner_text()) > 40
        assert page.locator("script:not([src])").count() == 0
        assert page.locator("[style]").count() == 0


def test_every_service_of_the_demo_has_its_page(browser: Browser, server: Server) -> None:
    names = [item["name"] for item in server.get("/api/services").json()["services"] if item["name"] != "vantage"]
    assert len(names) >= 5
    with looking(browser) as page:
        page.goto(server.url + "/?range=6h", wait_until="load")
        for name in names:
            page.get_by_text(name).first.wait_for()


def test_the_first_page_with_fifty_services_is_small(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("small") / "data", environ={"VANTAGE_INGEST_RATE_LIMIT": "0"}) as server:
        now_ms = int(time.time() * 1000)
        for number in range(50):
            metrics = [
                {"metric_name": "http.request.duration", "metric_type": "histogram", "unit": "ms",
                 "value": 5 + (i * 7919 + number * 104729) % 90, "timestamp": now_ms - i * 20_000,
                 "tags": {"http.route": f"/r{i % 10}", "status": "500" if i % 17 == 0 else "200"}}
                for i in range(150)
            ]  # fmt: skip
            assert server.send({"service_name": f"service-{number:02d}", "metrics": metrics}).status == 202
        page = server.get("/?range=1h", **{"Accept": "text/html", "Accept-Encoding": "gzip"})
        assert page.headers["content-encoding"] == "gzip"
        assert len(page.body) <= 30_000


VALUES = (
    "", " ", "0", "-1",
    "1e400", "9" * 30, "NaN", "now-1h", "now-9999999d", "2026-01-01", "1h", "7d", "5 parsecs", "a:b",
    ":", "[",
    "\\", "'", '"', "%", "\x00", "\udcff", "\u202e", "🦊", "<script>", "../../etc/passwd", "x" * 3000, "true", "*",
)  # fmt: skip
PARAMETERS = (
    "range", "start", "end", "exact", "service", "operation", "status", "min_duration", "max_duration", "attribute",
    "q", "cursor", "compare", "view", "span", "at", "fold", "all", "page", "clocks", "only", "sort", "dir", "route",
    "metric", "a.service", "a.metric", "a.agg", "a.by", "a.tag", "a.where", "b.service", "b.metric", "formula", "query",
    "explain", "format", "before", "trace_id", "next", "limit", "window", "environment", "weights", "against",
)  # fmt: skip
ROUNDS = 12


def test_whatever_an_address_asks_is_answered_and_never_fails(server: Server) -> None:
    seed = int(time.time())
    chance = random.Random(seed)
    paths = [path_of(name, server).partition("?")[0] for name in PAGES]
    paths += [f"/services/checkout/{part}" for part in ("exceptions", "traces", "deployments", "runtime", "nothing")]
    paths += [
        "/explore/data",
        "/vql/data",
        "/palette",
        "/services/%00",
        "/services/%FF",
        "/services/%00/health",
        "/traces/%3Cb%3E",
    ]
    for path in sorted(set(paths)):
        for _ in range(ROUNDS):
            chosen = chance.sample(PARAMETERS, chance.randint(1, 5))
            query = urlencode([(name, chance.choice(VALUES)) for name in chosen], errors="surrogateescape")
            answer = server.get(f"{path}?{query}", Accept="text/html")
            assert answer.status < 500, f"seed {seed}: {path}?{query}: {answer.status} {answer.body[:300]!r}"
            if answer.status in (200, 400, 404) and answer.headers["content-type"].startswith("text/html"):
                assert b"<script>" not in answer.body, f"seed {seed}: {path}?{query}"


def test_the_slow_route_leads_to_its_trace(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/?range=1h", wait_until="load")
        page.locator("#services").get_by_role("link", name="checkout", exact=True).click()
        page.wait_for_url("**/services/checkout*")
        page.locator(".routes").get_by_role("link", name="p95").first.click()
        page.wait_for_url("**sort=p95*")
        page.locator(".routes tbody tr").first.get_by_role("link").first.click()
        page.wait_for_url("**/traces?*")
        page.locator("a[href^='/traces/']").first.click()
        page.get_by_role("heading", name="Where the time went").wait_for()


def test_a_route_and_a_figure_of_a_process_lead_to_explore(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/services/checkout?range=1h", wait_until="load")
        page.get_by_role("link", name="Explore /orders").click()
        page.locator("#question-a input[value='http.request.duration']").wait_for()
        page.locator(".chart canvas").first.wait_for()
        page.goto(server.url + "/services/checkout/runtime?range=1h", wait_until="load")
        page.locator("th .link").first.click()
        page.locator(".chart canvas").first.wait_for()


def test_a_selected_part_of_a_chart_is_the_same_view_at_its_address(browser: Browser, server: Server) -> None:
    with looking(browser, viewport={"width": 1440, "height": 900}) as page:
        page.goto(server.url + "/services/checkout?range=1h", wait_until="load")
        box = page.locator("#chart-requests .u-over").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 40, steps=4)
        page.mouse.up()
        page.wait_for_url("**start=*end=*")
        shown, address = page.locator(".tiles").inner_text(), page.url
    with looking(browser, viewport={"width": 1440, "height": 900}) as page:
        page.goto(address, wait_until="load")
        assert page.locator(".tiles").inner_text() == shown


def test_a_point_of_a_chart_leads_to_its_traces(browser: Browser, server: Server) -> None:
    with looking(browser, viewport={"width": 1440, "height": 900}) as page:
        page.goto(server.url + "/services/checkout?range=1h", wait_until="load")
        page.locator("#chart-duration .u-legend").get_by_role("button", name="p99").click()
        page.locator("#chart-duration .u-series.u-off").first.wait_for()
        page.locator("#chart-duration .chart").focus()
        for key in ("ArrowLeft", "ArrowLeft", "ArrowLeft", "Enter"):
            page.keyboard.press(key)
        page.get_by_role("link", name=re.compile("· trace ")).first.click()
        page.wait_for_url(re.compile(r"/traces/[0-9a-f]+$"))
