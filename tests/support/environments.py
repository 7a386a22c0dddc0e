"""Separate Python environments, for packages that conflict with Vantage's dependencies."""

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

CACHE = Path(__file__).resolve().parents[2] / ".cache"  # ignored by git, reused by later runs
INSTALL_TIMEOUT_S = 400


def cannot(reason: str) -> NoReturn:
    """Skip a test whose requirements are missing; in CI fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def run_or_cannot(*command: str) -> None:
    """Run a command that creates a requirement of a test; skip the test if the command fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    if done.returncode:
        cannot(f"cannot be made: {' '.join(command)}: {done.stderr.strip()[-300:]}")


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Lock ``name`` among the workers of a run: the first creates it for all."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def python_with(name: str, *requirements: str) -> Path:
    """Return the interpreter of the environment ``name`` with ``requirements``. If it cannot be created the test is
    skipped; in CI it fails."""
    folder = CACHE / name
    python, marker = folder / "bin" / "python", folder / "made"
    contents = "\n".join((sys.version, *requirements))
    with alone(name):
        if not marker.exists() or marker.read_text() != contents:
            run_or_cannot(sys.executable, "-m", "venv", "--clear", str(folder))
            run_or_cannot(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
            marker.write_text(contents)
    return python


def source_of(name: str, version: str) -> Path:
    """Return the folder of a package's unpacked source distribution."""
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
