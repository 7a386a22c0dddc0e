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
SUITES = {
    "flask": ("flask[async,dotenv]", "3.1.3"),
    "httpx": ("httpx[http2,cli,brotli,zstd,socks]", "0.28.1"),
    "requests": ("requests[socks]", "2.34.2"),
}
THEIR_TOOLS = [
    "pytest==8.3.4", "pytest-timeout==2.4.0", "pytest-mock==3.17.0", "pytest-httpbin==2.1.0", "httpbin==0.10.4",
    "trustme==1.2.1", "uvicorn==0.32.1", "trio==0.27.0", "chardet==5.2.0", "cryptography", "gunicorn==23.0.0",
    "fastapi==0.115.6",
]  # fmt: skip


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


def new_environment(folder: Path) -> tuple[str, ...]:
    """Return the command that makes an environment, without a pip of its own: that takes longer than the rest."""
    return (sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder))


def pip(python: Path, *arguments: str) -> tuple[str, ...]:
    """Return a command of this environment's pip on another environment. Modules are compiled when they are loaded:
    most never are."""
    options = ("--no-compile",) if "install" in arguments else ()
    return (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), *arguments, *options)


def python_with(name: str, *requirements: str) -> Path:
    """Return the interpreter of the environment ``name`` with ``requirements``. If it cannot be created the test is
    skipped; in CI it fails."""
    folder = CACHE / name
    python, marker = folder / "bin" / "python", folder / "made"
    contents = "\n".join((sys.version, *requirements))
    with alone(name):
        if not marker.exists() or marker.read_text() != contents:
            run_or_cannot(*new_environment(folder))
            run_or_cannot(*pip(python, "install", "--quiet", *requirements))
            marker.write_text(contents)
    return python


def applications() -> Path:
    """Return the interpreter of an environment with web frameworks and clients, servers and the tools of their own
    test suites: what an agent observes. It is made as ``python_with`` does it."""
    return python_with("applications", *(f"{name}=={version}" for name, version in SUITES.values()), *THEIR_TOOLS)


def source_of(name: str, version: str) -> Path:
    """Return the folder of a package's unpacked source distribution."""
    folder = CACHE / "sources" / f"{name}-{version}"
    with alone(folder.name):
        if folder.exists():
            return folder
        parent = folder.parent
        download = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps")
        run_or_cannot(*download, "--no-binary", name, "-d", str(parent), f"{name}=={version}")
        with tarfile.open(parent / f"{folder.name}.tar.gz") as source:
            source.extractall(parent, filter="data")
    return folder
