"""From the buffer to the server: batches, one request each, retried under the same batch id."""

from __future__ import annotations

import email.utils
import gzip
import http.client
import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from vantage_agent._batch import BatchMaker
from vantage_agent._buffer import Buffer
from vantage_agent._config import Config
from vantage_agent._pack import MEDIA_TYPE

RETRY_S_MAX = 30 * 60  # half as long as the server remembers a batch id, so that a retry is never stored twice
BACKOFF_S_FIRST = 1.0
BACKOFF_S_MAX = 60.0
RETRY_AFTER_S_MAX = 300.0  # whatever the server asks for: its mind or its clock may change
WARNING_INTERVAL_S = 60.0
ANSWER_NBYTES_MAX = 64 << 10

_log = logging.getLogger("vantage_agent")


@dataclass(frozen=True)
class Packed:
    """A batch ready to send: every attempt sends exactly this."""

    body: bytes
    items: int
    losses: dict[str, int]


@dataclass(frozen=True)
class Answer:
    """What came of one attempt. ``status`` is 0 when there was no answer; ``detail`` says why."""

    status: int
    detail: str = ""
    retry_after_s: float = 0.0

    @property
    def is_accepted(self) -> bool:
        return 200 <= self.status < 300

    @property
    def may_be_repeated(self) -> bool:
        return self.status in (0, 429) or self.status >= 500


class Exporter:
    """Sends what the buffer holds. Used by one thread.

    ``pause(seconds)`` waits and answers False when the agent is stopping: then there is no further attempt.
    """

    def __init__(self, config: Config, buffer: Buffer, pause: Callable[[float], bool]) -> None:
        self._config = config
        self._buffer = buffer
        self._pause = pause
        self._maker = BatchMaker(config, buffer)
        self._warned_s: float | None = None

    def send_all(self) -> None:
        """Send until the buffer is empty. Returns when each batch was accepted, or lost and counted."""
        # What is recorded meanwhile waits for the next round: a flush must end however busy the application is.
        left = len(self._buffer)
        while left > 0:
            batch = self._next_batch()
            if batch is None:
                return
            left -= batch.items
            self._deliver(batch)

    def _next_batch(self) -> Packed | None:
        batch = self._maker.next()
        if batch is None:
            return None
        try:
            packed = batch.packed(self._config.resource)
            return Packed(gzip.compress(packed, 6, mtime=0), batch.items, batch.losses)
        except Exception:
            self._lose(Packed(b"", batch.items, batch.losses), "internal_error")
            raise

    def _deliver(self, batch: Packed) -> None:
        give_up_s = time.monotonic() + RETRY_S_MAX
        backoff_s = BACKOFF_S_FIRST
        while True:
            answer = self._attempt(batch)
            if answer.is_accepted:
                if answer.detail:
                    self._warn(f"the server rejected samples: {answer.detail}")
                return
            if not answer.may_be_repeated:
                self._warn(f"{batch.items} samples lost, the server answered {answer.status}: {answer.detail}")
                self._lose(batch, f"refused_{answer.status}")
                return
            self._warn(f"cannot send, will retry: {answer.detail or f'the server answered {answer.status}'}")
            # Jitter, so that many agents do not come back at the same moment.
            wait_s = max(answer.retry_after_s, backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)
            if time.monotonic() + wait_s > give_up_s:
                self._lose(batch, "retries_exhausted")
                return
            if not self._pause(wait_s):
                answer = self._attempt(batch)  # stopping: one last try
                if not answer.is_accepted:
                    self._lose(batch, "shutdown")
                return

    def _lose(self, batch: Packed, reason: str) -> None:
        self._buffer.put_back_losses(batch.losses)
        self._buffer.count_loss(reason, batch.items)

    def _attempt(self, batch: Packed) -> Answer:
        headers = {"Content-Type": MEDIA_TYPE, "Content-Encoding": "gzip", "User-Agent": "vantage-agent"}
        if self._config.api_key:
            headers["X-API-Key"] = self._config.api_key
        # A connection a batch: the server closes idle ones about when the next batch is due, and a write into a
        # closing connection fails.
        kind = http.client.HTTPSConnection if self._config.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._config.host, self._config.port, timeout=self._config.request_timeout_s)
        try:
            connection.request("POST", self._config.path, batch.body, headers)
            response = connection.getresponse()
            text = response.read(ANSWER_NBYTES_MAX)
            return Answer(response.status, _detail(response.status, text), _retry_after_s(response))
        except Exception as error:  # whatever it is, the batch may go through later
            return Answer(0, f"{self._config.host}:{self._config.port}: {str(error) or type(error).__name__}")
        finally:
            connection.close()

    def _warn(self, message: str) -> None:
        now_s = time.monotonic()
        if self._warned_s is None or now_s - self._warned_s >= WARNING_INTERVAL_S:
            self._warned_s = now_s
            _log.warning("vantage_agent: %s", message)


def _retry_after_s(response: http.client.HTTPResponse) -> float:
    """``Retry-After`` in seconds, as a number or a date (RFC 9110, 10.2.3); 0 when absent or unreadable."""
    text = response.getheader("Retry-After", "") or ""
    try:
        return min(max(0.0, float(text)), RETRY_AFTER_S_MAX)
    except ValueError:
        pass
    try:
        left_s = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        return min(max(0.0, left_s), RETRY_AFTER_S_MAX)
    except (TypeError, ValueError, IndexError):
        return 0.0


def _detail(status: int, text: bytes) -> str:
    """One line for a warning: what was rejected of an accepted batch, or why a batch was refused."""
    try:
        answer = json.loads(text)
        if 200 <= status < 300:
            first = (answer.get("errors") or [{}])[0]
            reason = f" ({first.get('field')}: {first.get('reason')})" if first else ""
            return f"{answer['rejected']}{reason}" if answer.get("rejected") else ""
        return str(answer.get("detail") or answer.get("title") or "")[:200]
    except (ValueError, AttributeError, LookupError, TypeError):
        return "" if 200 <= status < 300 else text[:200].decode("utf-8", "replace")
