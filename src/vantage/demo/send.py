"""Sending the demo's traffic to a running server, and removing it."""

from __future__ import annotations

import gzip
import json
import secrets
import sys
import threading
import uuid
from collections import deque
from typing import Any, Final

from vantage.core.clock import Clock, SystemClock
from vantage.core.errors import ForbiddenError, InputError, NotFoundError, UnauthorizedError, UnavailableError
from vantage.demo.scenario import HOUR_MS, Scenario
from vantage.demo.shop import ENVIRONMENT
from vantage.demo.traffic import MEDIA_TYPE, Traffic, bodies
from vantage.http_client import ConnectionFailed, HttpClient

REQUESTS_A_MINUTE_MAX: Final = 800  # below the server's default limit for one address
TIMEOUT_S: Final = 30.0
PATIENCE_AT_FIRST_S: Final = 3.0  # with a server that has not answered yet
PATIENCE_S: Final = 120.0  # with one that has
BEHIND_MS_MAX: Final = 60_000  # after a longer pause (a laptop asleep) live traffic continues from now


def run_demo(
    url: str,
    *,
    api_key: str | None,
    once: bool = False,
    stop: threading.Event | None = None,
    history_hours: float = 6,
    seed: int | None = None,
) -> int:
    """Send history, then live traffic until ``stop`` is set or the user interrupts; return the exit status.

    With ``once`` it ends after the history. Raises UnavailableError when the server cannot be reached,
    UnauthorizedError or ForbiddenError when it requires another key, InputError when it refuses the traffic.
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
    """Delete everything in the demo's environment; return the counts of the server. Raises as ``run_demo``."""
    server = Server(url, api_key=api_key, clock=SystemClock(), stop=threading.Event())
    try:
        return server.request("DELETE", f"/api/data?environment={ENVIRONMENT}")
    finally:
        server.close()


def send_history(world: Scenario, server: Server, stop: threading.Event) -> None:
    """Send the history, the newest hour first, so that pages show data at once."""
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
    """Send the traffic of the past second every second, until ``stop`` is set.

    The first and the second instances take turns, which halves the requests: each service sends every second.
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
        _progress("\rsending live traffic, Ctrl-C ends it       ")


class Server:
    """A Vantage server over one connection: requests stay within its rate limit, and wait when it is busy."""

    def __init__(self, url: str, *, api_key: str | None, clock: Clock, stop: threading.Event) -> None:
        """Connect to nothing yet. Raises InputError for an address or a key that cannot be used."""
        self._http = HttpClient(url, api_key=api_key, timeout_s=TIMEOUT_S)
        self._clock = clock
        self._stop = stop
        self._sent_s: deque[float] = deque(maxlen=REQUESTS_A_MINUTE_MAX)
        self._has_answered = False

    def close(self) -> None:
        self._http.close()

    def send(self, traffic: Traffic) -> None:
        """Return when the server has all of it, or when the demo is stopping."""
        headers = {"Content-Type": MEDIA_TYPE, "Content-Encoding": "gzip"}
        for body in bodies(traffic, new_batch_id=lambda: uuid.uuid4().hex):
            if self._stop.is_set():
                return
            self.request("POST", "/v1/metrics", gzip.compress(body, 1), headers)

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Any:
        """Return the decoded response. A busy server gets the same request again: batches carry ids, so nothing is
        stored twice."""
        began_s = self._clock.monotonic_s()
        while True:
            self._wait_for_rate()
            try:
                response = self._http.request(method, path, body, headers)
            except ConnectionFailed as error:
                wait_s, reason = 0.5, str(error)
            else:
                self._has_answered = True
                if 200 <= response.status < 300:
                    return json.loads(response.body) if response.body else {}
                if response.status not in (429, 503):
                    raise _refusal(response.status, response.body)
                wait_s, reason = response.retry_after_s(), f"it is busy, HTTP status {response.status}"
            patience_s = PATIENCE_S if self._has_answered else PATIENCE_AT_FIRST_S
            if self._clock.monotonic_s() + wait_s > began_s + patience_s:
                raise UnavailableError(f"no answer from {self._http.url} ({reason}): is the server running?")
            if self._stop.wait(wait_s):
                return {}

    def _wait_for_rate(self) -> None:
        now_s = self._clock.monotonic_s()
        if len(self._sent_s) == REQUESTS_A_MINUTE_MAX and now_s - self._sent_s[0] < 60:
            self._stop.wait(60 - (now_s - self._sent_s[0]))
        self._sent_s.append(self._clock.monotonic_s())


def _refusal(status: int, text: bytes) -> Exception:
    try:
        answer = json.loads(text)
        detail = str(answer.get("detail") or answer.get("title") or status)
    except (ValueError, AttributeError):
        detail = f"HTTP status {status}"
    if status == 401:
        return UnauthorizedError(f"the server requires an API key: {detail}")
    if status == 403:
        return ForbiddenError(f"the server does not allow this key to do that: {detail}")
    if status == 404:
        return NotFoundError(f"the server has no such address, is it Vantage? ({detail})", field="url")
    return InputError(f"the server refused the demo's request: {detail}")


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(text)
        sys.stderr.flush()
