"""Numbers, durations and lines as they are shown."""

import pytest

from vantage.web import figures
from vantage.web.sparkline import HEIGHT, sparkline


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (0.0421, "0.042"), (9.987, "9.99"), (12.34, "12.3"), (999.9, "1k"), (1234, "1.23k"),
     (1_000_000, "1M"), (2.5e9, "2.5G"), (-1500, "-1.5k")],
)  # fmt: skip
def test_counts_have_three_significant_digits(value: float | None, text: str) -> None:
    assert figures.count(value) == text


@pytest.mark.parametrize(
    ("per_s", "text"),
    [(None, "–"), (0, "0/s"), (1234, "1.23k/s"), (0.5, "0.5/s"), (1 / 60, "1/min"), (1 / 3600, "1/h")],
)
def test_slow_rates_are_told_by_the_minute_or_hour(per_s: float | None, text: str) -> None:
    assert figures.rate(per_s) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0 %"), (0.00001, "< 0.01 %"), (0.002, "0.20 %"), (0.034, "3.4 %"), (0.25, "25 %"), (1, "100 %")],
)
def test_a_share_that_is_not_nothing_never_reads_as_nothing(value: float | None, text: str) -> None:
    assert figures.ratio(value) == text


@pytest.mark.parametrize(
    ("value_ms", "text"),
    [(None, "–"), (0, "0 ms"), (0.000002, "2 ns"), (0.25, "250 µs"), (350, "350 ms"), (999.9, "1 s"), (1400, "1.4 s"),
     (90_000, "1.5 min"), (7_200_000, "2 h"), (172_800_000, "2 d")],
)  # fmt: skip
def test_durations_take_the_unit_that_fits(value_ms: float | None, text: str) -> None:
    assert figures.duration_ms(value_ms) == text


@pytest.mark.parametrize(
    ("elapsed_ms", "text"),
    [(0, "now"), (-500, "now"), (3999, "3 s ago"), (61_000, "1 min ago"), (7_200_000, "2 h ago"),
     (3 * 86_400_000, "3 d ago"), (-600_000, "in the future")],
)  # fmt: skip
def test_how_long_ago(elapsed_ms: int, text: str) -> None:
    assert figures.ago(1_000_000_000_000 - elapsed_ms, now_ms=1_000_000_000_000) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.12, "+12 %"), (-0.3, "−30 %"), (19, "×20")])
def test_changes_have_a_sign(value: float | None, text: str) -> None:
    assert figures.change(value) == text


@pytest.mark.parametrize("at_ms", [0, 1_795_453_200_000, 2**63 - 1, -(2**63)])
def test_any_time_can_be_written(at_ms: int) -> None:
    assert figures.rfc3339(at_ms).endswith("Z")


def test_a_gap_in_a_line_stays_a_gap() -> None:
    drawn = sparkline([1, 2, None, 2, 1])
    assert drawn.line.count("M") == 2
    assert drawn.dots == ""


def test_a_lone_point_is_a_dot() -> None:
    drawn = sparkline([None, 3, None])
    assert (drawn.line, drawn.area, drawn.dots.count("M")) == ("", "", 1)


@pytest.mark.parametrize("points", [[], [None, None], [0.0, 0.0], [1e308, 0.0], [-5.0, 5.0]])
def test_no_line_leaves_its_box(points: list[float | None]) -> None:
    drawn = sparkline(points)
    heights = [float(pair.split()[1]) for pair in drawn.line.lstrip("M").split("L") if pair]
    assert all(0 <= height <= HEIGHT for height in heights)
