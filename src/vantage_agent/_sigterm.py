"""SIGTERM, where the application has left it to the system: what is left is sent before the process dies of it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

TERM_S = 2.0  # what the end of the process is held up by at most


class SigtermHandler:
    """``install`` and ``uninstall`` do nothing outside the main thread, where Python lets nobody set a handler."""

    def __init__(self) -> None:
        self._shutdown: Callable[[float], None] | None = None

    def install(self, shutdown: Callable[[float], None]) -> None:
        """A handler that calls ``shutdown(seconds)`` and lets the process die of the signal, unless the application
        has said what is to happen."""
        try:
            if _is_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, self._handle)
        except (ValueError, OSError):  # a thread that only seems to be the main one, as in subinterpreters
            pass
        self._shutdown = shutdown

    def uninstall(self) -> None:
        """As it was, unless somebody has set another one since."""
        try:
            if _is_main_thread() and signal.getsignal(signal.SIGTERM) == self._handle:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        except (ValueError, OSError):
            pass

    def _handle(self, number: int, _frame: Any) -> None:
        try:
            if self._shutdown is not None:
                self._shutdown(TERM_S)
        except Exception:
            pass
        # By the signal itself, so that whoever waits for the process learns what it died of.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


sigterm_handler = SigtermHandler()
