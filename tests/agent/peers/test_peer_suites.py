"""Code nobody here wrote: each test of Flask's, httpx's and requests' suites comes out with the agent as without.

Each suite runs from its source distribution in a Python environment of its own, kept in an ignored folder. Where that
cannot be made the test is skipped; in CI it fails.
"""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import vantage_agent
from tests.agent.receiver import Receiver
from tests.support.environments import SUITES, applications, source_of

# The first two connect to an address that never answers, and take until the time limit where there is no network at
# all. The third is expected to fail, and passes when its answer happens to arrive in one piece. The fourth races
# against a microsecond, and loses now and then without an agent too.
LEFT_OUT = [
    "test_connect_timeout",
    "test_total_timeout_connect",
    "test_response_iter_lines_reentrant",
    "test_write_timeout",
]
# These of requests' wait for time limits: 40 tests take 80 seconds, the other 570 take two.
WAITING = ["TestTimeout", "TestTestServer", "test_lowlevel", "test_different_connection_pool"]
if not os.environ.get("VANTAGE_TEST_LONG"):
    LEFT_OUT += WAITING
QUICK = "requests"  # the others take more than a minute each
# httpx's command line prints what goes over the wire, which with an agent is one header more.
SHOW_THE_WIRE = {"tests.test_main::test_verbose", "tests.test_main::test_auth"}
MEASURED = {
    "flask": "http.request.duration",
    "httpx": "http.client.request.duration",
    "requests": "http.client.request.duration",
}


def outcomes(folder: Path, report: Path, *python: str, **environ: str) -> dict[str, str]:
    """How each test of the suite in ``folder`` came out. ``python`` is the interpreter, and what it is run by."""
    command = [
        *python, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:randomly",
        "--timeout=60", "-k", " and ".join(f"not {name}" for name in LEFT_OUT), f"--junit-xml={report}", "tests",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environ}, capture_output=True, text=True, timeout=240
    )
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    result: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        parts = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        result[f"{case.get('classname')}::{case.get('name')}"] = " ".join(parts) or "passed"
    return result


@pytest.mark.timeout(900)  # the environment is made within the first
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == QUICK else pytest.mark.long) for name in SUITES]
)
def test_a_suite_comes_out_with_the_agent_as_without(receiver: Receiver, tmp_path: Path, name: str) -> None:
    python = str(applications())
    folder = source_of(name, SUITES[name][1])
    agent = str(Path(vantage_agent.__file__).parents[1])
    run = [python, "-m", "vantage_agent", "run", "--service-name", name, "--collector-url", receiver.url, "--", python]
    expected = SHOW_THE_WIRE if name == "httpx" else set()
    differing: dict[str, tuple[str | None, str | None]] | None = None
    for attempt in range(3):  # theirs have races too: what differs by chance does not do so each time
        # Side by side, as they wait more than they work; httpx's has a server on one port, and takes turns.
        with ThreadPoolExecutor(1 if name == "httpx" else 2) as both:
            first = both.submit(outcomes, folder, tmp_path / f"without{attempt}.xml", python)
            second = both.submit(outcomes, folder, tmp_path / f"with{attempt}.xml", *run, PYTHONPATH=agent)
        without, having = first.result(), second.result()
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
