"""The agent's life in a process: it records in the application's threads and sends in one of its own."""

from __future__ import annotations

import math
import queue
import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from vantage_agent._batch import RECORDED_SAMPLE, RECORDED_SPAN, TAG_VALUE_LENGTH_MAX, TAGS_MAX
from vantage_agent._buffer import Buffer
from vantage_agent._config import Config
from vantage_agent._context import seed_ids
from vantage_agent._counters import counters
from vantage_agent._exporter import Exporter
from vantage_agent._runtime import RuntimeMetrics
from vantage_agent._tracer import tracer

KINDS = frozenset(("counter", "gauge", "histogram", "cumulative"))
SPAN_KINDS = frozenset(("internal", "server", "client", "producer", "consumer"))
SPAN_STATUSES = frozenset(("unset", "ok", "error"))
NAME_LENGTH_MAX = 255
UNIT_LENGTH_MAX = 63
TAG_KEY_LENGTH_MAX = 64
SPAN_NAME_LENGTH_MAX = 512
ATTRIBUTES_MAX = 64
ATTRIBUTE_KEY_LENGTH_MAX = 128
ATTRIBUTE_VALUE_LENGTH_MAX = 2048  # longer values are cut
INT64_MAX = 2**63 - 1
SAMPLE_NBYTES = 250  # of memory, without tags
SPAN_NBYTES = 540
PAIR_NBYTES = 150
RUNTIME_INTERVAL_S = 15.0

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class Agent:
    """Records without raising, and sends from a daemon thread.

    The thread starts with the first thing recorded, not before: an application that is initialised before it forks
    then forks a process of one thread, as it would without the agent.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stopping = False
        self._stop_s = 0.0  # when the time that ``shutdown`` was given is over
        self._exporter: Exporter | None = None  # the thread's
        self._runtime = RuntimeMetrics(self._keep_runtime) if config.runtime_metrics else None
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Begin anew: the thread and the locks' owners are the parent's, and so is what is recorded: it sends that."""
        config = self._config
        before, self._exporter = self._exporter, None
        self._buffer = Buffer(items_max=config.items_max, nbytes_max=config.nbytes_max)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        # A SimpleQueue may be put into from a signal handler, which the locks inside an Event do not survive.
        self._wake: queue.SimpleQueue[threading.Event | None] = queue.SimpleQueue()
        self._flushes: list[threading.Event] = []  # touched by the thread alone, as the two below
        self._gather_s = self._measure_s = 0.0  # when it is time to
        seed_ids()
        if before is not None:
            before.abandon()
        if self._stopping:
            return
        counters.reset(self._ensure_thread, self._buffer.count_loss)
        tracer.attach(self._buffer, self._keep, self._look, sample_rate=config.trace_sample_rate)
        if self._runtime is not None:
            self._runtime.start()

    def record_metric(
        self,
        name: Any,
        value: Any,
        kind: Any,
        tags: Any,
        unit: Any,
        timestamp_ms: Any,
        trace_id: Any,
        span_id: Any,
    ) -> None:
        """Keep one sample, or count it as invalid."""
        try:
            number = float(value)
            time_ms = time.time_ns() // 1_000_000 if timestamp_ms is None else int(timestamp_ms)
            if (
                kind not in KINDS
                or not math.isfinite(number)
                or not -INT64_MAX <= time_ms <= INT64_MAX
                or not isinstance(name, str)
                or not 0 < len(name) <= NAME_LENGTH_MAX
                or len(unit) > UNIT_LENGTH_MAX
            ):
                raise ValueError("not a sample")
            trace = "" if trace_id is None else _identifier(trace_id)
            span = "" if span_id is None else _identifier(span_id)
            pairs = _tags(tags) if tags else ()
            nbytes = SAMPLE_NBYTES + sum([PAIR_NBYTES + len(key) + len(text) for key, text in pairs])
            self._keep(nbytes, RECORDED_SAMPLE, (name, kind, str(unit), pairs, time_ms, number, trace, span))
        except Exception:
            self._buffer.count_loss("invalid")

    def record_span(
        self,
        name: Any,
        trace_id: Any,
        span_id: Any,
        start_ns: Any,
        duration_ns: Any,
        parent_span_id: Any,
        kind: Any,
        status: Any,
        attributes: Any,
    ) -> None:
        """Keep one span, or count it as invalid. One bad field would make the server refuse the whole batch."""
        try:
            span: dict[str, Any] = {
                "trace_id": _identifier(trace_id),
                "span_id": _identifier(span_id),
                "name": str(name)[:SPAN_NAME_LENGTH_MAX],
                "start_ns": int(start_ns),
                "duration_ns": int(duration_ns),
                "kind": kind,
                "status": status,
            }
            if (
                not all((span["trace_id"], span["span_id"], span["name"]))
                or not 0 <= span["start_ns"] <= INT64_MAX
                or not 0 <= span["duration_ns"] <= INT64_MAX
                or kind not in SPAN_KINDS
                or status not in SPAN_STATUSES
            ):
                raise ValueError("not a span")
            if parent_span_id is not None and (parent := _identifier(parent_span_id)):
                span["parent_span_id"] = parent
            nbytes = SPAN_NBYTES
            if attributes:
                kept = span["attributes"] = {
                    str(key)[:ATTRIBUTE_KEY_LENGTH_MAX]: str(value)[:ATTRIBUTE_VALUE_LENGTH_MAX]
                    for key, value in list(attributes.items())[:ATTRIBUTES_MAX]
                }
                nbytes += sum([PAIR_NBYTES + len(key) + len(text) for key, text in kept.items()])
            self._keep(nbytes, RECORDED_SPAN, span)
        except Exception:
            self._buffer.count_loss("invalid")

    def flush(self, timeout_s: float) -> bool:
        """True when what is recorded now was sent, or lost and counted, within ``timeout_s``."""
        if self._thread is None:
            self._gather()
            if not len(self._buffer):
                return True
        self._ensure_thread()
        done = threading.Event()
        self._wake.put(done)
        return done.wait(timeout_s)

    def shutdown(self, timeout_s: float) -> None:
        """Send what is left for at most ``timeout_s``, then leave the thread behind: it is a daemon."""
        if not self._stopping:
            self._gather()
            tracer.detach()
            counters.stop()
            if self._runtime is not None:
                self._runtime.stop()
            self._stop_s = time.monotonic() + timeout_s
            self._stopping = True
        if len(self._buffer):
            self._ensure_thread()
        thread = self._thread
        if thread is not None:
            self._wake.put(None)
            thread.join(timeout_s)

    def _keep(self, nbytes: int, what: int, item: Any) -> None:
        if self._buffer.append(nbytes, what, item):
            self._wake.put(None)
        if self._thread is None:
            self._ensure_thread()

    def _look(self) -> None:
        if self._buffer.check():
            self._wake.put(None)
        if self._thread is None:
            self._ensure_thread()

    def _keep_runtime(self, name: str, kind: str, unit: str, value: float) -> None:
        time_ms = time.time_ns() // 1_000_000
        self._keep(SAMPLE_NBYTES, RECORDED_SAMPLE, (name, kind, unit, (), time_ms, value, "", ""))

    def _gather(self) -> None:
        """What was held back for the end of the interval goes into the buffer."""
        tracer.take_slowest()
        time_ms = time.time_ns() // 1_000_000
        for (metric, tags), (count, trace_id, span_id) in counters.take().items():
            self._keep(SAMPLE_NBYTES, RECORDED_SAMPLE, (metric, "counter", "", tags, time_ms, count, trace_id, span_id))

    def _ensure_thread(self) -> None:
        # Whoever finds the lock taken leaves: another thread, or the code this one interrupted, is starting it.
        if self._thread is None and self._starting.acquire(blocking=False):
            try:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="vantage-agent", daemon=True)
                    thread.start()
                    self._thread = thread
            except RuntimeError:  # the system has no thread to give: the next thing recorded asks again
                self._buffer.look_at = 0
            finally:
                self._starting.release()

    def _run(self) -> None:
        exporter = self._exporter = Exporter(self._config, self._buffer, self._pause, self._left_s)
        self._gather_s = time.monotonic() + self._config.flush_interval_s
        self._measure_s = time.monotonic() + RUNTIME_INTERVAL_S
        while True:
            if not self._stopping and not self._flushes:
                self._wait(self._gather_s)
            asked, self._flushes = self._flushes, []
            try:
                self._gather_s = 0.0
                self._tick()
                exporter.send_all()
            except Exception:  # the thread must live
                self._buffer.count_loss("internal_error")
            if self._buffer.reset_wakeup():
                self._wake.put(None)
            for done in asked:
                done.set()
            if self._stopping and (not len(self._buffer) or self._left_s() <= 0):
                exporter.close()
                return

    def _tick(self) -> None:
        """Do what is due by the clock, also while the server is away: otherwise the figures of an hour would become
        one sample."""
        now_s = time.monotonic()
        try:
            if self._stopping:  # ``shutdown`` has gathered, perhaps in a signal handler that holds the locks it needs
                return
            if now_s >= self._gather_s:
                self._gather_s = now_s + self._config.flush_interval_s
                self._gather()
            if now_s >= self._measure_s:
                self._measure_s = now_s + RUNTIME_INTERVAL_S
                if self._runtime is not None:
                    self._runtime.measure()
        except Exception:
            self._buffer.count_loss("internal_error")

    def _wait(self, end_s: float) -> bool:
        """Until ``end_s``, or earlier when somebody flushes, the buffer fills, or the agent stops: then False."""
        while not self._is_woken(min(end_s, self._measure_s) - time.monotonic()):
            if self._stopping:
                return False
            if time.monotonic() >= end_s:
                return True
            self._tick()
        return False

    def _is_woken(self, timeout_s: float) -> bool:
        try:
            message = self._wake.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return False
        if message is not None:
            self._flushes.append(message)
        return True

    def _pause(self, seconds: float) -> bool:
        """Wait between two attempts; False when the agent stops. A flush meanwhile waits for the next round."""
        end_s = time.monotonic() + seconds
        while not self._stopping:
            now_s = time.monotonic()
            if now_s >= end_s:
                return True
            self._tick()
            self._wait(min(end_s, self._gather_s))
        return False

    def _left_s(self) -> float:
        """What an attempt may take."""
        return self._stop_s - time.monotonic() if self._stopping else self._config.request_timeout_s


def _identifier(value: Any) -> str:
    """A trace or span id, or '' when it is none: a sample without its link is worth more than no sample."""
    text = str(value)
    return text if _ID.fullmatch(text) else ""


def _tags(tags: Mapping[Any, Any]) -> tuple[tuple[str, str], ...]:
    """Copied as text at once: the mapping may change, and what it holds should not be kept alive."""
    pairs = tuple(
        [
            (
                str(key),
                value
                if type(value) is str and len(value) <= TAG_VALUE_LENGTH_MAX
                else str(value)[:TAG_VALUE_LENGTH_MAX],
            )
            for key, value in tags.items()
        ]
    )
    if len(pairs) > TAGS_MAX or not all(0 < len(key) <= TAG_KEY_LENGTH_MAX for key, _ in pairs):
        raise ValueError("too many tags, or keys too long")
    return pairs
