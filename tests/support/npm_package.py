"""Files of npm packages that only tests need, fetched on first use."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.support.environments import CACHE, alone, cannot

FETCH_TIMEOUT_S = 400


def file_of_package(package: str, inside: str, folder: str) -> Path:
    """Return a file of ``package``, name@version, by its path ``inside`` it, as kept in the folder of that name. If it
    cannot be fetched the test is skipped; in CI it fails."""
    home = CACHE / folder
    path, marker = home / Path(inside).name, home / "fetched"
    with alone(folder):
        if not marker.exists() or marker.read_text() != package:
            npm = shutil.which("npm")
            if npm is None:
                cannot(f"npm is needed, which fetches it: npm pack {package}")
            home.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=home) as name:
                command = [npm, "pack", "--silent", package]
                try:
                    done = subprocess.run(command, cwd=name, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    cannot(f"cannot be fetched within {FETCH_TIMEOUT_S} s: npm pack {package}")
                if done.returncode:
                    cannot(f"cannot be fetched: npm pack {package}: {done.stderr.strip()[-300:]}")
                with tarfile.open(next(Path(name).glob("*.tgz"))) as packed:
                    content = packed.extractfile(f"package/{inside}")
                    assert content is not None
                    with path.open("wb") as file:
                        shutil.copyfileobj(content, file, 1 << 22)
            marker.write_text(package)
    return path
