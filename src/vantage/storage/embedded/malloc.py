"""Limits how much freed memory the C library's heap keeps, since sealing and queries need large arrays only briefly.

glibc serves large arrays from the heap once some were freed, and then keeps what lies below others that are still used
(mallopt(3), malloc_trim(3)). Other C libraries have neither call and are left alone.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

# Arrays from this size on are mapped, and given back when they are freed. The columns of a seal are smaller: mapped
# each time they would be cleared page by page, which was half of the faults of a seal.
MMAP_THRESHOLD_NBYTES: Final = 8 << 20
TRIM_THRESHOLD_NBYTES: Final = 32 << 20  # of what a thread freed; after a seal or a merge all of it goes back
ARENAS_MAX: Final = 2  # each keeps freed memory of its own; glibc makes eight for a core
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LIBC: Final[Any] = ctypes.CDLL(None)


def map_large_arrays() -> None:
    """Fix the size from which allocations are mapped, how much freed memory stays, and in how many heaps; glibc
    otherwise raises all three on its own."""
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_NBYTES)
        mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_NBYTES)
        mallopt(_M_ARENA_MAX, ARENAS_MAX)


def trim() -> None:
    """Return freed memory to the system."""
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)
