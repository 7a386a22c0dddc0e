"""Commands print bytes, counts and durations as pages and charts do: the examples are those of number_format.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vantage.commands import disk_usage, query
from vantage.core.timerange import TimeRange
from vantage.query.vql import VqlResult
from vantage.vql.table import Table, TableColumn

EXAMPLES = json.loads((Path(__file__).resolve().parents[1] / "number_format.json").read_text())


def positive_integers(name: str) -> list[tuple[Any, str]]:
    """Return the examples with integers above 0, which a count can be."""
    numbers = [(value, text) for (value,), text in EXAMPLES[name] if value and value > 0 and value == int(value)]
    assert len(numbers) >= 5
    return [(int(value), text) for value, text in numbers]


@pytest.mark.parametrize(("nbytes", "text"), positive_integers("size"))
def test_doctor_shows_bytes_as_the_pages_do(nbytes: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    growing = [{"service": "a", "metric": "b", "tags": {}, "samples": 7, "bytes": nbytes}]
    disk_usage._show_rows({"samples": nbytes}, [disk_usage._cells("a", "b", "raw", nbytes, 7, 7)])
    disk_usage._show_growing(growing)
    total, _, row, _, _, growth = capsys.readouterr().out.splitlines()
    assert total.strip() == f"on the disk: samples {text}"
    assert f"raw   {text}  7" in row
    assert growth.endswith(text)


@pytest.mark.parametrize(("number", "text"), positive_integers("count"))
def test_doctor_shows_counts_as_the_pages_do(number: int, text: str) -> None:
    assert disk_usage._cells("a", "b", "raw", 0, number, number)[-2:] == [text, text]


@pytest.mark.parametrize(("value_ms", "text"), [(value, text) for (value,), text in EXAMPLES["duration_ms"] if value])
def test_a_query_says_how_long_it_took_as_the_pages_do(
    value_ms: float, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = VqlResult(Table((TableColumn("n", "int"),), ([1],)), TimeRange(0, 1000), (), value_ms)
    query._write(answer, query.TABLE, "-")
    assert capsys.readouterr().err.strip().endswith(f", {text}")
