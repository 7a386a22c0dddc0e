"""What a retention would remove, and what would stay in the end."""

from __future__ import annotations

from tests.support.samples import NOW_MS
from vantage.core.timerange import TimeRange
from vantage.query.administration import DAY_MS, preview_retention
from vantage.storage.ports import AgedBytes


def days(first: float, last: float, nbytes: int, *, is_whole: bool = True) -> AgedBytes:
    """Bytes from ``first`` to ``last`` days ago."""
    return AgedBytes(TimeRange(int(NOW_MS - first * DAY_MS), int(NOW_MS - last * DAY_MS)), nbytes, is_whole)


def removed(*aged: AgedBytes) -> dict[int, int]:
    return {row.days: row.removed_nbytes for row in preview_retention(aged, NOW_MS)}


def test_a_week_is_removed_once_all_of_it_is_too_old() -> None:
    assert removed(days(21, 14, 100), days(14, 7, 10), days(7, 0, 1)) == {
        7: 110, 14: 100, 30: 0, 60: 0, 90: 0, 180: 0, 365: 0,
    }  # fmt: skip
    assert removed(days(10, 5, 100))[7] == 0


def test_where_rows_age_one_by_one_a_share_is_removed() -> None:
    assert removed(days(10, 5, 100, is_whole=False))[7] == 60


def test_in_the_end_it_takes_the_latest_pace_times_the_days() -> None:
    rows = preview_retention([days(28, 21, 7000), days(10, 3, 700), days(3, 0, 300)], NOW_MS)
    assert {row.days: row.settled_nbytes for row in rows}[30] == 3000


def test_with_less_than_a_week_the_pace_is_not_known() -> None:
    assert all(row.settled_nbytes is None for row in preview_retention([days(6, 0, 100)], NOW_MS))
    assert all(row.settled_nbytes is None for row in preview_retention([], NOW_MS))
