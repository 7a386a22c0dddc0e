"""Priorities of threads: on one core, a request that waits for a commit comes before compression."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import Final

# Of queries, pages, sealing and merging, all alike: one that has the interpreter and waits for the processor behind
# another would make requests wait for both.
WORK: Final = 5


def lower_priority(niceness: int) -> None:
    """Raise the niceness of the calling thread to so much above that of the process.

    Linux gives each thread its own (sched(7)); elsewhere nothing changes.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            of_process = os.getpriority(os.PRIO_PROCESS, os.getpid())  # that of the main thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), of_process + niceness)
