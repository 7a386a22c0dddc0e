"""The core of the agent on every Python it supports, as far as they are installed."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.agent.receiver import Receiver
from tests.agent.test_processes import interpreter_of, run

PROGRAM = str(Path(__file__).with_name("core_program.py"))
VERSIONS = [
    f"{sys.version_info[0]}.{sys.version_info[1]}",
    *(pytest.param(version, marks=pytest.mark.long) for version in ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")),
]


@pytest.mark.parametrize("end", ["exit", "sigterm"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_core_works_on_each_version(receiver: Receiver, version: str, end: str) -> None:
    done = run(
        [str(interpreter_of(version)), "-W", "error", PROGRAM, receiver.url, *(["term"] if end == "sigterm" else [])]
    )
    assert (done.returncode, done.stderr) == (-signal.SIGTERM if end == "sigterm" else 0, "")
    spans = receiver.spans()
    by_id = {span["span_id"]: span["name"] for span in spans}
    parents = Counter((span["name"], by_id.get(span.get("parent_span_id", ""), "")) for span in spans)
    assert parents == {
        ("function", ""): 1,
        ("function", "outer"): 1,
        ("inside", "function"): 2,
        ("generator", ""): 2,
        ("inside", "generator"): 4,
        ("static", ""): 2,
        ("class", ""): 1,
        ("block", ""): 1,
        ("coroutine", ""): 1,
        ("inside", "coroutine"): 1,
        ("async generator", ""): 2,
        ("inside", "async generator"): 4,
        ("cancelled", ""): 1,
        ("GET", ""): 3,
        ("pieces", "GET"): 2,
        ("piece", "pieces"): 4,
        ("forking", ""): 1,
        ("child", ""): 1,
        ("outer", ""): 1,
        ("SELECT", ""): 1,
    }
    failed = [span for span in spans if span["status"] == "error"]
    assert [span["attributes"]["exception.type"] for span in failed] == ["KeyError"]
    assert sum(receiver.values("last")) == 2
    if sys.platform == "linux":
        # The child had ended when the parent needed its number.
        assert {tags["worker"] for tags in receiver.tags("total")} == {"0"}
