"""Sending the demo's traffic to a running server, and removing it again."""

from __future__ import annotations

import gzip
import http.client
import json
import secrets
import sys
import threading
import uuid
from collections import deque
from typing import Any, Final
from urllib.parse import urlsplit

from vantage.core.clock import Clock, SystemClock
from vantage.core.errors import ForbiddenError, InputError, NotFoundError, UnauthorizedError, UnavailableError
from vantage.demo.scenario import HOUR_MS, Scenario
from vantage.demo.shop import ENVIRONMENT
from vantage.demo.traffic import MEDIA_TYPE, Traffic, bodies

REQUESTS_A_MINUTE_MAX: Final = 800  # below the server's default limit for one address
TIMEOUT_S: Final = 30.0
PATIENCE_AT_FIRST_S: Final = 3.0  # with a server that has not answered yet
PATIENCE_S: Final = 120.0  # with one that has
BEHIND_MS_MAX: Final = 60_000  # after a longer pause (a laptop asleep) live traffic goes on from now
ANSWER_NBYTES_MAX: Final = 1 << 20


def run_demo(
    url: str,
    *,
    api_key: str | None,
    once: bool = False,
    stop: threading.Event | None = None,
    history_hours: float = 6,
    seed: int | None = None,
) -> int:
    """Send history, then live traffic until ``stop`` is set or the user interrupts; returns an exit code.

    With ``once`` it ends after the history. Raises UnavailableError when the server is away, UnauthorizedError or
    ForbiddenError when it wants another key, InputError when it refuses the traffic.
    """
    clock = SystemClock()
    stop = threading.Event() if stop is None else stop
    server = Server(url, api_key=api_key, clock=clock, stop=stop)
    seed = secrets.randbits(32) if seed is None else seed
    world = Scenario(seed=seed, start_ms=clock.now_ms() // 1000 * 1000, history_hours=history_hours)
    try:
        send_history(world, server, stop)
        if not once:
            send_live(world, server, clock, stop)
    except KeyboardInterrupt:
        pass
    finally:
        server.close()
        _progress("\n")
    return 0


def remove_demo(url: str, *, api_key: str | None) -> Any:
    """Delete everything of the demo's environment; returns what the server says it deleted. Raises as ``run_demo``."""
    server = Server(url, api_key=api_key, clock=SystemClock(), stop=threading.Event())
    try:
        return server.request("DELETE", f"/api/data?environment={ENVIRONMENT}")
    finally:
        server.close()


def send_history(world: Scenario, server: Server, stop: threading.Event) -> None:
    """The newest hour first, so that pages show something at once."""
    end_ms, sent = world.start_ms, 0
    while end_ms > world.history_start_ms and not stop.is_set():
        start_ms = max(world.history_start_ms, end_ms - HOUR_MS)
        traffic = Traffic()
        for window in world.windows(start_ms, end_ms):
            world.traffic(*window, into=traffic)
        server.send(traffic)
        sent += traffic.samples
        end_ms = start_ms
        _progress(f"\r{sent} samples of history sent")


def send_live(world: Scenario, server: Server, clock: Clock, stop: threading.Event) -> None:
    """Every second the past second's traffic, until ``stop``.

    The first and the second instances take turns, which halves the requests: each service is heard every second.
    """
    done_ms = world.start_ms
    waiting = Traffic()
    while not stop.wait(max(0.0, (done_ms + 1000 - clock.now_ms()) / 1000)):
        if clock.now_ms() - done_ms > BEHIND_MS_MAX:
            done_ms = clock.now_ms() // 1000 * 1000 - 1000
        world.traffic(done_ms, done_ms + 1000, into=waiting)
        done_ms += 1000
        turn = done_ms // 1000 % 2 + 1
        due = Traffic({origin: recorded for origin, recorded in waiting.items() if origin.instance == turn})
        for origin in due:
            del waiting[origin]
        server.send(due)
        _progress("\rlive traffic is flowing, Ctrl-C ends it   ")


class Server:
    """A Vantage server over one kept connection: within its rate, and patient when it is busy."""

    def __init__(self, url: str, *, api_key: str | None, clock: Clock, stop: threading.Event) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise InputError(f"must look like http://127.0.0.1:8000, not {url!r}", field="url")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._url = url
        self._connection = kind(parts.hostname, port, timeout=TIMEOUT_S)
        self._path = parts.path.rstrip("/")
        self._headers = {"X-API-Key": api_key} if api_key else {}
        self._clock = clock
        self._stop = stop
        self._sent_s: deque[float] = deque(maxlen=REQUESTS_A_MINUTE_MAX)
        self._has_answered = False

    def close(self) -> None:
        self._connection.close()

    def send(self, traffic: Traffic) -> None:
        """Returns when the server has all of it, or when the demo is stopping."""
        headers = {"Content-Type": MEDIA_TYPE, "Content-Encoding": "gzip"}
        for body in bodies(traffic, new_batch_id=lambda: uuid.uuid4().hex):
            if self._stop.is_set():
                return
            self.request("POST", "/v1/metrics", gzip.compress(body, 1), headers)

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Any:
        """The decoded answer. A busy server gets the same again: batches carry ids, so nothing is stored twice."""
        began_s = self._clock.monotonic_s()
        while True:
            self._keep_to_the_rate()
            try:
                status, wait_s, text = self._exchange(method, path, body, {**self._headers, **(headers or {})})
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                status, wait_s, text = 0, 0.5, str(error) or type(error).__name__
            else:
                self._has_answered = True
            if 200 <= status < 300:
                return json.loads(text) if text else {}
            if status not in (0, 429, 503):
                raise _refusal(status, text)
            patience_s = PATIENCE_S if self._has_answered else PATIENCE_AT_FIRST_S
            if self._clock.monotonic_s() + wait_s > began_s + patience_s:
                raise UnavailableError(f"no answer from {self._url} ({text}): is the server running?")
            if self._stop.wait(wait_s):
                return {}

    def _exchange(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, float, str]:
        self._connection.request(method, self._path + path, body, headers)
        response = self._connection.getresponse()
        text = response.read(ANSWER_NBYTES_MAX).decode("utf-8", "replace")
        try:
            wait_s = max(0.1, float(response.getheader("Retry-After") or 1))
        except ValueError:
            wait_s = 5.0
        return response.status, wait_s, text

    def _keep_to_the_rate(self) -> None:
        now_s = self._clock.monotonic_s()
        if len(self._sent_s) == REQUESTS_A_MINUTE_MAX and now_s - self._sent_s[0] < 60:
            self._stop.wait(60 - (now_s - self._sent_s[0]))
        self._sent_s.append(self._clock.monotonic_s())


def _refusal(status: int, text: str) -> Exception:
    try:
        answer = json.loads(text)
        detail = str(answer.get("detail") or answer.get("title") or status)
    except (ValueError, AttributeError):
        detail = f"HTTP status {status}"
    if status == 401:
        return UnauthorizedError(f"the server wants an API key: {detail}")
    if status == 403:
        return ForbiddenError(f"the server does not allow this key to do that: {detail}")
    if status == 404:
        return NotFoundError(f"the server does not know this address, is it Vantage? ({detail})", field="url")
    return InputError(f"the server refused the demo's request: {detail}")


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(text)
        sys.stderr.flush()
