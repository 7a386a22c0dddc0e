"""Code nobody here wrote: each test of Flask's, httpx's and requests' suites comes out with the agent as without.

Each suite runs from its source distribution in a Python environment of its own, kept in an ignored folder. Where that
cannot be made the test is skipped; in CI it fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import vantage_agent
from tests.agent.receiver import Receiver

ROOT = Path(__file__).resolve().parents[3]
HOME = ROOT / ".cache" / "peers"
PYTHON = HOME / "venv" / "bin" / "python"
SUITES = {
    "flask": ("flask[async,dotenv]", "3.1.3"),
    "httpx": ("httpx[http2,cli,brotli,zstd,socks]", "0.28.1"),
    "requests": ("requests[socks]", "2.34.2"),
}
THEIR_TOOLS = [
    "pytest==8.3.4", "pytest-timeout==2.4.0", "pytest-mock==3.17.0", "pytest-httpbin==2.1.0", "httpbin==0.10.4",
    "trustme==1.2.1", "uvicorn==0.32.1", "trio==0.27.0", "chardet==5.2.0", "cryptography", ]  # fmt: skip
# The first two connect to an address that never answers, and take until the time limit where there is no network at
# all. The third is expected to fail, and passes when its answer happens to arrive in one piece. The fourth races
# against a microsecond, and loses now and then without an agent too.
LEFT_OUT = " and ".join(
    f"not {name}"
    for name in (
        "test_connect_timeout",
        "test_total_timeout_connect",
        "test_response_iter_lines_reentrant",
        "test_write_timeout",
    )
)
# httpx's command line prints what goes over the wire, which with an agent is one header more.
SHOW_THE_WIRE = {"tests.test_main::test_verbose", "tests.test_main::test_auth"}
MEASURED = {
    "flask": "http.request.duration",
    "httpx": "http.client.request.duration",
    "requests": "http.client.request.duration",
}


@pytest.fixture(scope="module")
def peers() -> Path:
    """The folder that holds an environment with the libraries, and their source distributions unpacked."""
    done = HOME / "complete"
    wanted = repr((SUITES, THEIR_TOOLS, sys.version))
    if done.exists() and done.read_text() == wanted:
        return HOME
    shutil.rmtree(HOME, ignore_errors=True)
    pip = [str(PYTHON), "-m", "pip"]
    libraries = [f"{extras}=={version}" for extras, version in SUITES.values()]
    sources = [f"{name}=={version}" for name, (_, version) in SUITES.items()]
    for command in (
        [sys.executable, "-m", "venv", str(HOME / "venv")],
        [*pip, "install", "-q", *libraries, *THEIR_TOOLS],
        [*pip, "download", "-q", "--no-deps", "--no-binary", ",".join(SUITES), "-d", str(HOME / "sdist"), *sources],
    ):
        made = subprocess.run(command, capture_output=True, text=True, timeout=240)
        if made.returncode:
            reason = f"the peers cannot be installed: {' '.join(command)}: {made.stderr.strip()[-300:]}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
    for archive in (HOME / "sdist").glob("*.tar.gz"):
        with tarfile.open(archive) as source:
            source.extractall(HOME, filter="data")
    done.write_text(wanted)
    return HOME


def outcomes(folder: Path, report: Path, *before: str, **environ: str) -> dict[str, str]:
    """How each test of the suite in ``folder`` came out. ``before`` is what the interpreter is run by."""
    command = [
        *before, str(PYTHON), "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:randomly",
        "--timeout=20", "-k", LEFT_OUT, f"--junit-xml={report}", "tests",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environ}, capture_output=True, text=True, timeout=240
    )
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        parts = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found[f"{case.get('classname')}::{case.get('name')}"] = " ".join(parts) or "passed"
    return found


@pytest.mark.timeout(900)  # the environment is made within the first
@pytest.mark.parametrize("name", SUITES)
def test_a_suite_comes_out_with_the_agent_as_without(
    peers: Path, receiver: Receiver, tmp_path: Path, name: str
) -> None:
    folder = peers / f"{name}-{SUITES[name][1]}"
    agent = str(Path(vantage_agent.__file__).parents[1])
    run = [str(PYTHON), "-m", "vantage_agent", "run", "--service-name", name, "--collector-url", receiver.url, "--"]
    expected = SHOW_THE_WIRE if name == "httpx" else set()
    differing: dict[str, tuple[str | None, str | None]] | None = None
    for attempt in range(3):  # theirs have races too: what differs by chance does not do so each time
        without = outcomes(folder, tmp_path / f"without{attempt}.xml")
        having = outcomes(folder, tmp_path / f"with{attempt}.xml", *run, PYTHONPATH=agent)
        differing = {
            test: (without.get(test), having.get(test))
            for test in without.keys() | having.keys()
            if without.get(test) != having.get(test) and (differing is None or test in differing)
        }
        if differing.keys() == expected:
            break
    assert differing is not None
    assert differing.keys() == expected, differing
    assert list(without.values()).count("passed") > 400
    assert receiver.values(MEASURED[name]), "the agent took no part"
