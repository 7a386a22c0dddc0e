"""Send the buffer to the server: batches, one request each, retried with the same batch id."""

from __future__ import annotations

import email.utils
import encodings.idna  # noqa: F401  # getaddrinfo imports it at its first use, which may be at exit
import gzip
import http.client
import json
import logging
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from vantage_agent._batch import Batch
from vantage_agent._batch_maker import BatchMaker
from vantage_agent._buffer import Buffer
from vantage_agent._config import Config
from vantage_agent._native import threads_are_greenlets
from vantage_agent._pack import MEDIA_TYPE
from vantage_agent._transport import BODY_NBYTES_MAX, Connection, Timeout
from vantage_agent._worker import WorkerNumber

RETRY_S_MAX = 30 * 60  # half as long as the server remembers a batch id, so that a retry is never stored twice
BACKOFF_S_FIRST = 1.0
BACKOFF_S_MAX = 60.0
RETRY_AFTER_S_MAX = 300.0  # even if the server requests more: its load or its clock may change
WARNING_INTERVAL_S = 60.0
COMPRESSION = 1  # a tenth larger than with 6, in less than half of the host's time
DETAIL_LENGTH_MAX = 200
JSON_NBYTES_MAX = 4 << 20  # estimated, before compression; the server accepts 8 MB

_log = logging.getLogger("vantage_agent")


@dataclass(frozen=True)
class Request:
    """A request that every attempt sends unchanged."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Response:
    """The result of one attempt. ``status`` is 0 without a response; ``detail`` says why."""

    status: int
    detail: str = ""
    retry_after_s: float = 0.0

    @property
    def is_accepted(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_retryable(self) -> bool:
        return self.status in (0, 429) or self.status >= 500


class Exporter:
    """Sends the items in the buffer. Used by one thread.

    ``pause(seconds)`` waits and returns False when the agent is stopping: then there is one further attempt, within
    ``remaining_s()`` seconds.
    """

    def __init__(
        self,
        config: Config,
        buffer: Buffer,
        worker: WorkerNumber,
        pause: Callable[[float], bool],
        remaining_s: Callable[[], float] | None = None,
    ) -> None:
        self._config = config
        self._buffer = buffer
        self._pause = pause
        self._remaining_s = remaining_s or (lambda: config.request_timeout_s)
        self._maker = BatchMaker(config, buffer, worker)
        self._connection: Connection | None = None
        self._uses_json = False
        self._warned_s: float | None = None

    def send_all(self) -> None:
        """Send until the buffer is empty. Return when each batch was accepted, or lost and counted."""
        # Items recorded meanwhile wait for the next round: a flush must end however busy the application is.
        remaining = len(self._buffer)
        while remaining > 0:
            batch = self._maker.next()
            if batch is None:
                return
            remaining -= batch.items
            self._deliver(batch)

    def close(self) -> None:
        """Close the connection, if it is open. It opens again when needed."""
        if self._connection is not None:
            try:
                self._connection.close()
            except Exception:
                pass

    def abandon(self) -> None:
        """Release the parent's connection in a forked child, without a message to the server, and without locks, which
        the parent's thread may have locked."""
        if self._connection is not None:
            self._connection.abandon()

    def _deliver(self, batch: Batch, *, may_halve: bool = True) -> None:
        if self._uses_json and batch.json_nbytes > JSON_NBYTES_MAX and batch.size > 1:
            for half in batch.halves():
                self._deliver(half, may_halve=may_halve)
            return
        for part in batch.by_kind() if self._uses_json else (batch,):
            try:
                request = self._json_request(part) if self._uses_json else self._packed_request(part)
            except Exception:
                self._lose(part, "internal_error")
                continue
            answer = self._send(part, request)
            if answer is not None:
                self._handle_response(part, answer, may_halve=may_halve)

    def _handle_response(self, batch: Batch, answer: Response, *, may_halve: bool) -> None:
        """Handle a final response."""
        if answer.is_accepted:
            if answer.detail:
                self._warn(f"the server rejected samples: {answer.detail}")
        elif answer.status == 415 and not self._uses_json:
            self._uses_json = True  # an older server, or another one that accepts the same JSON
            self._deliver(batch, may_halve=may_halve)
        elif answer.status == 413 and may_halve and batch.size > 1:
            self._maker.lower_limit()
            for half in batch.halves():
                self._deliver(half, may_halve=False)
        else:
            self._warn(f"{batch.items} samples lost, the server answered {answer.status}: {answer.detail}")
            self._lose(batch, f"refused_{answer.status}")

    def _lose(self, batch: Batch, reason: str) -> None:
        self._buffer.put_back_losses(batch.losses)
        self._buffer.count_loss(reason, batch.items)

    def _packed_request(self, batch: Batch) -> Request:
        return self._request(self._config.path, MEDIA_TYPE, batch, batch.packed(self._config.resource))

    def _json_request(self, batch: Batch) -> Request:
        path = self._config.path
        if not batch.spans:
            return self._request(path, "application/json", batch, batch.samples_as_json(self._config.resource))
        path = path.rpartition("/")[0] + "/spans"
        return self._request(path, "application/json", batch, batch.spans_as_json(self._config.resource))

    def _request(self, path: str, media_type: str, batch: Batch, body: bytes) -> Request:
        headers = {
            "Content-Type": media_type,
            "Content-Encoding": "gzip",
            "Idempotency-Key": batch.batch_id,
            "User-Agent": "vantage-agent",
        }
        if self._config.api_key:
            headers["X-API-Key"] = self._config.api_key
        return Request(path, headers, gzip.compress(body, COMPRESSION, mtime=0))

    def _send(self, batch: Batch, request: Request) -> Response | None:
        """Attempt until a response is final. Return None if the batch was lost without one."""
        give_up_s = time.monotonic() + RETRY_S_MAX
        backoff_s = BACKOFF_S_FIRST
        while True:
            answer = self._attempt(request)
            if not answer.is_retryable:
                return answer
            self._warn(f"cannot send, will retry: {answer.detail or f'the server answered {answer.status}'}")
            # Jitter, so that many agents do not come back at the same moment.
            wait_s = max(answer.retry_after_s, backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)
            if time.monotonic() + wait_s > give_up_s:
                self._lose(batch, "retries_exhausted")
                return None
            if not self._pause(wait_s):
                answer = self._attempt(request)  # stopping: one last try
                if not answer.is_retryable:
                    return answer
                self._lose(batch, "shutdown")
                return None

    def _attempt(self, request: Request) -> Response:
        is_reused = self._connection is not None and self._connection.sock is not None
        # One deadline for everything, however slowly the server sends.
        end_s = time.monotonic() + min(self._config.request_timeout_s, self._remaining_s())
        try:
            try:
                return self._exchange(request, end_s)
            except Timeout:
                raise
            except Exception:
                self.close()
                if not is_reused:
                    raise
                # The server closed the idle connection. Should it have read this batch before, it recognises the id.
                return self._exchange(request, end_s)
        except Exception as error:  # for any error, a later attempt may succeed
            self.close()
            return Response(0, f"{self._config.host}:{self._config.port}: {str(error) or type(error).__name__}")

    def _exchange(self, request: Request, end_s: float) -> Response:
        connection = self._connection
        if connection is None:
            connection = self._connection = Connection(self._config.scheme, self._config.host, self._config.port)
        connection.set_deadline(end_s)
        connection.request("POST", request.path, request.body, request.headers)
        response = connection.getresponse()
        text = response.read(BODY_NBYTES_MAX)
        if not response.isclosed():  # the rest is not worth waiting for
            self.close()
        return Response(response.status, _detail(response.status, text), _retry_after_s(response))

    def _warn(self, message: str) -> None:
        now_s = time.monotonic()
        if self._warned_s is None or now_s - self._warned_s >= WARNING_INTERVAL_S:
            self._warned_s = now_s
            try:
                message = printable(message)
                if threads_are_greenlets() == "eventlet" and sys.stderr is not None:
                    # The locks of its log handlers cannot be waited for in another thread.
                    sys.stderr.write(f"vantage_agent: {message}\n")
                else:
                    _log.warning("vantage_agent: %s", message)
            except Exception:  # a log handler of the application
                pass


def _retry_after_s(response: http.client.HTTPResponse) -> float:
    """Parse ``Retry-After``, a number or a date (RFC 9110, 10.2.3), into seconds; 0 when absent or invalid."""
    text = response.getheader("Retry-After", "") or ""
    try:
        return min(max(0.0, float(text)), RETRY_AFTER_S_MAX)
    except ValueError:
        pass
    try:
        wait_s = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        return min(max(0.0, wait_s), RETRY_AFTER_S_MAX)
    except (TypeError, ValueError, IndexError, OverflowError, OSError):
        return 0.0


def _detail(status: int, text: bytes) -> str:
    """Return one line for a warning: what was rejected in an accepted batch, or why a batch was refused."""
    detail = ""
    try:
        answer = json.loads(text)
        if not 200 <= status < 300:
            detail = str(answer.get("detail") or answer.get("title") or "")
        elif answer.get("rejected"):
            first = (answer.get("errors") or [{}])[0]
            reason = f" ({first.get('field')}: {first.get('reason')})" if first else ""
            detail = f"{answer['rejected']}{reason}"
    except (ValueError, AttributeError, LookupError, TypeError, RecursionError):
        detail = "" if 200 <= status < 300 else text[:DETAIL_LENGTH_MAX].decode("utf-8", "replace")
    return detail[:DETAIL_LENGTH_MAX]


def printable(text: str) -> str:
    """Return ``text`` with escapes for line feeds, controls and whatever else would act on a terminal or a log."""
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text])
