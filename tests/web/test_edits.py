"""Edits of a view: what they make is the other text, whatever the two are; and they are small."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from vantage.web.edits import applied, edits, encode_edits

LINES = st.lists(st.text(alphabet="ab<é\U0001f600\ud800", max_size=5), min_size=1, max_size=8).map("\n".join)


@given(LINES, LINES)
def test_edits_make_the_one_text_of_the_other(old: str, new: str) -> None:
    assert applied(old, edits(old.split("\n"), new.split("\n"))) == new


def test_a_changed_value_sends_the_value_alone() -> None:
    old = "\n".join(f"<td>row {n}</td><td>17 ms</td>" for n in range(100))
    new = old.replace("row 42</td><td>17", "row 42</td><td>19")
    assert edits(old.split("\n"), new.split("\n")) == [(42, 20, 8, "9")]


def test_a_row_that_came_or_went_sends_that_row_alone() -> None:
    rows = [f"<tr>{n}</tr>" for n in range(100)]
    assert edits(rows, [*rows[:50], "<tr>new</tr>", *rows[50:]]) == [(50, 0, ["<tr>new</tr>"])]
    assert edits(rows, rows[:99]) == [(99, 1, [])]


def test_a_row_that_came_among_rows_that_changed_sends_what_is_new_alone() -> None:
    def page(rows: list[tuple[str, int]]) -> list[str]:
        return [line for name, value in rows for line in ("<tr>", f"<th>{name}</th>", f"<td>{value}</td>", "</tr>")]

    before = [(f"service-{n}", n) for n in range(100)]
    after = [(name, value + 1) for name, value in before]
    after.insert(50, ("new", 5))
    changes = edits(page(before), page(after))
    assert applied("\n".join(page(before)), changes) == "\n".join(page(after))
    assert sum(len(str(change)) for change in changes) < 3000
    moved = [*before[1:], before[0]]
    assert sum(len(str(change)) for change in edits(page(before), page(moved))) < 200


def test_a_line_that_a_script_counts_otherwise_is_replaced_as_a_whole() -> None:
    assert edits(["a \U0001f600 b"], ["a \U0001f600 c"]) == [(0, 1, ["a \U0001f600 c"])]


def test_the_length_is_that_of_a_script() -> None:
    text = "\n".join(["line"] * 50)
    body = encode_edits(text, f"{text}\n\U0001f600")
    assert body is not None
    assert msgspec.json.decode(body)["length"] == len(text) + 3


def test_texts_that_have_little_in_common_have_no_edits() -> None:
    assert encode_edits("a" * 100, "b" * 100) is None
