"""A real browser: one process, with contexts that watch the console and what is requested."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--no-first-run",
    "--disable-component-update",
]
DESKTOP = {"width": 1280, "height": 900}
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextlib.contextmanager
def looking(browser: Browser, *, quiet: bool = True, **options: Any) -> Iterator[Page]:
    """A page that asks nobody but the server it came from, and whose console stays free of errors, if it is to be
    ``quiet``."""
    context: BrowserContext = browser.new_context(**{"viewport": DESKTOP, **options})
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(f"{request.url} {request.failure}"))
    requested: set[str] = set()
    page.on("request", lambda request: requested.add(request.url))
    try:
        yield page
        origin = page.evaluate("location.origin")
        elsewhere = [url for url in requested if not url.startswith((origin, "data:", origin.replace("http", "ws")))]
        assert not elsewhere, elsewhere
        serious = [text for text in wrong if "net::ERR_ABORTED" not in text]  # a fetch that a newer one replaced
        assert not quiet or not serious, serious
    finally:
        context.close()
