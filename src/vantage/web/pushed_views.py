"""Views that are pushed to the tabs that show them: requested once for all tabs of one person at the same URL, whenever
there is new data, and sent to each as the same bytes.

The request is one of our own to the application, with the headers of one of the tabs: a reader who may not see a page
is refused it here as anywhere. Its answers are those of ``render.shared_page``: a whole view, or what changed of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Hashable, MutableMapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final
from urllib.parse import unquote

import msgspec
import structlog

from vantage.query.live import EVERYTHING, LiveUpdates, Subscriber
from vantage.web.compression import gzipped
from vantage.web.edits import MANIPULATION
from vantage.web.middleware import ASGIApp

LIVE_PATHS: Final = frozenset({"/", "/alerts", "/map", "/explore", "/traces", "/pipeline"})
SERVICE_PATH: Final = "/services/"
URL_LENGTH_MAX: Final = 8192
VIEW_NBYTES_MAX: Final = 16 << 20
REST_FACTOR: Final = 3  # a view that takes long is computed less often: its rest is so many times as long
REQUEST_TIMEOUT_S: Final = 60.0
SETTLE_S: Final = 12.0  # after the last data, once more: longer than pages cache parts that may be a little old
AGAIN_S: Final = 1.1  # after a tab's first look, whose answer may have been begun before the tab subscribed
_SENT_ON: Final = frozenset({b"host", b"cookie", b"authorization", b"x-api-key", b"x-forwarded-for", b"user-agent"})
_log = structlog.get_logger("vantage.web")
_encode: Final = msgspec.json.Encoder().encode


class Watch(msgspec.Struct, frozen=True, tag="watch", tag_field="type", forbid_unknown_fields=False):
    """What a tab asks for: the path and query of its page, what it shows already, and whose data it is about, one
    service's or ``*`` for all."""

    url: str
    etag: str = ""
    service: str = EVERYTHING


@dataclass(slots=True, eq=False)
class Tab:
    """One open page. ``message`` is what it is to be sent next, taken by its socket."""

    scope: MutableMapping[str, Any]
    etag: str = ""
    is_behind: bool = False  # it could not be brought up to date, since its last message has not been sent yet
    message: bytes | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    group: _Group | None = None

    def put(self, message: bytes) -> None:
        self.message = message
        self.wake.set()

    async def next_message(self) -> bytes:
        """Wait for the next message, and take it."""
        await self.wake.wait()
        self.wake.clear()
        message, self.message = self.message, None
        if self.is_behind and self.group is not None:
            self.group.look_again()
        assert message is not None
        return message


class PushedViews:
    """The groups of tabs of one process. For one event loop."""

    def __init__(self, live: LiveUpdates) -> None:
        self._live = live
        self._groups: dict[Hashable, _Group] = {}

    def watch(self, application: ASGIApp, tab: Tab, watch: Watch, owner: Hashable) -> None:
        """Let a tab follow a view from now on, and no other; one of another path than those of live pages is not
        followed. ``owner`` is who looks: tabs of several never share a request."""
        self.leave(tab)
        path = watch.url.partition("?")[0]
        is_live = path in LIVE_PATHS or (path.startswith(SERVICE_PATH) and "/" not in path.removeprefix(SERVICE_PATH))
        if not is_live or len(watch.url) > URL_LENGTH_MAX:
            return
        key = (watch.url, watch.service, owner, dict(tab.scope["headers"]).get(b"host", b""))
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(key, application, watch, self._live)
        tab.etag = watch.etag
        tab.group = group
        group.tabs.append(tab)
        group.look_again()

    def leave(self, tab: Tab) -> None:
        """Let a tab follow nothing."""
        group, tab.group = tab.group, None
        if group is None:
            return
        group.tabs.remove(tab)
        if not group.tabs:
            group.task.cancel()
            del self._groups[group.key]


class _Group:
    """Tabs that show the same to the same person."""

    def __init__(self, key: Hashable, application: ASGIApp, watch: Watch, live: LiveUpdates) -> None:
        self.key = key
        self.tabs: list[Tab] = []
        self._application = application
        self._watch = watch
        self._subscriber = Subscriber()
        self.task = asyncio.create_task(self._run(live))

    def look_again(self) -> None:
        """Look once more, without new data: for a tab that came later or fell behind."""
        self._subscriber.services.add(EVERYTHING)
        self._subscriber.wake.set()

    async def _run(self, live: LiveUpdates) -> None:
        due_s: set[float] = set()  # looks without new data
        with live.subscribe_to_services(self._subscriber):
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(due_s) - monotonic() if due_s else None):
                        await self._subscriber.wake.wait()
                _, services, _ = self._subscriber.drain()
                began_s = monotonic()
                if self._watch.service != EVERYTHING:
                    services &= {EVERYTHING, self._watch.service}
                is_due = any(at_s <= began_s for at_s in due_s)
                due_s = {at_s for at_s in due_s if at_s > began_s}
                if services:
                    due_s = {at_s for at_s in due_s if at_s <= began_s + AGAIN_S} | {began_s + SETTLE_S}
                    due_s |= {began_s + AGAIN_S} if EVERYTHING in services else set()
                elif not is_due:
                    continue
                try:
                    async with asyncio.timeout(REQUEST_TIMEOUT_S):
                        await self._look()
                except Exception:  # noqa: BLE001 - the next look may succeed; the tabs show what they have
                    _log.exception("a view could not be pushed", url=self._watch.url[:200])
                await asyncio.sleep(REST_FACTOR * (monotonic() - began_s))

    async def _look(self) -> None:
        """Bring every tab up to date that has taken its last message."""
        tabs: defaultdict[str, list[Tab]] = defaultdict(list)
        for tab in self.tabs:
            tab.is_behind = tab.message is not None
            if not tab.is_behind:
                tabs[tab.etag].append(tab)
        for has, group in tabs.items():
            answer = await self._request(group[0].scope, has)
            message = _message(self._watch.url, has, answer)
            if message is None:
                continue
            packed = gzipped(message)
            for tab in group:
                if tab.group is self and tab.message is None:
                    tab.etag = answer.etag
                    tab.put(packed)

    async def _request(self, socket_scope: MutableMapping[str, Any], has: str) -> _Answer:
        path, _, query = self._watch.url.partition("?")
        headers = [(name, value) for name, value in socket_scope["headers"] if name in _SENT_ON]
        headers += [
            (b"accept", b"text/html"),
            (b"hx-request", b"true"),
            (b"hx-request-type", b"partial"),
            (b"a-im", MANIPULATION.encode()),
        ]
        if has:
            headers.append((b"if-none-match", has.encode("latin-1", "replace")))
        scope = {
            "type": "http",
            "asgi": socket_scope["asgi"],
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https" if socket_scope["scheme"] in ("wss", "https") else "http",
            "path": unquote(path),
            "raw_path": path.encode("latin-1", "replace"),
            "query_string": query.encode("latin-1", "replace"),
            "root_path": "",
            "headers": headers,
            "header_map": dict(headers),
            "client": socket_scope["client"],
            "server": socket_scope["server"],
            "request_id": socket_scope["request_id"],
            "extensions": {},
        }
        answer = _Answer()
        await self._application(scope, _no_body, answer.receive)
        return answer


class _Answer:
    """What the application answered; status 0 when it is not a view, or too large: then its body is dropped."""

    def __init__(self) -> None:
        self.status = 0
        self.etag = ""
        self.body = b""

    async def receive(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = {name.lower(): value for name, value in message["headers"]}
            self.etag = headers.get(b"etag", b"").decode("latin-1")
            if self.status < 300 and (not self.etag or b"hx-request" not in headers.get(b"vary", b"").lower()):
                self.status = 0
        elif message["type"] == "http.response.body" and self.status:
            self.body += message.get("body", b"")
            if len(self.body) > VIEW_NBYTES_MAX:
                self.status, self.body = 0, b""


def _message(url: str, has: str, answer: _Answer) -> bytes | None:
    """Return what tabs that show ``has`` are sent, None for nothing."""
    match answer.status:
        case 200:
            return _encode({"url": url, "etag": answer.etag, "text": answer.body.decode()})
        case 226:
            return _encode({"url": url, "has": has, "etag": answer.etag, "change": msgspec.Raw(answer.body)})
        case 302 | 303 | 307 | 401:  # such as the session has ended: the browser is to ask itself
            return _encode({"url": url, "reload": True})
    return None


async def _no_body() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}
