"""A control group that limits the memory of the processes in it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path("/sys/fs/cgroup")


@contextmanager
def memory_group(limit_nbytes: int) -> Iterator[Path]:
    """Make a control group, of either version; yield the file that takes the id of a process to put into it."""
    name = f"vantage-test-{os.getpid()}-{time.monotonic_ns()}"
    with_versions = ((ROOT / "memory" / name, "memory.limit_in_bytes"), (ROOT / name, "memory.max"))
    for folder, limit in with_versions:
        try:
            folder.mkdir()
            (folder / limit).write_text(str(limit_nbytes))
        except OSError:
            with suppress(OSError):
                folder.rmdir()
            continue
        try:
            yield folder / "cgroup.procs"
        finally:
            folder.rmdir()
        return
    pytest.skip("needs control groups that limit memory: run as root")
