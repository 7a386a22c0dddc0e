"""The pages of traces in a real browser: durations that are clicked and selected, keys in the waterfall, links to
spans, and all of it without JavaScript."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.browser import chromium, looking, needs_chromium
from tests.support.server import Server, serving

SPANS = 1500
ERRORS = {400, 900}

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("traces") / "data") as server:
        now_ns = time.time_ns()
        send(server, [a_span(f"t{n}", "root", n, 2 + n, now_ns - n * 10**9, failed=n == 3) for n in range(20)])
        send(server, large(now_ns - 60 * 10**9))
        yield server
        assert "Traceback" not in server.output, server.output


def send(server: Server, spans: list[dict[str, Any]]) -> None:
    assert server.send({"service_name": "shop", "spans": spans}, "/v1/spans").status == 202


def a_span(
    trace_id: str, span_id: str, number: int, duration_ms: int, start_ns: int, *, parent: str = "", failed: bool = False
) -> dict[str, Any]:
    span = {"trace_id": trace_id, "span_id": span_id, "name": f"op {number}", "kind": "server", "start_ns": start_ns}
    attributes = {"exception.type": "KeyError", "exception.stacktrace": "Traceback: KeyError"} if failed else {"k": "v"}
    span |= {"duration_ns": duration_ms * 10**6, "status": "error" if failed else "ok", "attributes": attributes}
    return span | ({"parent_span_id": parent} if parent else {})


def large(start_ns: int) -> list[dict[str, Any]]:
    """A root with 30 children, which have the others as a chain below them each."""
    spans = []
    for number in range(SPANS):
        parent = "" if number == 0 else f"s{max(0, number - 30)}"
        spans.append(
            a_span("large", f"s{number}", number, max(1, 2000 - number), start_ns + number * 10**6, parent=parent,
                   failed=number in ERRORS)
        )  # fmt: skip
    return spans


def lines(page: Page) -> Locator:
    return page.locator("#waterfall li.span")


def focused(page: Page) -> str:
    result: str = page.evaluate("document.activeElement.closest('li.span')?.id ?? ''")
    return result


def test_a_dot_opens_its_trace(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/traces?range=15m")
        expect(page.locator(".scatter circle")).to_have_count(19)
        expect(page.locator(".scatter path.dot-error")).to_have_count(2)  # of another shape
        page.locator(".scatter path.dot-error").first.click()
        page.wait_for_url(re.compile("/traces/(t3|large)$"))


def test_a_part_of_the_durations_is_selected_and_is_in_the_url(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/traces?start=now-15m&service=shop")
        page.locator(".scatter path.dot-error").first.wait_for()
        box = page.locator(".scatter svg").bounding_box()
        longest = page.locator(".scatter path.dot-error", has_text="op 0").bounding_box()
        assert box is not None
        assert longest is not None
        x, y = longest["x"] + 4, longest["y"] + 4
        page.mouse.move(x - 12, y - 10)
        page.mouse.down()
        page.mouse.move(x + 12, y + 10, steps=4)
        page.mouse.up()
        page.wait_for_url("**min_duration**")
        assert all(f"{name}=" in page.url for name in ("start", "end", "max_duration", "service"))
        expect(page.locator("tr[id^='trace-']")).to_have_count(1)
        assert page.locator("tr[id='trace-large']").count() == 1


def test_keys_move_open_and_close_lines(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/traces/large")
        before = lines(page).count()
        assert 100 < before <= 200
        page.keyboard.press("j")
        assert focused(page) == "span-s0"
        page.keyboard.press("j")
        page.keyboard.press("k")
        assert focused(page) == "span-s0"
        page.keyboard.press("ArrowLeft")
        expect(lines(page)).to_have_count(1)
        assert focused(page) == "span-s0"
        assert "fold=close.s0" in page.url
        page.keyboard.press("ArrowRight")
        expect(lines(page)).to_have_count(before)
        page.keyboard.press("Enter")
        page.get_by_text("Link to this span").wait_for()
        assert "span=s0" in page.url
        page.keyboard.press("Enter")
        page.get_by_text("Link to this span").wait_for(state="detached")
        page.keyboard.press("?")
        assert page.get_by_text("next failed span").is_visible()


def test_e_goes_to_the_next_error_wherever_it_is(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/traces/large")
        shown = []
        for number in (1, 2):
            page.keyboard.press("e")
            page.get_by_text(f"error {number} of 2").wait_for()
            row = page.locator(".row-selected")
            expect(row).to_be_in_viewport()
            shown.append(row.evaluate("row => row.parentElement.id"))
            page.get_by_text("Stack trace").wait_for()
        expect(row.locator(".span-open")).to_be_focused()
        assert set(shown) == {f"span-s{number}" for number in ERRORS}
        page.go_back()
        page.get_by_text("error 1 of 2").wait_for()


def test_a_link_to_a_span_opens_what_is_above_it(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/traces/large#span-s1499")
        page.get_by_text("Link to this span").wait_for()
        expect(page.locator("#span-s1499")).to_be_in_viewport()


def test_a_link_that_was_cut_is_the_trace_itself(browser: Browser, server: Server) -> None:
    with looking(browser) as page:
        page.goto(server.url + "/traces/large#span-%E0%A4")
        page.get_by_role("heading", name="Where the time went").wait_for()


@pytest.mark.parametrize("width", [1280, 375])
def test_without_javascript_lines_are_opened_by_buttons(browser: Browser, server: Server, width: int) -> None:
    with looking(browser, java_script_enabled=False, viewport={"width": width, "height": 800}) as page:
        page.goto(server.url + "/traces/large")
        page.locator("#span-s0 .fold").click()
        expect(lines(page)).to_have_count(1)
        page.locator("#span-s0 .span-open").click()
        expect(page.locator(".attributes").first).to_contain_text("k")
        page.get_by_role("link", name="Flame graph").click()
        expect(page.locator("svg.flame text").first).to_contain_text("op 0")
        page.locator("input[name=q]").fill("op 77")
        page.get_by_role("button", name="Search").click()
        expect(page.locator(".row-context").first).to_be_visible()
        page.goto(server.url + "/traces?compare=failed")
        expect(page.locator("#common")).to_contain_text("exception.type")
