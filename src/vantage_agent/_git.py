"""Read the commit of the working directory from git's files, without running git.

Their layout: https://git-scm.com/docs/gitrepository-layout.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

PARENTS_MAX = 20
READ_NBYTES_MAX = 1 << 20  # packed refs of a large repository; further refs are not read
COMMIT_LENGTH = 12

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def commit_of(folder: str) -> str:
    """Return the first 12 digits of the commit that ``folder``, or the nearest of its parents, has checked out; '' if
    unknown."""
    try:
        start = Path(folder).resolve()
        for parent in [start, *start.parents][:PARENTS_MAX]:
            marker = parent / ".git"
            if marker.exists():
                return _head_of(_git_folder(marker))[:COMMIT_LENGTH]
    except (OSError, ValueError, IndexError):
        pass
    return ""


def _git_folder(marker: Path) -> Path:
    """Return the folder ``.git``, or the one that the file ``.git`` of a worktree or submodule names."""
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
    common = git / "commondir"  # a worktree has its own HEAD and shares the branches
    shared = git / _read(common).strip() if common.exists() else git
    for path in (git / ref, shared / ref):
        if path.is_file():
            commit = _read(path).strip()
            return commit if _COMMIT.fullmatch(commit) else ""
    for line in _read(shared / "packed-refs").splitlines():
        commit, _, name = line.partition(" ")
        if name == ref and _COMMIT.fullmatch(commit):
            return commit
    return ""


def _read(path: Path) -> str:
    with open(os.fspath(path), encoding="utf-8", errors="replace") as file:  # noqa: PTH123  # reads a limited size
        return file.read(READ_NBYTES_MAX)
