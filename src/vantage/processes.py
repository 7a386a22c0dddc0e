"""Several processes that serve one port: the first starts the others, watches and stops them, and serves nothing."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

import structlog

START_AGAIN_S: Final = (1.0, 30.0)  # after a process ended by itself: at first, at most
LASTED_S: Final = 60.0  # a process that ran so long is started again without a longer pause
_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_log = structlog.get_logger("vantage.processes")

ServeOne = Callable[[int, Callable[[], None]], int]


def serve_with(count: int, serve: ServeOne, on_ready: Callable[[], None]) -> int:
    """Run ``serve(number, ready)`` in ``count`` processes until a signal, and return the exit status.

    ``serve`` calls ``ready`` once it serves; ``on_ready`` is called when all do. A process that ends before that ends
    the others; one that ends later is started again, as often as it takes. This returns in each of the processes: in
    those that serve what ``serve`` returned, or it raises what that raised.
    """
    return _Processes(count, serve, on_ready).run()


class _Processes:
    def __init__(self, count: int, serve: ServeOne, on_ready: Callable[[], None]) -> None:
        self._count = count
        self._serve = serve
        self._on_ready = on_ready
        self._numbers: dict[int, int] = {}  # by process id
        self._began_s: dict[int, float] = {}  # by number
        self._due_s: dict[int, float] = {}  # when those that ended are started again
        self._pause_s = START_AGAIN_S[0]
        self._were_ready: set[int] = set()
        self._stopping = False
        self._signals: list[int] = []  # to hand on
        self._status = 0
        self._lifeline = os.pipe()  # its end tells the processes that this one is gone
        self._said_ready = os.pipe()
        self._woken = os.pipe()  # by any signal

    def run(self) -> int:
        for end in (*self._woken, self._said_ready[0]):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._woken[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for name in _HANDLED:
            if signal.getsignal(name) != signal.SIG_IGN:  # as by nohup
                signal.signal(name, self._on_signal)
        self._due_s = {0: 0.0}  # the others when it is ready: what keeps it from starting is said once
        while self._numbers or (self._due_s and not self._stopping):
            for number in [] if self._stopping else self._due():
                del self._due_s[number]
                self._began_s[number] = time.monotonic()
                pid = os.fork()
                if not pid:
                    return self._run_one(number)
                self._numbers[pid] = number
            self._wait()
            self._note_ready()
            self._note_ended()
        return self._status

    def _due(self) -> list[int]:
        return [number for number, due_s in self._due_s.items() if due_s <= time.monotonic()]

    def _run_one(self, number: int) -> int:
        """Serve, in a process of its own."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for name in _HANDLED:
            if signal.getsignal(name) == self._on_signal:
                signal.signal(name, signal.SIG_DFL)
        os.close(self._lifeline[1])
        threading.Thread(target=self._end_with_parent, name="vantage-parent", daemon=True).start()
        return self._serve(number, lambda: _write(self._said_ready[1], number))

    def _end_with_parent(self) -> None:
        os.read(self._lifeline[0], 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def _wait(self) -> None:
        """Wait for a signal, for a process that is ready, and for the time to start one again."""
        next_s = min(self._due_s.values(), default=float("inf")) - time.monotonic()
        timeout_s = None if self._stopping or next_s == float("inf") else max(0.0, next_s)
        select.select([self._woken[0], self._said_ready[0]], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            while os.read(self._woken[0], 512):
                pass
        while self._signals:
            number = self._signals.pop(0)
            for pid in self._numbers:
                os.kill(pid, number)

    def _note_ready(self) -> None:
        before = len(self._were_ready)
        with contextlib.suppress(BlockingIOError):
            self._were_ready |= set(os.read(self._said_ready[0], 512))
        if before == 0 and self._were_ready:
            self._due_s |= dict.fromkeys(range(1, self._count), 0.0)
        if before < len(self._were_ready) == self._count:
            self._on_ready()

    def _note_ended(self) -> None:
        while self._numbers:
            pid, wait_status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            number, status = self._numbers.pop(pid), os.waitstatus_to_exitcode(wait_status)
            if self._stopping:
                self._status = max(self._status, 0 if -status in _HANDLED else abs(status))
            elif number not in self._were_ready:  # it has said why
                self._status = abs(status) or 1
                self._on_signal(signal.SIGTERM, None)
            else:
                lasted = time.monotonic() - self._began_s[number] > LASTED_S
                self._pause_s = START_AGAIN_S[0] if lasted else min(2 * self._pause_s, START_AGAIN_S[1])
                self._due_s[number] = time.monotonic() + self._pause_s
                _log.error("a process ended, starting it again", process=number, status=status, pause_s=self._pause_s)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        self._signals.append(number)
        _write(self._woken[1], 0)


def _write(pipe: int, number: int) -> None:
    with contextlib.suppress(OSError):  # nobody reads, or it is full: then the other end wakes anyway
        os.write(pipe, bytes([number]))
