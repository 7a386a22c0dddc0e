"""Tests run side by side, quickly: who shares a server runs in one worker, and nobody sleeps for long."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.groups import LONGEST_FIRST, SINGLY, group_of, rank_of, shared_fixtures

ROOT = Path(__file__).resolve().parents[2]
SLEEP_S_MAX = 1.0
SLEEPS = {"time.sleep", "asyncio.sleep", "sleep", "page.wait_for_timeout"}


def test_tests_that_share_a_fixture_run_in_one_worker(request: pytest.FixtureRequest) -> None:
    """Of the tests of this run, which may be a selection."""
    groups: dict[str, set[str]] = defaultdict(set)
    for item in request.session.items:
        for fixture in shared_fixtures(item):
            groups[fixture].add(group_of(item.nodeid))
    assert not {fixture: names for fixture, names in groups.items() if len(names) > 1}


def test_a_file_is_a_group_unless_it_shares_a_server_or_its_tests_stand_for_themselves() -> None:
    assert group_of("tests/web/test_vql.py::test_a[x]") == group_of("tests/web/test_vql.py::test_b")
    first, other = (f"tests/agent/instrumentation/{name}::test" for name in ("test_redis.py", "test_psycopg.py"))
    assert group_of(first) == group_of(other) != group_of("tests/agent/instrumentation/test_flask.py::test")
    assert group_of("tests/chaos/test_backup_kills.py::test_a") != group_of("tests/chaos/test_backup_kills.py::test_b")
    assert rank_of("tests/chaos/test_backup_kills.py::test_a") < rank_of("tests/core/test_sketch.py::test_a")


def test_the_lists_of_groups_name_what_is_there() -> None:
    assert not [path for path in (*SINGLY, *LONGEST_FIRST) if not (ROOT / path).exists()]


def long_sleeps(source: str) -> list[int]:
    """Return the lines that sleep for a fixed second or more."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name, duration = ast.unparse(node.func), node.args[0].value
            if name in SLEEPS and isinstance(duration, int | float):
                duration_s = duration / 1000 if name == "page.wait_for_timeout" else duration
                lines += [node.lineno] if duration_s >= SLEEP_S_MAX else []
    return lines


def test_no_test_sleeps_for_a_fixed_second() -> None:
    """Wait with ``tests.support.wait`` for what can be observed. Programs in strings are not ours to judge."""
    sleeping = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line in long_sleeps(path.read_text(encoding="utf-8"))
    }
    assert not sleeping


@pytest.mark.parametrize(
    "code", ["time.sleep(1)", "await asyncio.sleep(2.5)", "sleep(1.0)", "page.wait_for_timeout(1000)"]
)
def test_a_long_sleep_is_noticed(code: str) -> None:
    assert long_sleeps(f"async def test():\n    {code}") == [2]
    assert not long_sleeps("time.sleep(0.5)\nsleep(seconds)\npage.wait_for_timeout(500)")
