"""Handle SIGTERM, if the application does not: send the rest before the process ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

TERM_S = 2.0  # the longest delay of the end of the process


class SigtermHandler:
    """Installs the handler. Does nothing outside the main thread, where Python cannot set handlers."""

    def __init__(self) -> None:
        self._shutdown: Callable[[float], None] | None = None

    def install(self, shutdown: Callable[[float], None]) -> None:
        """Install a handler that calls ``shutdown(seconds)`` and lets the signal end the process, unless the
        application has set a handler."""
        try:
            if _is_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, self._handle)
        except (ValueError, OSError):  # a thread that only seems to be the main thread, as in subinterpreters
            pass
        self._shutdown = shutdown

    def uninstall(self) -> None:
        """Restore the default, unless somebody has set another handler since."""
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
        # End by the signal itself, so that the parent process sees the cause.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


sigterm_handler = SigtermHandler()
