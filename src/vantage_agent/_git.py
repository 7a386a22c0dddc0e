"""Which commit the working directory is at, read from git's own files: nothing is run.

Their layout: https://git-scm.com/docs/gitrepository-layout.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

PARENTS_MAX = 20
READ_NBYTES_MAX = 1 << 20  # packed refs of a large repository; further ones are not looked for
COMMIT_LENGTH = 12

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def commit_of(folder: str) -> str:
    """The first 12 digits of the commit that ``folder``, or the nearest of its parents, has checked out; empty when
    none can be told."""
    try:
        here = Path(folder).resolve()
        for parent in [here, *here.parents][:PARENTS_MAX]:
            marker = parent / ".git"
            if marker.exists():
                return _head_of(_git_folder(marker))[:COMMIT_LENGTH]
    except (OSError, ValueError, IndexError):
        pass
    return ""


def _git_folder(marker: Path) -> Path:
    """``.git`` is a folder, or in a worktree or submodule a file that names one."""
    if marker.is_dir():
        return marker
    return marker.parent / _read(marker).partition("gitdir:")[2].strip()


def _head_of(git: Path) -> str:
    head = _read(git / "HEAD").strip()
    if not head.startswith("ref:"):
        return head if _COMMIT.fullmatch(head) else ""
    ref = head[4:].strip()
    if not ref.startswith("refs/") or ".." in ref:
        return ""
    common = git / "commondir"  # a worktree keeps its HEAD and shares the branches
    shared = git / _read(common).strip() if common.exists() else git
    for place in (git / ref, shared / ref):
        if place.is_file():
            commit = _read(place).strip()
            return commit if _COMMIT.fullmatch(commit) else ""
    for line in _read(shared / "packed-refs").splitlines():
        commit, _, name = line.partition(" ")
        if name == ref and _COMMIT.fullmatch(commit):
            return commit
    return ""


def _read(path: Path) -> str:
    with open(os.fspath(path), encoding="utf-8", errors="replace") as file:  # noqa: PTH123  # as much as is wanted
        return file.read(READ_NBYTES_MAX)
