"""Answers as lines of text that fit a terminal."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from vantage.commands.grid import grid, rfc3339
from vantage.vql.table import Table, TableColumn

TABLE = Table(
    (TableColumn("name", "string"), TableColumn("at", "time"), TableColumn("n", "float"), TableColumn("tags", "map")),
    (
        ["GET /cart", "日本語" * 20, None],
        [1_795_000_000_000, 1_795_000_000_250, None],
        [1.5, 1e300, None],
        [{"k": "v"}, {}, {"long": "x" * 300}],
    ),
)


def test_numbers_stand_to_the_right_and_null_is_told() -> None:
    table = Table((TableColumn("name", "string"), TableColumn("n", "int")), (["a", "long", None], [5, 12345, None]))
    assert list(grid(table, width=80)) == ["name      n", "────  ─────", "a         5", "long  12345", "NULL   NULL"]


@pytest.mark.parametrize("width", [200, 100, 60, 41])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = list(grid(TABLE, width=width))
    assert max(map(cell_len, lines)) <= width
    assert lines[0].split()[0] == "name"


def test_where_columns_do_not_fit_beside_each_other_a_row_is_a_list() -> None:
    lines = list(grid(TABLE, width=30))
    assert max(map(cell_len, lines)) <= 30
    assert lines[0].startswith("── row 1 ─")
    assert lines[1] == "name  GET /cart"
    assert [line.split()[0] for line in lines[1:5]] == ["name", "at", "n", "tags"]


def test_the_widest_columns_are_cut_first_by_their_width_on_the_screen() -> None:
    table = Table((TableColumn("a", "string"), TableColumn("b", "string")), (["日本語の名前です"], ["short"]))
    assert list(grid(table, width=16))[2] == "日本語の…  short"


def test_letters_that_move_the_cursor_are_not_printed() -> None:
    table = Table((TableColumn("a", "string"),), (["x\x1b[31m\ny"],))
    (line,) = list(grid(table, width=80))[2:]
    assert line == "x\ufffd[31m\ufffdy"


def test_an_empty_answer_is_its_head() -> None:
    assert list(grid(Table((TableColumn("value", "float"),), ([],)), width=80)) == ["value", "─────"]


def test_times_are_rfc_3339() -> None:
    assert rfc3339(1_795_000_000_000) == "2026-11-18T11:06:40Z"
    assert rfc3339(1_795_000_000_250) == "2026-11-18T11:06:40.250Z"
