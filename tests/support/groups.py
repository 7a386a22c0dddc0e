"""Which tests run in the same worker, and which start first.

Tests run side by side in several workers. The tests of a file are a group: they run in the same worker, one after the
other, and share its servers. Files that share a server are one group, so that a run starts it once. Long tests that
share nothing are distributed singly.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

TESTS = Path(__file__).resolve().parents[1]
SHARED_SCOPES = ("class", "module", "package", "session")
# Files that use PostgreSQL or Redis.
DATABASES = tuple(f"tests/agent/instrumentation/test_{name}.py" for name in ("celery", "databases", "psycopg", "redis"))
# Files that use an environment which the first of them makes, while the others would wait for it.
APPLICATIONS = ("tests/agent/peers/", "tests/e2e/test_agent.py")
SINGLY = (
    "tests/agent/test_signals.py",
    "tests/agent/test_soak.py",
    "tests/chaos/",
    "tests/e2e/test_backup.py",
    "tests/e2e/test_crash.py",
    "tests/e2e/test_import_export.py",
    "tests/storage/embedded/",
)
# Each of these starts a broker, ClickHouse and several servers: one at a time is enough for two cores.
TOGETHER = ("tests/chaos/test_pipeline_kills.py", "tests/e2e/test_live_pipeline.py")
# Long tests start first: otherwise one worker still runs them when the others have finished.
LONGEST_FIRST = (
    *APPLICATIONS,
    "tests/e2e/test_wheel.py",
    "tests/e2e/test_browser.py",
    "tests/chaos/",
    "tests/e2e/",
    *DATABASES,
    "tests/agent/",
    "tests/storage/",
    "tests/vql/",
    "tests/ingest/",
)


class GroupScheduling(LoadScopeScheduling):  # has no types
    """Distributes groups, in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """Return the name of the group that a test runs in: its own, its file's or that of several files."""
    if nodeid.startswith(SINGLY) and not nodeid.startswith(TOGETHER):
        return nodeid
    for name, files in (("databases", DATABASES), ("applications", APPLICATIONS)):
        if nodeid.startswith(files):
            return name
    return nodeid.partition("::")[0]


def rank_of(nodeid: str) -> int:
    """Return the index of the first prefix in ``LONGEST_FIRST`` that the test has."""
    return next((rank for rank, prefix in enumerate(LONGEST_FIRST) if nodeid.startswith(prefix)), len(LONGEST_FIRST))


def shared_fixtures(item: pytest.Item) -> Iterator[str]:
    """Yield our fixtures that a test may share with other tests, as scope, file and name."""
    if isinstance(item, pytest.Function):
        for name, definitions in item._fixtureinfo.name2fixturedefs.items():
            for definition in definitions:
                path = Path(definition.func.__code__.co_filename)
                if definition.scope in SHARED_SCOPES and path.is_relative_to(TESTS):
                    yield f"{definition.scope} {path.relative_to(TESTS)} {name}"
