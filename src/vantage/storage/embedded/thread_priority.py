"""Priorities of threads: on one core, a request that waits for a commit comes before compression."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import Final

QUERIES: Final = 5
MAINTENANCE: Final = 3


def lower_priority(niceness: int) -> None:
    """Raise the niceness of the calling thread.

    Linux gives each thread its own (sched(7)); elsewhere nothing changes.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
