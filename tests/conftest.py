"""What holds for every test."""

import os
from collections.abc import Generator
from typing import Any, TypeVar

import pytest
from hypothesis import settings

from tests.support.groups import GroupScheduling, rank_of

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
settings.register_profile("vantage", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("vantage")
# Processes that tests start load our modules from bytecode: compiling them takes longer than what most of them do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
CI = os.environ.get("CI", "").lower() in {"1", "true"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    return GroupScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return fail_if_skipped_in_ci((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return fail_if_skipped_in_ci((yield))


def fail_if_skipped_in_ci(report: Report) -> Report:
    """On a developer's machine a missing tool is a skip with a reason; in CI nothing may be missing."""
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI=true allows no skip: {report.longreprtext}"
    return report
