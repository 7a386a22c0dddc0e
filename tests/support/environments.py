"""Python environments beside ours, for packages that cannot or shall not be installed with what Vantage needs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

CACHE = Path(__file__).resolve().parents[2] / ".cache"  # ignored by git, kept between runs
INSTALL_TIMEOUT_S = 400


def cannot(reason: str) -> NoReturn:
    """What a test needs is not there: it is skipped; in CI it fails."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def run_or_cannot(*command: str) -> None:
    """Run what makes a thing that a test needs."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    if done.returncode:
        cannot(f"cannot be made: {' '.join(command)}: {done.stderr.strip()[-300:]}")


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Let the workers of a run make the thing called ``name`` one after the other: the first makes it for all."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def python_with(name: str, *requirements: str) -> Path:
    """The interpreter of the environment ``name``, which has ``requirements``. Where it cannot be made the test is
    skipped; in CI it fails."""
    folder = CACHE / name
    python, made = folder / "bin" / "python", folder / "made"
    wanted = "\n".join((sys.version, *requirements))
    with alone(name):
        if not made.exists() or made.read_text() != wanted:
            run_or_cannot(sys.executable, "-m", "venv", "--clear", str(folder))
            run_or_cannot(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
            made.write_text(wanted)
    return python


def source_of(name: str, version: str) -> Path:
    """The unpacked source distribution of a package."""
    folder = CACHE / "sources" / f"{name}-{version}"
    with alone(folder.name):
        if folder.exists():
            return folder
        parent = folder.parent
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
        run_or_cannot(*pip, "--no-binary", name, "-d", str(parent), f"{name}=={version}")
        with tarfile.open(parent / f"{folder.name}.tar.gz") as source:
            source.extractall(parent, filter="data")
    return folder
