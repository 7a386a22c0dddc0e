"""Python environments beside ours, for packages that cannot or shall not be installed with what Vantage needs."""

from __future__ import annotations

import os
import subprocess
import sys
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


def python_with(name: str, *requirements: str) -> Path:
    """The interpreter of the environment ``name``, which has ``requirements``. Where it cannot be made the test is
    skipped; in CI it fails."""
    folder = CACHE / name
    python, made = folder / "bin" / "python", folder / "made"
    wanted = "\n".join(requirements)
    if made.exists() and made.read_text() == wanted:
        return python
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], install):
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
        if done.returncode:
            cannot(f"cannot be made: {' '.join(command)}: {done.stderr.strip()[-300:]}")
    made.write_text(wanted)
    return python
