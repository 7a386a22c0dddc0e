"""The container image, really built and run, by the commands of the Makefile. It takes minutes, and root or docker."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.environments import cannot

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 1800
MEGABYTES_MAX = 300

pytestmark = [pytest.mark.long, pytest.mark.timeout(TIMEOUT_S)]


def make(target: str) -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", target], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def docker_answers() -> bool:
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "info"], capture_output=True).returncode == 0


def test_the_image_is_small_healthy_and_stops_in_order() -> None:
    if not docker_answers() and (shutil.which("buildah") is None or os.getuid() != 0):
        cannot("an image is built by docker, or by root with buildah: apt-get install buildah crun mmdebstrap")
    size = re.search(r"^vantage:\S+ is (\d+)", make("image"), re.MULTILINE)
    assert size
    assert int(size[1]) <= MEGABYTES_MAX
    said = make("image-check")
    assert "vantage healthcheck: ready (200)" in said
    assert "GET /health/ready: 200" in said
    assert "user 10001" in said
