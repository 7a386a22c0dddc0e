"""Sparklines: levels from 0 to the largest value, gaps, and the same alphabet as in the script."""

from vantage.resources import static_dir
from vantage.web.sparkline import GAP, LEVELS, sparkline


def test_values_are_levels_from_0_to_the_largest() -> None:
    assert sparkline([0, 1, 2]) == LEVELS[0] + LEVELS[32] + LEVELS[63]


def test_a_bucket_without_data_is_a_gap() -> None:
    assert sparkline([1, None, 1]) == LEVELS[-1] + GAP + LEVELS[-1]


def test_nothing_to_draw_is_nothing() -> None:
    assert sparkline([None, None]) == ""
    assert sparkline([]) == ""


def test_zeros_lie_at_the_bottom_also_below_a_top() -> None:
    assert sparkline([0, 0]) == LEVELS[0] * 2
    assert sparkline([0, 0], top=0.05) == LEVELS[0] * 2


def test_a_top_that_is_larger_leaves_room_above() -> None:
    assert sparkline([1.0], top=2.0) == LEVELS[32]
    assert sparkline([4.0], top=2.0) == LEVELS[63]


def test_negative_values_are_drawn_as_0_and_extremes_do_not_fail() -> None:
    assert sparkline([-1e300, 1e-320, 1e300]) == LEVELS[0] + LEVELS[0] + LEVELS[63]
    assert sparkline([-5.0]) == LEVELS[0]


def test_the_script_draws_the_same_levels() -> None:
    script = (static_dir() / "js" / "sparkline.js").read_text()
    assert f'"{LEVELS}"' in script
    assert f'"{GAP}"' in script
