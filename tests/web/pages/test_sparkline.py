"""Small lines drawn on the server."""

import pytest

from vantage.web.sparkline import HEIGHT, sparkline


def test_a_gap_in_a_line_stays_a_gap() -> None:
    drawn = sparkline([1, 2, None, 2, 1])
    assert drawn.line.count("M") == 2
    assert drawn.dots == ""


def test_a_lone_point_is_a_dot() -> None:
    drawn = sparkline([None, 3, None])
    assert (drawn.line, drawn.area, drawn.dots.count("M")) == ("", "", 1)


@pytest.mark.parametrize("points", [[], [None, None], [0.0, 0.0], [1e308, 0.0], [-5.0, 5.0]])
def test_lines_stay_within_their_box(points: list[float | None]) -> None:
    drawn = sparkline(points)
    heights = [float(pair.split()[1]) for pair in drawn.line.lstrip("M").split("L") if pair]
    assert all(0 <= height <= HEIGHT for height in heights)
