"""The SQL of queries, compared with files that a person has reviewed.

``UPDATE_SNAPSHOTS=1 pytest tests/storage/clickhouse/test_sql.py`` writes them again: review the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.storage.clickhouse.queries import ASKED_MS, queries
from vantage.core.errors import InputError
from vantage.storage.clickhouse.engine import Statement
from vantage.storage.clickhouse.sql import print_select
from vantage.vql.check import check
from vantage.vql.tree import And, Arithmetic, Case, Column, Compare, Like, Literal, Select, SelectItem

SNAPSHOTS = Path(__file__).parent / "snapshots"


def shown(statement: Statement) -> str:
    values = "".join(f"-- {name} = {value!r}\n" for name, value in statement.params.items())
    return f"{statement.text}\n{values}"


@pytest.mark.parametrize("name", queries())
def test_the_sql_is_the_one_that_was_read(name: str) -> None:
    result, path = shown(print_select(queries()[name])), SNAPSHOTS / f"{name}.sql"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(result, encoding="utf-8")
    assert result == path.read_text(encoding="utf-8")


def test_every_snapshot_has_a_query() -> None:
    assert {path.stem for path in SNAPSHOTS.glob("*.sql")} == set(queries())


@pytest.mark.parametrize(
    ("pattern", "bound"),
    [("50\\%", "50\\%"), ("a\\b", "ab"), ("a\\\\b", "a\\\\b"), ("end\\", "end\\\\"), ("_%", "_%")],
)
def test_patterns_are_printed_with_known_escapes_only(pattern: str, bound: str) -> None:
    select = Select("metrics", (SelectItem(Column("value"), "v"),), where=Like(Column("trace_id"), pattern))
    assert bound in print_select(check(select, now_ms=ASKED_MS)).params.values()


def test_no_text_of_a_query_stands_in_the_sql() -> None:
    evil = "x'; DROP TABLE samples --"
    select = Select(
        "metrics",
        (SelectItem(Column("value"), evil),),
        where=And((Compare("=", Column("service_name"), Literal(evil)), Like(Column("unit"), evil))),
    )
    statement = print_select(check(select, now_ms=ASKED_MS))
    assert "DROP" not in statement.text
    assert evil in statement.params.values()


def test_nesting_does_not_multiply_the_text() -> None:
    expr = Column("value")
    for _ in range(20):
        inner = Arithmetic("/", expr, Literal(2.0))
        expr = Case(((Compare(">", Column("value"), Literal(1)), inner),), Literal(None))  # type: ignore[assignment]
    select = Select("metrics", (SelectItem(expr, "deep"),))
    assert len(print_select(check(select, now_ms=ASKED_MS)).text) < 5000


def test_a_number_beyond_64_bits_is_refused() -> None:
    select = Select("metrics", (SelectItem(Compare("=", Column("value"), Literal(1 << 70)), "huge"),))
    with pytest.raises(InputError, match="64 bits"):
        print_select(check(select, now_ms=ASKED_MS))
