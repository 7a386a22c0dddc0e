"""The number of a process among those of one service on one host, which tells their series apart.

The lowest number that no living process has: restarts and forks reuse numbers, so that there are never more than
processes at a time, unlike process ids. A process has the number as long as it has a socket of that name in Linux'
abstract namespace, where the system frees names by itself: https://man7.org/linux/man-pages/man7/unix.7.html.
"""

from __future__ import annotations

import _socket
import hashlib
import os
import sys
from typing import Any

WORKERS_MAX = 1000  # a process beyond this number, and one on another system than Linux, has none
TAG = "worker"


class WorkerNumber:
    """The number of this process. Used by the exporter's thread; ``reset_after_fork`` in a forked child."""

    def __init__(self, *identity: str) -> None:
        """``identity`` is what the processes have in common."""
        self._name = hashlib.sha256("\0".join(identity).encode("utf-8", "replace")).hexdigest()[:32]
        self._socket: Any = None
        self._tags: dict[str, str] | None = None

    @property
    def tags(self) -> dict[str, str]:
        """The tag, holder when it is first needed: a process that records nothing has no number. Empty without one."""
        if self._tags is None:
            number = self._take()
            self._tags = {} if number is None else {TAG: str(number)}
        return self._tags

    def reset_after_fork(self) -> None:
        """Leave the number to the parent, which has it as long as the socket is open anywhere."""
        holder, self._socket, self._tags = self._socket, None, None
        if holder is not None:
            os.close(holder.detach())

    def release(self) -> None:
        holder, self._socket, self._tags = self._socket, None, None
        if holder is not None:
            holder.close()

    def _take(self) -> int | None:
        if sys.platform != "linux":
            return None
        try:
            sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        except OSError:
            return None
        for number in range(WORKERS_MAX):
            if self._is_free(sock, number):
                self._socket = sock
                return number
        sock.close()
        return None

    def _is_free(self, sock: Any, number: int) -> bool:
        try:
            sock.bind(f"\0vantage-agent-{self._name}-{number}".encode())
        except OSError:
            return False
        return True
