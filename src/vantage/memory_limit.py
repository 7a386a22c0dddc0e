"""How much memory this process may use: the least of the machine's, its control group's and its own limit."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_GROUPS_OF_PROCESS: Final = Path("/proc/self/cgroup")
_HIERARCHIES: Final = Path("/sys/fs/cgroup")
_NONE_FROM_NBYTES: Final = 1 << 60  # version 1 writes "no limit" as a number of this size


def memory_limit_nbytes(groups: Path = _GROUPS_OF_PROCESS, hierarchies: Path = _HIERARCHIES) -> int:
    """Return the limit in bytes. ``groups`` and ``hierarchies`` are where Linux shows control groups: cgroups(7)."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    limits += [
        soft
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)
        if (soft := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY
    ]
    return min([*limits, *_control_group_limits(groups, hierarchies)])


def _control_group_limits(groups: Path, hierarchies: Path) -> Iterator[int]:
    """Yield the limits of the process's group and of every group above it. Inside a container the path of the group is
    often one that only the host has; the container's own limit is then at the top."""
    for line in _read(groups).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, name = hierarchies, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = hierarchies / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            text = _read(folder / name).strip()
            if text.isdigit() and int(text) < _NONE_FROM_NBYTES:
                yield int(text)
            if folder == top:
                break


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
