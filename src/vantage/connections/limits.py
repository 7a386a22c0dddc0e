"""The limits of connections, and the counter of those that were ended for exceeding one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

HEADERS_NBYTES_MAX: Final = 64 << 10
UPGRADE_HEADERS_MAX: Final = 128  # beyond these two the parser of WebSockets answers nothing
UPGRADE_LINE_NBYTES_MAX: Final = 8 << 10
FRAMES_PER_S_MAX: Final = 200  # what a reader of live updates sends is ignored: a pong now and then is enough
FRAGMENTS_MAX: Final = 64  # of one message
UNREAD_S: Final = 60.0  # in which a client must take all that waits for it, or at least UNREAD_PROGRESS_NBYTES
UNREAD_PROGRESS_NBYTES: Final = 64 << 10
UNREAD_NBYTES_MAX: Final = 128 << 20  # of answers that clients have not taken, all together


class EndReason(StrEnum):
    """Why the server ended a connection: a label of ``vantage_http_connections_ended_total``."""

    TOO_MANY = "too_many"
    SLOW_TLS = "slow_tls"
    SLOW_HEADERS = "slow_headers"
    SLOW_BODY = "slow_body"
    LARGE_HEADERS = "large_headers"
    BAD_REQUEST = "bad_request"
    BAD_UPGRADE = "bad_upgrade"
    UNREAD = "unread"
    TOO_MANY_FRAMES = "too_many_frames"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits that settings change, where the end of a connection is counted, and who hears that bytes wait for a
    client that does not read as fast as the server writes."""

    header_timeout_s: float  # of TLS handshakes and WebSocket handshakes, too
    body_timeout_s: float
    connections_max: int
    count_end: Callable[[EndReason], None]
    on_unread: Callable[[int], None]
