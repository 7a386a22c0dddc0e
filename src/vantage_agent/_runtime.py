"""Metrics of the process: CPU, memory, threads, files, pauses of garbage collection, the event loop's lag.

Measured in the exporter's thread. Metrics from ``/proc`` are missing on systems other than Linux.
"""

from __future__ import annotations

import gc
import os
import sys
import time
import weakref
from collections.abc import Callable
from contextvars import Context
from typing import Any

from vantage_agent._native import new_rlock

PROBE_S = 0.5  # how often a loop is probed
LOOPS_MAX = 100
_FILES = "/proc/self/fd"

_page_nbytes = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_monotonic = time.monotonic


class RuntimeMetrics:
    """Measures the process; ``record(name, kind, unit, value)`` records each value."""

    def __init__(self, record: Callable[[str, str, str, float], None]) -> None:
        self._record = record

    def start(self) -> None:
        """Begin an interval, and watch garbage collection. May be called again, in a forked child."""
        self._measured_s = _monotonic()
        self._cpu_s = time.process_time()
        self._gc_began_s = 0.0
        self._gc_pause_s = 0.0
        self._gc_count = 0
        if self._on_gc not in gc.callbacks:
            gc.callbacks.append(self._on_gc)
        _loops.start()

    def stop(self) -> None:
        _loops.stop()
        try:
            gc.callbacks.remove(self._on_gc)
        except ValueError:
            pass

    def measure(self) -> None:
        """Record the interval that ends, and begin the next."""
        now_s, cpu_s = _monotonic(), time.process_time()
        took_s = max(now_s - self._measured_s, 1e-3)
        self._record("process.cpu.percent", "gauge", "%", (cpu_s - self._cpu_s) / took_s * 100)
        self._measured_s, self._cpu_s = now_s, cpu_s
        try:
            threads, rss_nbytes = _threads_and_rss()
            self._record("process.memory.rss", "gauge", "By", rss_nbytes)
            self._record("process.threads", "gauge", "", threads)
            self._record("process.open_files", "gauge", "", len(os.listdir(_FILES)) - 1)  # noqa: PTH208  # one is the listing's own
        except (OSError, ValueError, IndexError):
            pass
        pause_s, self._gc_pause_s = self._gc_pause_s, 0.0
        count, self._gc_count = self._gc_count, 0
        self._record("process.gc.pause", "gauge", "ms", pause_s * 1000)
        self._record("process.gc.collections", "counter", "", count)
        lag_s = _loops.take_lag_s()
        if lag_s is not None:
            self._record("process.event_loop.lag", "gauge", "ms", lag_s * 1000)

    def _on_gc(self, phase: str, _info: dict[str, Any]) -> None:
        """Measure a collection; the garbage collector calls this in the thread it interrupts."""
        if phase == "start":
            self._gc_began_s = _monotonic()
        elif self._gc_began_s:
            self._gc_pause_s = max(self._gc_pause_s, _monotonic() - self._gc_began_s)
            self._gc_count += 1


def _threads_and_rss() -> tuple[int, int]:
    """Return threads and resident bytes: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, fields 20, 24."""
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
        fields = file.read().rpartition(b")")[2].split()  # the second field, in parentheses, may contain anything
    return int(fields[17]), int(fields[21]) * _page_nbytes


class _Loops:
    """The application's event loops, by weak references."""

    def __init__(self) -> None:
        self.is_on = False
        self.last: Callable[[], Any] = _no_loop  # the last loop seen, weakly
        self._lock = new_rlock()  # a signal handler may end the agent
        self._probes: dict[int, _Probe] = {}  # by the loop's id
        self.lag_s = 0.0
        self.has_measured = False

    def start(self) -> None:
        self._lock = new_rlock()  # after a fork the old one may be locked by a thread that no longer exists
        self.stop()
        self.is_on = True

    def stop(self) -> None:
        """Stop the probes at their next call."""
        with self._lock:
            self.is_on = False
            self.last = _no_loop
            for probe in self._probes.values():
                probe.is_on = False
            self._probes = {}
            self.lag_s = 0.0
            self.has_measured = False

    def watch(self, loop: Any) -> None:
        """Measure a loop from now on. Called in the loop's own thread."""
        with self._lock:
            if not self.is_on:
                return
            probe = self._probes.get(id(loop))
            if probe is None or probe.loop() is not loop:
                self._probes = {key: alive for key, alive in self._probes.items() if alive.is_alive}
                if len(self._probes) >= LOOPS_MAX:
                    return
                probe = self._probes[id(loop)] = _Probe(loop)
                probe.schedule(loop)
            self.last = probe.loop

    def take_lag_s(self) -> float | None:
        """Return the longest lag of all loops since the last call; None when none ran."""
        lag_s, self.lag_s = self.lag_s, 0.0
        has_measured, self.has_measured = self.has_measured, False
        for probe in list(self._probes.values()):
            loop = probe.loop()
            if loop is not None and loop.is_running() and probe.due_s < _monotonic():  # it is late right now
                lag_s = max(lag_s, _monotonic() - probe.due_s)
                has_measured = True
        return lag_s if has_measured else None


class _Probe:
    """A timer of one loop that renews itself and records its delay."""

    def __init__(self, loop: Any) -> None:
        self.loop = weakref.ref(loop)
        self.is_on = True
        self.due_s = 0.0

    @property
    def is_alive(self) -> bool:
        loop = self.loop()
        return loop is not None and not loop.is_closed()

    def schedule(self, loop: Any) -> None:
        self.due_s = _monotonic() + PROBE_S
        # In an empty context: the current one contains values of one request.
        loop.call_later(PROBE_S, self, context=Context())

    def __call__(self) -> None:
        """Record the lag and schedule the next call. The loop calls this."""
        try:
            loop = self.loop()
            if not self.is_on or loop is None:
                return
            _loops.lag_s = max(_loops.lag_s, _monotonic() - self.due_s)
            _loops.has_measured = True
            self.schedule(loop)
        except Exception:
            pass


def watch_loop() -> None:
    """Measure the lag of the running event loop from now on, if there is one. Cheap enough for each request."""
    if _loops.is_on:
        asyncio = sys.modules.get("asyncio")
        if asyncio is not None:
            # Unlike ``get_running_loop`` it does not raise when another kind of loop runs.
            loop = asyncio._get_running_loop()  # noqa: SLF001
            if loop is not None and loop is not _loops.last():
                _loops.watch(loop)


def _no_loop() -> None:
    """Return None: no loop has been seen."""


_loops = _Loops()
