"""Answers that clients do not read: bounded in time and in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

import structlog

from vantage.connections.limits import (
    UNREAD_NBYTES_MAX,
    UNREAD_PROGRESS_NBYTES,
    UNREAD_S,
    EndReason,
)

CHECK_EVERY_S: Final = 2.0
ROOM: Final = 0.75  # share of the limit down to which connections are aborted, so that it is not reached again at once
_log = structlog.get_logger("vantage.server")


@dataclass(slots=True)
class _Unread:
    """What waits for one client: since when it has taken next to nothing, and how much waited then."""

    since_s: float
    nbytes: int
    drains: int
    waiting: int


class UnreadAnswers:
    """Aborts connections whose client takes less than ``UNREAD_PROGRESS_NBYTES`` in ``UNREAD_S``, and those that have
    waited longest while more than ``UNREAD_NBYTES_MAX`` waits for all clients together.

    Progress counts, not whole answers: one that takes minutes is welcome. ``connections``, set by the server, have a
    ``transport`` and count in ``drains`` how often their buffer became empty.
    """

    connections: Collection[Any] = ()

    def __init__(
        self,
        *,
        monotonic_s: Callable[[], float],
        count_end: Callable[[EndReason], None],
        nbytes_max: int = UNREAD_NBYTES_MAX,
    ) -> None:
        self._monotonic_s = monotonic_s
        self._count_end = count_end
        self._nbytes_max = nbytes_max
        self._unread: dict[Any, _Unread] = {}
        self._known_nbytes = 0  # at the last check
        self._new_nbytes = 0  # since then

    def add(self, nbytes: int) -> None:
        """Count bytes that began to wait for a client, and check at once when they may be too many."""
        self._new_nbytes += nbytes
        if self._new_nbytes >= self._nbytes_max // 8 and self._known_nbytes + self._new_nbytes > self._nbytes_max:
            self.check()

    def check(self) -> None:
        """Look at every connection, and abort those beyond a limit."""
        now_s = self._monotonic_s()
        unread: dict[Any, _Unread] = {}
        for connection in tuple(self.connections):
            transport: asyncio.Transport | None = connection.transport
            if transport is None or not (nbytes := transport.get_write_buffer_size()):
                continue
            before = self._unread.get(connection)
            if before is None or before.drains != connection.drains or before.nbytes - nbytes >= UNREAD_PROGRESS_NBYTES:
                unread[connection] = _Unread(now_s, nbytes, connection.drains, nbytes)
            elif now_s - before.since_s >= UNREAD_S:
                self._abort(connection, nbytes)
            else:
                before.nbytes = max(before.nbytes, nbytes)
                before.waiting = nbytes
                unread[connection] = before
        self._unread = unread
        self._make_room()

    def _make_room(self) -> None:
        total = sum(state.waiting for state in self._unread.values())
        self._known_nbytes, self._new_nbytes = total, 0
        if total <= self._nbytes_max:
            return
        longest_first = sorted(self._unread, key=lambda connection: self._unread[connection].since_s)
        for connection in longest_first[:-1]:  # one answer may be as large as it likes
            total -= self._unread[connection].waiting
            self._abort(connection, self._unread.pop(connection).waiting)
            self._known_nbytes = total
            if total <= self._nbytes_max * ROOM:
                return

    def _abort(self, connection: Any, nbytes: int) -> None:
        _log.warning("connection aborted: the client does not read", unread_bytes=nbytes)
        self._count_end(EndReason.UNREAD)
        connection.transport.abort()
