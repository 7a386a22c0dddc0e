"""Which tests run in the same worker, and which start first.

Tests run side by side in several workers. Two tests that share a fixture, such as a server, are a group: they run in
the same worker, so that the whole run starts the fixture once. All other tests are distributed singly.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED_SCOPES = {"class", "module", "package", "session"}
# Whatever takes long starts first: otherwise a worker is still busy with it when the others have nothing left to do.
LONGEST_FIRST = (
    "tests/agent/peers/",
    "tests/e2e/test_wheel.py",
    "tests/chaos/",
    "tests/e2e/",
    "tests/agent/test_soak.py",
    "tests/storage/clickhouse/",
    "tests/vql/test_differential.py",
    "tests/agent/",
    "tests/ingest/",
)


def group_of(item: pytest.Function) -> str:
    """Return the name of the group, empty for a test that shares no fixture of ours.

    A module's fixture makes a group of the module's tests that use it; those of a whole session make one group of all
    tests that use any of them.
    """
    scopes = {
        definition.scope
        for definitions in item._fixtureinfo.name2fixturedefs.values()
        for definition in definitions
        if definition.scope in SHARED_SCOPES and is_ours(definition.func.__code__.co_filename)
    }
    if "session" in scopes:
        return "session"
    return item.nodeid.partition("::")[0] if scopes else ""


def is_ours(filename: str) -> bool:
    return Path(filename).is_relative_to(ROOT / "tests")


def rank_of(item: pytest.Item) -> int:
    """Return the index of the first prefix in ``LONGEST_FIRST`` that the test's path has."""
    return next(
        (rank for rank, prefix in enumerate(LONGEST_FIRST) if item.nodeid.startswith(prefix)), len(LONGEST_FIRST)
    )


def mark_groups(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and (group := group_of(item)):
            item.add_marker(pytest.mark.xdist_group(group))
