"""Handle SIGTERM, if the application does not: send the rest before the process ends.

Python runs a handler when the main thread comes back to Python, which a long call of C delays. But it writes the
number of a signal to a file descriptor at once, which a thread of the agent's reads. There is one such descriptor a
process: asyncio, trio and others set theirs, and do not see the agent's meanwhile.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from vantage_agent._native import start_thread
from vantage_agent._patch import Patches

TERM_S = 2.0  # the longest delay of the end of the process
SIGNALS_NBYTES = 64  # read at a time, one byte a signal
FD_MAX = 1024
FDS_BELOW_MAX = 32


class SigtermHandler:
    """Installs the handler. Does nothing outside the main thread, where Python cannot set handlers."""

    def __init__(self) -> None:
        self._shutdown: Callable[[float], None] | None = None
        self._pipe: tuple[int, int] | None = None  # where Python writes signals, and the thread reads them
        self._is_watching = False
        self._patches = Patches()

    def install(self, shutdown: Callable[[float], None]) -> None:
        """Install a handler that calls ``shutdown(seconds)`` and lets the signal end the process, unless the
        application has set a handler."""
        self._shutdown = shutdown
        try:
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, self._handle)
                self._open()
        except (ValueError, OSError):  # not the main thread
            pass

    def uninstall(self) -> None:
        """Restore the default, unless somebody has set another handler since."""
        try:
            if signal.getsignal(signal.SIGTERM) == self._handle:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                self._close()
        except (ValueError, OSError):
            pass

    def watch(self) -> None:
        """Watch for the signal in a thread, from now on. Without a thread, the signal waits for the main thread."""
        pipe = self._pipe
        if pipe is None or self._is_watching:
            return
        self._is_watching = True
        try:
            start_thread(lambda: self._watch(pipe[0]))
        except RuntimeError:  # the system has none left
            self._is_watching = False

    def reset_after_fork(self) -> None:
        """Reset in the child, whose signals must not reach the parent's pipe."""
        pipe, self._pipe, self._is_watching = self._pipe, None, False
        self._patches.undo()
        if pipe is None:
            return
        try:
            current = signal.set_wakeup_fd(-1)
            if current != pipe[1]:
                signal.set_wakeup_fd(current)
            os.close(pipe[0])
            os.close(pipe[1])
            self._open()
        except (ValueError, OSError):
            pass

    def _open(self) -> None:
        before = signal.set_wakeup_fd(-1)
        if before != -1:  # somebody else's
            signal.set_wakeup_fd(before)
            return
        try:
            self._pipe = _high_pipe()
        except (ImportError, AttributeError):  # Windows: the signal waits for the main thread
            return
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._patches.wrap(signal, "set_wakeup_fd", self._make_hidden)

    def _close(self) -> None:
        pipe, self._pipe = self._pipe, None
        self._patches.undo()
        if pipe is None:
            return
        current = signal.set_wakeup_fd(-1)
        if current != pipe[1]:
            signal.set_wakeup_fd(current)
        os.close(pipe[1])  # so that the thread reads the end, and closes the other
        if not self._is_watching:
            os.close(pipe[0])
        self._is_watching = False

    def _make_hidden(self, set_wakeup_fd: Any) -> Any:
        """Return ``set_wakeup_fd`` as if the agent's descriptor were none: trio warns of another's, and asyncio leaves
        none when it ends."""

        def wrapper(fd: int, *args: Any, **kwargs: Any) -> int:
            before: int = set_wakeup_fd(fd, *args, **kwargs)
            ours = -1 if self._pipe is None else self._pipe[1]
            if fd == -1 and ours != -1:
                set_wakeup_fd(ours, warn_on_full_buffer=False)
            return -1 if before == ours else before

        return wrapper

    def _watch(self, fd: int) -> None:
        try:
            while numbers := os.read(fd, SIGNALS_NBYTES):
                if signal.SIGTERM in numbers and signal.getsignal(signal.SIGTERM) == self._handle:
                    self._send_rest()
                    _end_by(signal.SIGTERM)
        except OSError:
            pass
        finally:
            os.close(fd)

    def _handle(self, number: int, _frame: Any) -> None:
        self._send_rest()
        # End by the signal itself, so that the parent process sees the cause.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _send_rest(self) -> None:
        try:
            if self._shutdown is not None:
                self._shutdown(TERM_S)
        except Exception:
            pass


def _high_pipe() -> tuple[int, int]:
    """Return a pipe with high numbers: a program that closes all its files, such as a daemon, soon uses low ones for
    others, and Python goes on to write to the number."""
    import fcntl
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    lowest = max(3, (FD_MAX if limit < 0 else min(limit, FD_MAX)) - FDS_BELOW_MAX)
    low = os.pipe()
    try:
        reader, writer = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest) for fd in low)
    finally:
        for fd in low:
            os.close(fd)
    os.set_blocking(writer, False)
    return reader, writer


def _end_by(number: int) -> None:
    """End this process by a signal, from any thread: ``signal.signal`` works in the main thread alone."""
    try:
        import ctypes

        ctypes.pythonapi.PyOS_setsig.restype = ctypes.c_void_p
        ctypes.pythonapi.PyOS_setsig(number, ctypes.c_void_p(0))
        os.kill(os.getpid(), number)
    except Exception:  # without ctypes
        os._exit(128 + number)


sigterm_handler = SigtermHandler()
