"""When a figure is a warning, and when it is bad."""

import pytest

from vantage.query.thresholds import error_level, is_p95_change_shown, p95_change_level


@pytest.mark.parametrize(
    ("ratio", "level"),
    [(None, "ok"), (0, "ok"), (0.0099, "ok"), (0.01, "warn"), (0.0499, "warn"), (0.05, "bad"), (1, "bad")],
)
def test_a_share_of_errors_has_a_level(ratio: float | None, level: str) -> None:
    assert error_level(ratio) == level


@pytest.mark.parametrize(
    ("change", "level"), [(0.25, "warn"), (0.24, ""), (0.09, ""), (0, ""), (-0.09, ""), (-0.1, "good"), (-0.9, "good")]
)
def test_a_change_of_the_p95_has_a_level(change: float, level: str) -> None:
    assert p95_change_level(change) == level


@pytest.mark.parametrize("change", [0.25, 0.1, -0.1, -1])
def test_a_large_change_is_shown(change: float) -> None:
    assert is_p95_change_shown(change)


@pytest.mark.parametrize("change", [0.09, 0, -0.09, None])
def test_a_small_or_unknown_change_is_not_shown(change: float | None) -> None:
    assert not is_p95_change_shown(change)
