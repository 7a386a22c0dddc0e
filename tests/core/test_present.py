"""The present of those who look at data, where clock and data disagree."""

from __future__ import annotations

import pytest

from vantage.core.present import AHEAD_MS_MAX, AHEAD_MS_MIN, Present

CLOCK_MS = 1_700_000_000_000
DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("ahead_ms", "follows_data", "warns"),
    [
        (-CLOCK_MS, False, False),  # no data
        (-DAY_MS, False, False),
        (0, False, False),
        (AHEAD_MS_MIN, False, False),  # a host whose clock differs a little
        (AHEAD_MS_MIN + 1, True, True),
        (DAY_MS, True, True),  # the clock fell back
        (AHEAD_MS_MAX, True, True),
        (AHEAD_MS_MAX + 1, False, True),  # the clock was wrong when that was stored
    ],
)
def test_now_is_the_clock_s_or_the_data_s(ahead_ms: int, *, follows_data: bool, warns: bool) -> None:
    present = Present(CLOCK_MS, CLOCK_MS + ahead_ms)
    assert present.now_ms == CLOCK_MS + (ahead_ms if follows_data else 0)
    assert present.end_ms == max(CLOCK_MS, CLOCK_MS + ahead_ms) + 1
    assert bool(present.warning) is warns
    assert ("do not" in present.warning) is (warns and not follows_data)
