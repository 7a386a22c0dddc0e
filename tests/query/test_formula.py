"""Formulas: joined by group, safe whatever is typed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vantage.core.errors import InputError
from vantage.query.formula import LENGTH_MAX, evaluate, parse_formula

LETTERS = frozenset("ab")
GET, POST = (("method", "GET"),), (("method", "POST"),)


def values(text: str, **series: object) -> dict[object, list[float]]:
    points = {letter: {tags: np.array(of) for tags, of in groups.items()} for letter, groups in series.items()}  # type: ignore[attr-defined]
    result = evaluate(parse_formula(text, frozenset(series)), points)
    return {tags: of.tolist() for tags, of in result.items()}


def test_arithmetic_has_the_usual_precedence() -> None:
    assert values("(a + 2) * -3 / 2 - a", a={(): [1.0, 2.0]}) == {(): [-5.5, -8.0]}


def test_equal_groups_are_joined_and_others_left_out() -> None:
    assert values("a / b", a={GET: [1.0], POST: [2.0]}, b={GET: [4.0]}) == {GET: [0.25]}


def test_a_series_without_groups_goes_with_every_group() -> None:
    assert values("a / b * 100", a={GET: [1.0], POST: [3.0]}, b={(): [4.0]}) == {GET: [25.0], POST: [75.0]}
    assert values("b - a", a={GET: [1.0]}, b={(): [4.0]}) == {GET: [3.0]}


def test_what_is_no_number_is_a_gap() -> None:
    ((_, result),) = values("a / b", a={(): [1.0, np.nan, 1e308]}, b={(): [0.0, 1.0, 1e-308]}).items()
    assert np.isnan(result).all()


@pytest.mark.parametrize(
    "text",
    [
        "", "a +", "c", "a ** 2", "a % b", "abs(a)", "a.real", "a[0]", "lambda: a", "'a'", "True", "a if b else a",
        "1e999", "a == b", "(a := b)", "\x00", "a" * (LENGTH_MAX + 1), "(" * 60 + "a" + ")" * 60 + "+", "-" * 100 + "a",
        "a\nb", "1j",
    ],
    ids=str,
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_formula(text, LETTERS)
    assert refused.value.field == "formula"


@given(st.text(alphabet="ab01+-*/(). e", max_size=60))
def test_no_text_fails_in_another_way(text: str) -> None:
    try:
        tree = parse_formula(text, LETTERS)
    except InputError:
        return
    evaluate(tree, {"a": {(): np.array([1.0])}, "b": {(): np.array([0.0])}})
