"""The agent of a process: records in the application's threads and sends in a thread of its own."""

from __future__ import annotations

import math
import queue
import re
import time
from collections.abc import Mapping
from typing import Any

from vantage_agent._batch_maker import RECORDED_SAMPLE, RECORDED_SPAN, TAG_VALUE_LENGTH_MAX, TAGS_MAX
from vantage_agent._buffer import Buffer
from vantage_agent._config import Config
from vantage_agent._context import seed_ids
from vantage_agent._counters import counters
from vantage_agent._exporter import Exporter
from vantage_agent._native import SimpleQueue, new_lock, start_thread, wait_for
from vantage_agent._runtime import RuntimeMetrics
from vantage_agent._sigterm import sigterm_handler
from vantage_agent._span import recording
from vantage_agent._tracer import tracer
from vantage_agent._worker import WorkerNumber

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

    The thread starts with the first item, not before: an application that is initialised before it forks then forks a
    process of one thread, as it would without the agent.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stopping = False
        self._threads_are_over = False  # the interpreter ends, and starts none any more
        self._stop_s = 0.0  # when the timeout of ``shutdown`` ends
        self._exporter: Exporter | None = None  # used by the thread
        self._worker = WorkerNumber(config.service_name, config.environment, config.instance)
        self._runtime = RuntimeMetrics(self._append_runtime) if config.runtime_metrics else None
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Reset in the child: threads and lock owners belong to the parent, which also sends what was recorded before
        the fork."""
        config = self._config
        previous, self._exporter = self._exporter, None
        self._buffer = Buffer(items_max=config.items_max, nbytes_max=config.nbytes_max)
        self._starting = new_lock()
        self._ended: Any = None  # locked while the thread runs; None before it was started
        # A signal handler may put into a SimpleQueue, but not set an Event, whose lock may be locked.
        self._wake: SimpleQueue[Any] = SimpleQueue()
        self._flushes: list[Any] = []  # locks to release; used by the thread alone, as are the two below
        self._gather_s = self._measure_s = 0.0  # when that is due
        seed_ids()
        self._worker.reset_after_fork()
        if previous is not None:
            previous.abandon()
        if self._stopping:
            return
        counters.reset(self._ensure_thread, self._buffer.count_loss)
        recording.is_on = config.record_exceptions
        tracer.attach(self._buffer, self._append, self._check, sample_rate=config.trace_sample_rate)
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
        """Record one sample, or count it as invalid."""
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
            self._append(nbytes, RECORDED_SAMPLE, (name, kind, str(unit), pairs, time_ms, number, trace, span))
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
        """Record one span, or count it as invalid: the server would reject the complete batch for one bad field."""
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
                texts = span["attributes"] = {
                    str(key)[:ATTRIBUTE_KEY_LENGTH_MAX]: str(value)[:ATTRIBUTE_VALUE_LENGTH_MAX]
                    for key, value in list(attributes.items())[:ATTRIBUTES_MAX]
                }
                nbytes += sum([PAIR_NBYTES + len(key) + len(text) for key, text in texts.items()])
            self._append(nbytes, RECORDED_SPAN, span)
        except Exception:
            self._buffer.count_loss("invalid")

    def flush(self, timeout_s: float) -> bool:
        """Return whether everything recorded so far was sent, or lost and counted, within ``timeout_s``."""
        if self._ended is None:
            self._gather()
            if not len(self._buffer):
                return True
        if not self._ensure_thread() and self._threads_are_over:
            return self._send_here(timeout_s)
        done = new_lock()
        done.acquire()
        self._wake.put(done)
        return wait_for(done, timeout_s)

    def shutdown(self, timeout_s: float) -> None:
        """Send the rest for at most ``timeout_s``, then abandon the thread, which is a daemon."""
        if not self._stopping:
            self._gather()
            tracer.detach()
            counters.stop()
            if self._runtime is not None:
                self._runtime.stop()
            self._stop_s = time.monotonic() + timeout_s
            self._stopping = True
        if len(self._buffer) and not self._ensure_thread():
            self._send_here(timeout_s)
        ended = self._ended
        if ended is not None:
            self._wake.put(None)
            if wait_for(ended, timeout_s):
                ended.release()

    def _send_here(self, timeout_s: float) -> bool:
        """Send in the caller's thread: since 3.12 Python starts no thread once the interpreter ends. Return whether the
        buffer is empty."""
        end_s = time.monotonic() + timeout_s
        exporter = Exporter(self._config, self._buffer, self._worker, lambda _: False, lambda: end_s - time.monotonic())
        exporter.send_all()
        exporter.close()
        return not len(self._buffer)

    def _append(self, nbytes: int, what: int, item: Any) -> None:
        if self._buffer.append(nbytes, what, item):
            self._wake.put(None)
        if self._ended is None:
            self._ensure_thread()

    def _check(self) -> None:
        if self._buffer.check():
            self._wake.put(None)
        if self._ended is None:
            self._ensure_thread()

    def _append_runtime(self, name: str, kind: str, unit: str, value: float) -> None:
        time_ms = time.time_ns() // 1_000_000
        # A level is that of this process; increments add up.
        tags = tuple(self._worker.tags.items()) if kind == "gauge" else ()
        self._append(SAMPLE_NBYTES, RECORDED_SAMPLE, (name, kind, unit, tags, time_ms, value, "", ""))

    def _gather(self) -> None:
        """Move what waited for the end of the interval into the buffer."""
        tracer.take_slowest()
        time_ms = time.time_ns() // 1_000_000
        for (metric, tags), (count, trace_id, span_id) in counters.take().items():
            self._append(
                SAMPLE_NBYTES, RECORDED_SAMPLE, (metric, "counter", "", tags, time_ms, count, trace_id, span_id)
            )

    def _ensure_thread(self) -> bool:
        """Start the thread, unless it runs. Return False if the system has no thread for it."""
        # If the lock is locked, another thread, or the code this one interrupted, is starting the thread.
        if self._ended is None and self._starting.acquire(False):
            try:
                if self._ended is None:
                    ended = new_lock()
                    ended.acquire()
                    start_thread(lambda: self._run_until_end(ended))
                    self._ended = ended
            except RuntimeError as error:  # the next item tries again
                self._threads_are_over = "interpreter shutdown" in str(error)
                self._buffer.check_at_len = 0
                return False
            finally:
                self._starting.release()
        return True

    def _run_until_end(self, ended: Any) -> None:
        try:
            sigterm_handler.watch()
            self._run()
        finally:
            ended.release()

    def _run(self) -> None:
        exporter = self._exporter = Exporter(self._config, self._buffer, self._worker, self._pause, self._remaining_s)
        self._gather_s = time.monotonic() + self._config.flush_interval_s
        self._measure_s = time.monotonic() + RUNTIME_INTERVAL_S
        while True:
            if not self._stopping and not self._flushes:
                self._wait(self._gather_s)
            flushes, self._flushes = self._flushes, []
            try:
                self._gather_s = 0.0
                self._tick()
                exporter.send_all()
            except Exception:  # the thread must go on
                self._buffer.count_loss("internal_error")
            if self._buffer.reset_wakeup():
                self._wake.put(None)
            for done in flushes:
                done.release()
            if self._stopping and (not len(self._buffer) or self._remaining_s() <= 0):
                exporter.close()
                self._worker.release()
                return

    def _tick(self) -> None:
        """Do what is due, also while the server is unavailable: otherwise the counts of an hour would become one
        sample."""
        now_s = time.monotonic()
        try:
            if self._stopping:  # ``shutdown`` has gathered, perhaps in a signal handler that owns the locks
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
        """Wait until ``end_s``. Return False if a flush, a full buffer or the end of the agent came first."""
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
        """Wait between two attempts. Return False when the agent stops. A flush meanwhile waits for the next round."""
        end_s = time.monotonic() + seconds
        while not self._stopping:
            now_s = time.monotonic()
            if now_s >= end_s:
                return True
            self._tick()
            self._wait(min(end_s, self._gather_s))
        return False

    def _remaining_s(self) -> float:
        """Return the seconds that an attempt may take."""
        return self._stop_s - time.monotonic() if self._stopping else self._config.request_timeout_s


def _identifier(value: Any) -> str:
    """Return a trace or span id, or '' if it is invalid: better a sample without a trace than no sample."""
    text = str(value)
    return text if _ID.fullmatch(text) else ""


def _tags(tags: Mapping[Any, Any]) -> tuple[tuple[str, str], ...]:
    """Copy tags as text at once: the mapping may change, and its values must not be kept alive."""
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
