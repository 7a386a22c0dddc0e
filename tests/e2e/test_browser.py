"""The pages in a real browser: live, quiet on the console, readable on a phone and in the dark, behind a key."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import chromium, looking, needs_chromium
from tests.support.server import Server, serving
from tests.support.wait import BUSY_S, wait_until

LIVE_WITHIN_MS = 2000 + BUSY_S * 1000

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("browser") / "data") as server:
        send_traffic(server, "shop")
        yield server
        assert "Traceback" not in server.output, server.output


def send_traffic(server: Server, service: str, *, headers: dict[str, str] | None = None) -> None:
    """A minute of requests with a trace each, the last of them an error."""
    now_ms = int(time.time() * 1000)
    metrics, spans = [], []
    tags = {"http.route": "/buy", "http.request.method": "GET"}
    for i in range(60):
        trace_id, at_ms, took_ms = f"{service}-{i}", now_ms - i * 1000, 20 + i
        duration = {"metric_name": "http.server.request.duration", "metric_type": "histogram", "unit": "ms"}
        metrics.append({**duration, "value": took_ms, "timestamp": at_ms, "tags": tags, "trace_id": trace_id})
        span = {"trace_id": trace_id, "span_id": "a", "name": "GET /buy", "kind": "server"}
        times = {"start_ns": at_ms * 1_000_000, "duration_ns": took_ms * 1_000_000}
        spans.append({**span, **times, "status": "error" if i == 0 else "ok"})
    named = {name.replace("-", "_"): value for name, value in (headers or {}).items()}
    assert server.send({"service_name": service, "metrics": metrics}, **named).status == 202
    assert server.send({"service_name": service, "spans": spans}, "/v1/spans", **named).status == 202


def open_overview(page: Page, server: Server, **headers: str) -> None:
    """Return when the page is loaded and its socket is the only one the server has."""

    def sockets() -> float:
        return server.counts(**headers)["vantage_api_websocket_connections"]

    page.goto("about:blank")
    wait_until(lambda: sockets() == 0)
    page.goto(server.url + "/", wait_until="load")
    wait_until(lambda: sockets() == 1)


def test_the_overview_shows_a_new_service_within_two_seconds_without_navigating(
    browser: Browser, server: Server
) -> None:
    with looking(browser) as page:
        open_overview(page, server)
        page.get_by_text("shop").first.wait_for()
        page.evaluate("window.sameDocument = true")
        send_traffic(server, "brand-new")
        page.get_by_text("brand-new").first.wait_for(timeout=LIVE_WITHIN_MS)
        assert page.evaluate("window.sameDocument"), "the page was loaded again"


def test_the_overview_stays_well_while_data_flows(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/", wait_until="load")
        for _ in range(8):
            send_traffic(server, "flowing")
            page.wait_for_timeout(250)
        page.get_by_text("flowing").first.wait_for(timeout=LIVE_WITHIN_MS)


def lightness(page: Page) -> float:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    canvas = """colour => { const c = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        c.fillStyle = colour; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3) }"""
    return sum(page.evaluate(canvas, colour)) / (3 * 255)


def test_the_dark_is_dark_and_the_light_is_light(browser: Browser, server: Server) -> None:
    for scheme, low, high in (("dark", 0.0, 0.35), ("light", 0.8, 1.0)):
        with looking(browser, color_scheme=scheme) as page:
            page.goto(server.url + "/")
            assert low <= lightness(page) <= high, scheme


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_reader_chooses_the_other_theme_and_keeps_it(browser: Browser, server: Server, scheme: str) -> None:
    line = """() => {
        const canvas = document.querySelector("#chart-requests canvas");
        const probe = document.body.appendChild(document.createElement("span"));
        probe.style.color = "var(--chart-rate)";
        const wanted = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        for (let i = 0; i < data.length; i += 4)
            if (data[i + 3] > 250 && wanted.every((part, j) => Math.abs(data[i + j] - part) <= 6)) return true;
        return false;
    }"""
    with looking(browser, color_scheme=scheme) as page:
        page.goto(server.url + "/services/shop", wait_until="load")
        before = lightness(page)
        page.locator("#theme").click()
        assert abs(lightness(page) - before) > 0.5
        page.reload(wait_until="load")
        assert abs(lightness(page) - before) > 0.5, "the choice is lost"
        page.wait_for_function(line, timeout=3000)  # the chart has its line in the colour of this theme


def test_every_link_of_the_overview_leads_somewhere(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/")
        links = page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")
        for link in sorted({link.partition("#")[0] for link in links if link.startswith(server.url)}):
            answer = page.goto(link)
            assert answer is not None
            assert answer.status == 200, link


def test_a_trace_is_found_from_the_listing(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/traces?service=shop")
        page.locator("a[href*='/traces/shop-']").first.click()
        page.wait_for_url("**/traces/shop-*")
        page.get_by_text("GET /buy").first.wait_for()


def test_what_was_sent_is_text_and_never_markup(browser: Browser, server: Server) -> None:
    attack = "<img src=x onerror=window.attacked=1>"
    now_ns = time.time_ns()
    span = {
        "trace_id": "markup",
        "span_id": "a",
        "name": attack,
        "start_ns": now_ns,
        "duration_ns": 10**6,
        "kind": "server",
    }
    service = "<b onmouseover=window.attacked=1>bold"
    recorded = server.send(
        {"service_name": service, "service_version": attack, "spans": [{**span, "attributes": {attack: attack}}]},
        "/v1/spans",
    )
    assert recorded.json()["accepted"] == 1, recorded
    with looking(browser) as page:
        for path in ("/", "/traces", "/traces/markup", "/services", "/map", "/explore"):
            page.goto(server.url + path, wait_until="load")
            page.wait_for_timeout(200)
            assert page.evaluate("window.attacked") is None
            assert page.locator("img[src=x]").count() == 0


def test_an_address_that_is_not_there_is_a_page_for_people(browser: Browser, server: Server) -> None:
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        answer = page.goto(server.url + "/nowhere")
        assert answer is not None
        assert answer.status == 404
        assert page.locator("h1").count() == 1


def test_the_first_page_of_an_empty_folder_shows_vantage_itself(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    started = time.monotonic()
    with serving(tmp_path_factory.mktemp("empty") / "data") as server, looking(browser) as page:
        page.goto(server.url + "/", wait_until="load")
        page.locator("a[href*='/services/vantage']").first.wait_for()
        assert time.monotonic() - started < 12 + BUSY_S


def test_the_page_comes_back_by_itself_after_a_restart_of_the_server(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tmp_path_factory.mktemp("restart") / "data"
    context = browser.new_context()
    page = context.new_page()
    with serving(data) as server:
        port = str(server.address[1])
        open_overview(page, server)
        page.evaluate("window.sameDocument = true")
        server.kill()
        page.get_by_text("The connection to Vantage was lost at").wait_for()
    with serving(data, "--port", port) as server:
        send_traffic(server, "after-restart")

        def is_shown() -> bool:
            send_traffic(server, "after-restart")
            page.wait_for_timeout(200)
            return page.get_by_text("after-restart").count() > 0

        wait_until(is_shown)
        assert page.evaluate("window.sameDocument")
        page.get_by_text("The connection to Vantage was lost at").wait_for(state="hidden")
    context.close()


# ---- behind a key


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("guarded") / "data", environ={"VANTAGE_API_KEY": "k3y"}) as server:
        send_traffic(server, "secret-shop", headers={"X-API-Key": "k3y"})
        yield server


def test_signing_in_leads_back_to_where_one_wanted_to_be(browser: Browser, guarded: Server) -> None:
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto(guarded.url + "/traces?service=secret-shop")
        assert "/login?next=%2Ftraces%3Fservice%3Dsecret-shop" in page.url
        assert "secret-shop-" not in page.content()
        field = page.locator("input[name=key]")
        assert field.get_attribute("type") == "password"
        field.fill("wrong")
        page.keyboard.press("Enter")
        page.wait_for_load_state()
        assert "/login" in page.url
        assert not [cookie for cookie in context.cookies() if cookie["name"] == "vantage_session"]
        page.locator("input[name=key]").fill("k3y")
        page.keyboard.press("Enter")
        page.wait_for_url("**/traces?service=secret-shop")
        page.locator("a[href*='/traces/secret-shop-']").first.wait_for()

        (cookie,) = [cookie for cookie in context.cookies() if cookie["name"] == "vantage_session"]
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Lax", False)
        assert "k3y" not in cookie["value"]

        open_overview(page, guarded, **{"X-API-Key": "k3y"})
        send_traffic(guarded, "live-behind-key", headers={"X-API-Key": "k3y"})
        page.get_by_text("live-behind-key").first.wait_for(timeout=LIVE_WITHIN_MS)

        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/login")
        page.goto(guarded.url + "/")
        assert "/login" in page.url


@pytest.mark.parametrize(
    "target", ["//evil.example.com", "https://evil.example.com", "/\\evil.example.com", "javascript:alert(1)"]
)
def test_signing_in_never_leads_elsewhere(guarded: Server, target: str) -> None:
    form = f"key=k3y&next={target}".encode()
    answer = guarded.request("POST", "/login", form, {"Content-Type": "application/x-www-form-urlencoded"})
    assert (answer.status, answer.headers["location"]) == (303, "/")


def test_a_session_is_no_licence_for_other_origins(guarded: Server) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = guarded.request("POST", "/login", b"key=k3y", form)
    cookie = answer.headers["set-cookie"].partition(";")[0]
    assert guarded.request("GET", "/api/services", headers={"Cookie": cookie}).status == 200
    for tampered in (cookie[:-1] + ("0" if cookie[-1] != "0" else "1"), cookie.replace("env.", "adm."), cookie + "0"):
        assert guarded.request("GET", "/api/services", headers={"Cookie": tampered}).status == 401
    foreign = {"Cookie": cookie, "Origin": "https://evil.example.com"}
    assert guarded.request("DELETE", "/api/data?service=secret-shop", headers=foreign).status == 403
    assert guarded.request("DELETE", "/api/data?service=secret-shop", headers={"Cookie": cookie}).status == 403
    own = {"Cookie": cookie, "Origin": guarded.url}
    assert guarded.request("DELETE", "/api/data?service=nobody", headers=own).status == 200


# ---- Explore and the map


def test_a_question_is_put_together_shared_and_asked_again_as_text(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/explore?range=15m", wait_until="load")
        page.locator("#question-a select[name='a.service']").select_option("shop")
        page.locator("#metrics-a option[value='http.server.request.duration']").wait_for(state="attached")
        metric = page.locator("#question-a input[name='a.metric']")
        metric.fill("http.server.request.duration")
        metric.dispatch_event("change")
        page.get_by_text("http.route").first.click()
        page.get_by_text("http.route=/buy").first.wait_for()
        page.locator(".chart canvas").first.wait_for()
        assert "a.by=http.route" in page.url
        with page.expect_download() as download:
            page.get_by_text("CSV").click()
        assert "/buy" in download.value.path().read_text()
        with page.expect_download() as picture:
            page.get_by_text("PNG").click()
        assert picture.value.path().read_bytes().startswith(b"\x89PNG")
        text = page.locator("code", has_text="SELECT").first.inner_text()
        shared = page.url
    answer = server.send({"query": text}, "/vql/execute").json()
    assert {row[1] for row in answer["rows"]} == {"/buy"}
    with looking(browser) as page:
        page.goto(shared, wait_until="load")
        page.get_by_text("http.route=/buy").first.wait_for()


def test_a_query_is_completed_run_and_remembered(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/vql", wait_until="load")
        editor = page.locator(".editor .cm-content")
        editor.click()
        page.keyboard.type("SELECT count() AS n FROM metrics WHERE service_name = 'sho", delay=5)
        page.locator(".cm-tooltip-autocomplete li", has_text="shop").wait_for()
        page.keyboard.press("Escape")
        page.keyboard.press("Control+a")
        page.keyboard.insert_text("SELECT foo FROM metrics")
        page.keyboard.press("Control+Enter")
        page.get_by_role("alert").get_by_text("unknown column").wait_for()
        assert page.locator(".editor .cm-wrong").inner_text() == "foo"
        editor.click()
        page.keyboard.press("Control+a")
        page.keyboard.insert_text("SELECT count() AS n FROM metrics WHERE service_name = 'shop'")
        page.get_by_role("button", name="Run").click()
        page.locator("th", has_text="n").wait_for()
        assert page.locator(".result tbody td").inner_text() == "60"
        page.get_by_text("History").click()
        page.locator(".menu-item", has_text="count()").wait_for()


def test_the_palette_leads_to_services_metrics_and_pages_by_keyboard_alone(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/", wait_until="load")
        page.keyboard.press("Control+k")
        page.keyboard.type("sho")
        page.locator(".palette-item[aria-selected='true']", has_text="shop").wait_for()
        page.keyboard.press("Enter")
        page.wait_for_url("**/services/shop")
        page.keyboard.press("/")
        page.keyboard.type("duration shop")
        page.locator(".palette-item[aria-selected='true']", has_text="http.server.request.duration").wait_for()
        page.keyboard.press("Enter")
        page.wait_for_url("**/explore?*a.metric=http.server.request.duration*")
        page.keyboard.press("g")
        page.keyboard.press("m")
        page.wait_for_url("**/map")
        page.keyboard.press("?")
        page.get_by_role("dialog", name="Keys").wait_for()
        page.keyboard.press("Escape")
        page.keyboard.press("Control+k")
        page.keyboard.type("no such thing at all")
        page.get_by_text("Nothing has that name.").wait_for()


def test_times_are_local_or_in_utc_as_the_reader_chose(browser: Browser, server: Server) -> None:
    with looking(browser, timezone_id="Asia/Kolkata") as page:
        page.goto(server.url + "/?start=2026-11-30T06:00:00Z&end=2026-11-30T07:00:00Z", wait_until="load")
        shown = page.locator(".ranges-fixed")
        assert "11:30:00" in shown.inner_text()
        page.keyboard.press("u")
        page.get_by_text("06:00:00").first.wait_for()
        assert "UTC" in shown.inner_text()
        page.locator(".range-custom summary").click()
        page.get_by_text("Times are in UTC.").wait_for()
        assert page.get_by_label("From", exact=True).input_value().startswith("2026-11-30T06:00")
        page.get_by_label("To", exact=True).fill("2026-11-30T06:30:00")
        page.get_by_role("button", name="Show").click()
        page.wait_for_url(f"**end={1_796_020_200_000}")
        page.keyboard.press("u")
        page.get_by_text("11:30:00").first.wait_for()


def test_the_map_draws_calls_and_leads_to_the_services(browser: Browser, server: Server) -> None:
    now_ns = time.time_ns()
    spans = []
    for number in range(20):
        span = {"trace_id": f"call-{number}", "name": "GET /buy", "start_ns": now_ns, "duration_ns": 10**7}
        spans.append({**span, "span_id": "a", "service_name": "web", "kind": "client"})
        spans.append({**span, "span_id": "b", "parent_span_id": "a", "service_name": "shop", "kind": "server"})
    assert server.send({"spans": spans}, "/v1/spans").status == 202
    with looking(browser) as page:
        page.goto(server.url + "/map?range=15m", wait_until="load")
        page.locator(".map-node", has_text="web").wait_for()
        assert page.locator(".map-edge").count() >= 1
        page.locator(".map-node", has_text="shop").click()
        page.wait_for_url("**/services/shop*")
    with looking(browser, java_script_enabled=False) as page:
        page.goto(server.url + "/map?range=15m", wait_until="load")
        page.locator("tr", has_text="web").get_by_text("shop").wait_for()


def test_a_query_is_saved_for_everybody_found_again_and_removed(browser: Browser, server: Server) -> None:
    with looking(browser, quiet=False) as page:  # a browser reports the status 400
        page.goto(server.url + "/vql", wait_until="load")
        page.locator(".editor .cm-content").click()
        page.keyboard.insert_text("SELECT count() AS n FROM metrics WHERE service_name = 'shop'")
        page.get_by_text("Save", exact=True).click()
        page.get_by_label("Name").fill("a/b")
        page.get_by_role("button", name="Save for everybody").click()
        page.get_by_text("may not contain a slash").wait_for()
        page.get_by_label("Name").fill("<b>orders")
        page.keyboard.press("Enter")
        page.wait_for_url("**/vql?query=*")
        assert "save_as" not in page.url
    with looking(browser) as page:
        page.goto(server.url + "/vql", wait_until="load")
        page.get_by_text("Saved queries").click()
        page.get_by_role("link", name="<b>orders").click()
        page.locator(".result tbody td").wait_for()
        page.get_by_text("Saved queries").click()
        page.get_by_role("button", name="Remove <b>orders").click()
        page.wait_for_url("**/vql")
        assert page.get_by_text("Saved queries").count() == 0


def test_settings_create_and_revoke_keys_back_up_and_delete(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tmp_path_factory.mktemp("settings") / "data"
    with serving(data) as server, looking(browser, quiet=False) as page:
        send_traffic(server, "doomed")
        page.goto(server.url + "/settings", wait_until="load")
        page.get_by_role("button", name="Back up now").click()
        page.get_by_text("data-backups").first.wait_for()
        (backup,) = data.with_name("data-backups").iterdir()
        assert (backup / "backup.json").is_file()
        delete = page.locator("form[action='/settings/delete']")
        delete.get_by_label("Delete all data of").select_option("doomed")
        delete.get_by_label("Type its name").fill("other")
        delete.get_by_role("button", name="Delete").click()
        page.get_by_text("type the name of the service").wait_for()
        delete = page.locator("form[action='/settings/delete']")
        delete.get_by_label("Delete all data of").select_option("doomed")
        delete.get_by_label("Type its name").fill("doomed")
        delete.get_by_role("button", name="Delete").click()
        page.get_by_text("60 samples, 60 spans").first.wait_for()
        assert "doomed" not in {service["name"] for service in server.get("/api/services").json()["services"]}
        page.get_by_label("Name of a new key").fill("<b>ops")
        page.get_by_label("admin").check(force=True)
        page.get_by_role("button", name="Create").click()
        secret = page.locator(".secret code").inner_text()
        assert secret.startswith("vtg_")
        assert secret not in page.url
        wait_until(lambda: server.get("/api/services").status == 401)
        assert server.get("/api/services", **{"X-API-Key": secret}).status == 200
        page.goto(server.url + "/settings")
        page.locator("input[name=key]").fill(secret)
        page.keyboard.press("Enter")
        page.wait_for_url("**/settings")
        assert secret not in page.content()
        page.get_by_role("button", name="Revoke <b>ops").click()
        wait_until(lambda: server.get("/api/services", **{"X-API-Key": secret}).status != 401)
