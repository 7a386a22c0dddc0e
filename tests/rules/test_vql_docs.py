"""docs/vql.md is a reference: every example in it is asked, and its tables are those of the code."""

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.samples import MovedClock, a_series, a_span
from vantage.core.batch import Batch, build_batch
from vantage.core.sample import Kind
from vantage.query.vql import ANSWER_NBYTES_MAX
from vantage.storage.memory import MemoryStore
from vantage.vql.check import ROWS_MAX, TEXT_NBYTES_MAX
from vantage.vql.exec.execute import QUERY_SAMPLES_MAX
from vantage.vql.signatures import ARGUMENTS_MAX, METRICS, SPANS, TEXT_FUNCTIONS
from vantage.vql.text.compile import compile_query
from vantage.vql.text.lower_expr import DEPTH_MAX, NODES_MAX
from vantage.vql.text.params import PARAM_LENGTH_MAX, PARAM_VALUES_MAX
from vantage.vql.text.parse import DEPTH_MAX as BRACKETS_MAX
from vantage.vql.text.parse import TOKENS_MAX

DOCS = (Path(__file__).parents[2] / "docs" / "vql.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", DOCS, re.DOTALL)
NOW_MS = 1_795_433_000_000  # a while after the samples of the page
PARAMS: dict[str, Any] = {"service": "it's mine", "environments": ["prod", "canary"]}
WORDS = {"string": "text", "float": "number", "int": "integer", "time": "time", "map": "map"}


def tables(*header: str) -> list[list[str]]:
    """The rows of every table with such a header."""
    rows: list[list[str]] = []
    for block in re.findall(r"((?:^\|.*\n)+)", DOCS, re.MULTILINE):
        first, _, *rest = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        if first == list(header):
            rows += rest
    return rows


FUNCTIONS = tables("function", "", "example", "gives")
EXAMPLES = [(example.strip("`"), gives.strip("`")) for _, _, example, gives in FUNCTIONS]


async def a_store() -> MemoryStore:
    """The samples that the page shows, the same as of a service of its other examples, and a span."""
    store = MemoryStore(clock=MovedClock(NOW_MS))
    for at, value, method in tables("timestamp", "value", "tags['method']"):
        at_ms = int(datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp() * 1000)
        tags = {"method": method, "route": "/pay", "status": "500" if value == "300" else "200"}
        series = a_series("my-api", "http.request.duration", Kind.HISTOGRAM, tags=tags)
        await store.write(build_batch([(series, at_ms, float(value))]))
    await store.write(Batch(spans=(a_span(start_ms=NOW_MS - 1000, attributes={"http.route": "/pay"}),)))
    return store


async def ask(text: str) -> list[tuple[Any, ...]]:
    params = PARAMS if ":" in re.sub(r"'[^']*'", "", text) else {}
    compiled = compile_query(text, now_ms=NOW_MS, params=params)
    store = await a_store()
    return list((await store.select(compiled.query, deadline_s=5)).rows())


@pytest.mark.parametrize("text", QUERIES, ids=lambda text: " ".join(text.split())[:60])
async def test_every_query_of_the_page_is_answered(text: str) -> None:
    assert await ask(text)


def test_the_page_has_queries_and_examples() -> None:
    assert len(QUERIES) >= 8
    assert len(EXAMPLES) >= 30


@pytest.mark.parametrize(("example", "gives"), EXAMPLES)
async def test_every_example_gives_what_the_page_says(example: str, gives: str) -> None:
    since = "timestamp >= '2026-11-23 10:00:00'"
    result = await ask(f"SELECT {example} FROM metrics WHERE {since} LIMIT 1")
    expected = ast.literal_eval(gives)
    assert result == [(pytest.approx(expected, rel=1e-12) if isinstance(expected, (int, float)) else expected,)]


def test_every_function_is_on_the_page_and_no_other() -> None:
    named = {name for cell, *_ in FUNCTIONS for name in re.findall(r"`(\w+)\(", cell)}
    assert named == set(TEXT_FUNCTIONS)


def test_the_columns_are_those_of_the_tables() -> None:
    shown = [(name.strip("`"), kind) for name, kind, _ in tables("column", "type", "")]
    assert shown == [(name, WORDS[kind]) for table in (METRICS, SPANS) for name, kind in table.items()]


def test_the_limits_are_those_of_the_code() -> None:
    limits = dict(tables("limit", ""))
    assert limits["text"] == f"{TEXT_NBYTES_MAX} bytes, {TOKENS_MAX} words and signs"
    assert limits["depth"] == f"{BRACKETS_MAX} brackets, {DEPTH_MAX} operations"
    assert limits["size"].startswith(f"{NODES_MAX} parts")
    assert limits["rows of an answer"].startswith(f"{ROWS_MAX}, and {ANSWER_NBYTES_MAX >> 20} MiB;")
    assert limits["arguments of `concat` and `coalesce`"] == str(ARGUMENTS_MAX)
    assert f"({QUERY_SAMPLES_MAX // 1_000_000} million unless set otherwise)" in DOCS
    assert f"at most {PARAM_VALUES_MAX} values, a text at most {PARAM_LENGTH_MAX} characters" in DOCS
