"""Threads that stand behind ingest: on one core, whoever waits for a commit comes before whoever compresses."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import Final

QUERIES: Final = 5
MAINTENANCE: Final = 3


def lower_priority(niceness: int) -> None:
    """Make the calling thread nicer than the others. Linux gives each thread a niceness of its own (sched(7)); where
    that is not so, nothing changes."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
