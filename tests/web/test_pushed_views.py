"""Views that are pushed: one request for all tabs of a person, every tab in the end at the latest version."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.support.samples import MovedClock
from vantage.query.live import LiveUpdates
from vantage.resources import templates_dir
from vantage.telemetry import Telemetry
from vantage.web import pushed_views
from vantage.web.pushed_views import LIVE_PATHS, VIEW_NBYTES_MAX, PushedViews, Tab, Watch


class Site:
    """An application whose page shows ``version``, and knows its earlier ones."""

    def __init__(self) -> None:
        self.version = 1
        self.requests: list[dict[bytes, bytes]] = []
        self.scopes: list[dict[str, Any]] = []
        self.status = 200
        self.vary = b"HX-Request, Accept"
        self.body = b""

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        self.requests.append(headers)
        self.scopes.append(scope)
        etag = f'"{self.version}"'.encode()
        has = headers.get(b"if-none-match", b"")
        status, body = self.status, self.body or f"<p>{self.version}</p>".encode()
        if status == 200 and has == etag:
            status, body = 304, b""
        elif status == 200 and has:
            status, body = 226, b'{"length":8,"edits":[]}'
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"etag", etag), (b"vary", self.vary)]}
        )
        await send({"type": "http.response.body", "body": body})


def socket_scope(*, cookie: str = "vantage_session=a") -> dict[str, Any]:
    return {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "scheme": "ws",
        "headers": [(b"host", b"localhost"), (b"cookie", cookie.encode()), (b"upgrade", b"websocket")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "request_id": "r",
    }


@pytest.fixture
def live() -> LiveUpdates:
    return LiveUpdates(clock=MovedClock(), telemetry=Telemetry())


@pytest.fixture
async def pushed(live: LiveUpdates) -> AsyncIterator[PushedViews]:
    pushed = PushedViews(live)
    yield pushed
    assert not live._pages, "a group that nobody looks at is gone"


async def message(tab: Tab) -> dict[str, Any]:
    async with asyncio.timeout(10):
        return json.loads(gzip.decompress(await tab.next_message()))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def change(live: LiveUpdates, site: Site, service: str = "api") -> None:
    site.version += 1
    live.add([], {service})
    live.tick()


async def test_tabs_of_one_person_share_one_request_and_the_same_bytes(live: LiveUpdates, pushed: PushedViews) -> None:
    site, tabs = Site(), [Tab(socket_scope()) for _ in range(20)]
    for tab in tabs:
        pushed.watch(site, tab, Watch("/?range=1h"), "key")
    first = [await message(tab) for tab in tabs]
    assert first == [{"url": "/?range=1h", "etag": '"1"', "text": "<p>1</p>"}] * 20
    assert len(site.requests) == 1
    change(live, site)
    await until(lambda: all(tab.message for tab in tabs))
    assert len({id(tab.message) for tab in tabs}) == 1
    expected = {"url": "/?range=1h", "has": '"1"', "etag": '"2"', "change": {"length": 8, "edits": []}}
    assert [await message(tab) for tab in tabs] == [expected] * 20
    assert len(site.requests) == 2
    for tab in tabs:
        pushed.leave(tab)


async def test_a_first_look_that_was_answered_from_before_the_tab_came_is_made_again(
    live: LiveUpdates, pushed: PushedViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views are computed once a second: the first answer may lack what came just before the tab subscribed."""
    monkeypatch.setattr(pushed_views, "AGAIN_S", 0.01)
    site, tab = Site(), Tab(socket_scope())
    pushed.watch(site, tab, Watch("/"), "key")
    assert (await message(tab))["etag"] == '"1"'
    site.version = 2
    assert (await message(tab))["etag"] == '"2"'
    pushed.leave(tab)


async def test_the_request_is_the_tabs_own_with_its_cookie(live: LiveUpdates, pushed: PushedViews) -> None:
    site, tab = Site(), Tab(socket_scope(cookie="vantage_session=first"))
    pushed.watch(site, tab, Watch("/services/a%20b?range=5m"), "key")
    await message(tab)
    headers, scope = site.requests[0], site.scopes[0]
    assert headers[b"cookie"] == b"vantage_session=first"
    assert b"upgrade" not in headers
    assert (scope["method"], scope["path"], scope["query_string"]) == ("GET", "/services/a b", b"range=5m")
    pushed.leave(tab)


async def test_different_people_never_share_a_request(live: LiveUpdates, pushed: PushedViews) -> None:
    site, first, other = Site(), Tab(socket_scope(cookie="c=1")), Tab(socket_scope(cookie="c=2"))
    pushed.watch(site, first, Watch("/"), "first")
    pushed.watch(site, other, Watch("/"), "other")
    await asyncio.gather(message(first), message(other))
    assert sorted(headers[b"cookie"] for headers in site.requests) == [b"c=1", b"c=2"]
    pushed.leave(first)
    pushed.leave(other)


async def test_a_slow_tab_gets_what_it_missed_once_it_reads_again(live: LiveUpdates, pushed: PushedViews) -> None:
    site, slow, quick = Site(), Tab(socket_scope()), Tab(socket_scope())
    pushed.watch(site, slow, Watch("/"), "key")
    pushed.watch(site, quick, Watch("/"), "key")
    await until(lambda: slow.message is not None)
    for version in (1, 2, 3):
        assert (await message(quick))["etag"] == f'"{version}"'
        if version < 3:
            change(live, site)
    assert (await message(slow))["etag"] == '"1"'
    assert await message(slow) == {
        "url": "/", "has": '"1"', "etag": '"3"', "change": {"length": 8, "edits": []},
    }  # fmt: skip
    pushed.leave(slow)
    pushed.leave(quick)


async def test_only_data_of_the_service_on_the_page_causes_a_look(live: LiveUpdates, pushed: PushedViews) -> None:
    site, tab = Site(), Tab(socket_scope())
    pushed.watch(site, tab, Watch("/services/api", service="api"), "key")
    await message(tab)
    change(live, site, "billing")
    await asyncio.sleep(0.05)
    assert len(site.requests) == 1
    change(live, site, "api")
    assert (await message(tab))["etag"] == '"3"'
    pushed.leave(tab)


async def test_when_data_ends_there_is_one_more_look_for_what_was_cached(
    live: LiveUpdates, pushed: PushedViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushed_views, "SETTLE_S", 0.01)
    site, tab = Site(), Tab(socket_scope())
    pushed.watch(site, tab, Watch("/services/api", service="api"), "key")
    await message(tab)
    site.version = 2  # without new data of the service, as when a cache expires
    live.add([], {"billing"})
    live.tick()
    assert (await message(tab))["etag"] == '"2"'
    requests = len(site.requests)
    await asyncio.sleep(0.1)
    assert len(site.requests) == requests, "and then none until there is data"
    pushed.leave(tab)


async def test_a_tab_that_has_the_latest_version_is_sent_nothing(live: LiveUpdates, pushed: PushedViews) -> None:
    site, tab = Site(), Tab(socket_scope())
    pushed.watch(site, tab, Watch("/", etag='"1"'), "key")
    await until(lambda: len(site.requests) == 1)
    await asyncio.sleep(0.02)
    assert tab.message is None
    change(live, site)
    assert (await message(tab))["has"] == '"1"'
    pushed.leave(tab)


async def test_a_tab_follows_one_view_at_a_time(live: LiveUpdates, pushed: PushedViews) -> None:
    site, tab = Site(), Tab(socket_scope())
    for url in ("/", "/map?range=1h", "/services/x"):
        pushed.watch(site, tab, Watch(url), "key")
        assert (await message(tab))["url"] == url
    assert len(live._pages) == 1
    pushed.leave(tab)


async def test_an_ended_session_makes_the_browser_ask_itself(live: LiveUpdates, pushed: PushedViews) -> None:
    site, tab = Site(), Tab(socket_scope())
    site.status = 303
    pushed.watch(site, tab, Watch("/"), "key")
    assert await message(tab) == {"url": "/", "reload": True}
    pushed.leave(tab)


@pytest.mark.parametrize("what", ["not a view", "too large", "an error"])
async def test_what_is_not_a_view_is_not_sent(live: LiveUpdates, pushed: PushedViews, what: str) -> None:
    site, tab = Site(), Tab(socket_scope())
    if what == "not a view":
        site.vary = b"Accept-Encoding"
    elif what == "too large":
        site.body = b"x" * (VIEW_NBYTES_MAX + 1)
    else:
        site.status = 500
    pushed.watch(site, tab, Watch("/map"), "key")
    await until(lambda: len(site.requests) == 1)
    await asyncio.sleep(0.02)
    assert tab.message is None
    site.vary, site.status, site.body = b"HX-Request, Accept", 200, b""
    change(live, site)
    assert (await message(tab))["etag"] == '"2"'  # and the group goes on
    pushed.leave(tab)


@pytest.mark.parametrize(
    "url",
    ["", "http://elsewhere/", "x", "/?" + "x" * 9000, "/api/export", "/static/js/live.js", "/settings", "/traces/t1",
     "/services/api/traces", "//", "/vql?query=SELECT+1"],
)  # fmt: skip
async def test_only_addresses_of_live_pages_are_followed(live: LiveUpdates, pushed: PushedViews, url: str) -> None:
    site, tab = Site(), Tab(socket_scope())
    pushed.watch(site, tab, Watch(url), "key")
    assert tab.group is None
    assert not site.requests


def test_every_live_page_can_be_followed() -> None:
    pages = {path.stem for path in (templates_dir() / "pages").glob("*.html") if "data-live=" in path.read_text()}
    paths = {"/" if page == "overview" else f"/{page}" for page in pages - {"service"}}
    assert "service" in pages
    assert paths == LIVE_PATHS
