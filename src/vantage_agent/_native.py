"""Threads and locks of the system, also in programs whose threads are greenlets.

gevent and eventlet replace threads, locks, queues and sockets of the standard library by those of greenlets, which all
run in one thread: a wait of C there stops the application. So the agent's threads are threads of the system, in
whatever order it was started and the library replaced, and use nothing that was replaced.
"""

from __future__ import annotations

import _thread
import sys
import time
from collections.abc import Callable
from typing import Any

try:
    from _queue import SimpleQueue  # ``queue`` may have another one by now
except ImportError:  # another implementation of Python
    from queue import SimpleQueue

__all__ = [
    "SimpleQueue",
    "new_lock",
    "new_rlock",
    "reset_after_fork",
    "start_thread",
    "threads_are_greenlets",
    "wait_for",
]

POLL_S_FIRST = 0.001
POLL_S_MAX = 0.02


def _original(name: str) -> Any:
    """Return a function of ``_thread`` as Python has it."""
    if (monkey := sys.modules.get("gevent.monkey")) is not None:
        return monkey.get_original("_thread", name)
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        return getattr(patcher.original("_thread"), name)
    return getattr(_thread, name)


# At import, since there may be no way to find them later.
_start_new_thread: Callable[..., int] = _original("start_new_thread")
_get_ident: Callable[[], int] = _original("get_ident")
new_lock: Callable[[], Any] = _original("allocate_lock")
new_rlock: Callable[[], Any] = _original("RLock")
_own_threads: set[int] = set()  # idents of the agent's threads


def reset_after_fork() -> None:
    """Reset in the child, which has none of the parent's threads but may reuse their idents."""
    _own_threads.clear()


def threads_are_greenlets() -> str:
    """Return the library whose greenlets replace threads now, '' if they are threads."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        return "gevent"
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        return "eventlet"
    return ""


def start_thread(run: Callable[[], None]) -> None:
    """Start a thread that keeps no process alive. Raise RuntimeError if the system has none left, or the interpreter
    ends. ``threading`` does not know it: it may be replaced while the thread runs."""

    def running() -> None:
        ident = _get_ident()
        _own_threads.add(ident)
        try:
            run()
        finally:
            _own_threads.discard(ident)

    _start_new_thread(running, ())


def wait_for(lock: Any, timeout_s: float) -> bool:
    """Acquire ``lock``, for at most ``timeout_s``; other greenlets run meanwhile. Return whether it was acquired."""
    end_s = time.monotonic() + timeout_s
    library = "" if _get_ident() in _own_threads else threads_are_greenlets()
    if library:
        pause_s = POLL_S_FIRST
        try:
            while not lock.acquire(False):
                remaining_s = end_s - time.monotonic()
                if remaining_s <= 0:
                    return False
                sys.modules[library].sleep(min(pause_s, remaining_s))
                pause_s = min(pause_s * 2, POLL_S_MAX)
            return True
        except Exception:  # the loop of the greenlets itself, as in a signal handler: nobody else could run
            pass
    return bool(lock.acquire(timeout=max(end_s - time.monotonic(), 0.0)))
