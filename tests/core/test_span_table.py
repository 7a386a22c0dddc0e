"""Spans as columns: nothing is lost on the way there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.samples import NOW_MS, a_span
from tests.support.spans import any_spans, many_spans
from vantage.core.dict_column import DictColumn, concat_dict_columns, dict_encode
from vantage.core.idhash import hash_id
from vantage.core.span import Span
from vantage.core.span_table import SpanTable, build_span_table, concat_span_tables


@given(any_spans())
def test_spans_come_back_equal_from_their_columns(spans: list[Span]) -> None:
    table = build_span_table(spans)
    assert len(table) == len(spans)
    assert table.spans() == spans
    assert [table.span(row) for row in range(len(spans))] == spans


@given(any_spans())
def test_attributes_keep_their_order(spans: list[Span]) -> None:
    assert [list(span.attributes.items()) for span in build_span_table(spans).spans()] == [
        list(span.attributes.items()) for span in spans
    ]


@given(any_spans(), st.data())
def test_rows_are_taken_in_the_order_asked_for(spans: list[Span], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(spans) - 1), max_size=20) if spans else st.just([]))
    used = build_span_table(spans).take(np.array(rows, np.intp))
    assert used.spans() == build_span_table(spans).spans(np.array(rows, np.intp)) == [spans[row] for row in rows]


@given(st.lists(any_spans(4), max_size=4))
def test_tables_are_laid_end_to_end(parts: list[list[Span]]) -> None:
    assert concat_span_tables(build_span_table(part) for part in parts).spans() == [
        span for part in parts for span in part
    ]


def test_what_is_taken_and_joined_again_is_as_it_was() -> None:
    spans = many_spans(500)
    table = build_span_table(spans)
    assert concat_span_tables([table.take(np.arange(200)), table.take(np.arange(200, 500))]).spans() == spans


def test_a_few_rows_do_not_carry_the_texts_of_all() -> None:
    used = build_span_table(many_spans(1000)).take(np.array([3, 5]))
    assert len(used.attr_value.values) <= 8
    assert used.nbytes < 2500


def test_codes_point_at_distinct_texts() -> None:
    table = concat_span_tables([build_span_table(many_spans(100, seed=seed)) for seed in range(3)])
    for texts in (table.name, table.attr_key, table.attr_value):
        assert len(set(texts.values)) == len(texts.values)
        assert sorted(set(texts.codes.tolist())) == list(range(len(texts.values)))


def test_columns_that_share_a_dictionary_keep_it() -> None:
    column = dict_encode(["a", "b", "a"])
    both = concat_dict_columns([column, DictColumn(column.codes[:2], column.values)])
    assert both.values is column.values
    assert both.to_list() == ["a", "b", "a", "a", "b"]


@given(any_spans(), st.sampled_from(["a", "b", "http.route"]))
def test_an_attribute_is_a_column_with_nothing_where_it_is_absent(spans: list[Span], key: str) -> None:
    for index, span in enumerate(spans[::2]):
        span.attributes[key] = str(index % 3) if index % 3 else ""
    column = build_span_table(spans).attribute(key)
    assert column.to_list() == [span.attributes.get(key, "") for span in spans]
    assert len(set(column.values)) == len(column.values)


def test_rows_are_found_by_an_attribute_and_its_exact_value() -> None:
    table = build_span_table([a_span(attributes={"a": "1", "b": "2"}), a_span(attributes={"b": "1"}), a_span()])
    assert table.with_attribute("a", "1").tolist() == [True, False, False]
    assert table.with_attribute("b", "1").tolist() == [False, True, False]
    assert table.with_attribute("b", "").tolist() == [False, False, False]
    assert table.with_attribute("z", "1").tolist() == [False, False, False]


def test_rows_are_found_by_the_value_of_any_attribute() -> None:
    table = build_span_table([a_span(attributes={"a": "one", "b": "two"}), a_span(), a_span(attributes={"c": "two"})])
    assert table.with_value(lambda value: value == "two").tolist() == [True, False, True]
    assert table.with_value(lambda value: False).tolist() == [False, False, False]


@pytest.mark.parametrize(
    ("start_ms", "end_ms", "stored"),
    [(NOW_MS, NOW_MS + 1, [True, False]), (NOW_MS, NOW_MS + 2, [True, True]), (NOW_MS + 1, 10**17, [False, True])],
)
def test_a_range_holds_its_start_and_not_its_end(start_ms: int, end_ms: int, stored: list[bool]) -> None:
    table = build_span_table([a_span(start_ms=NOW_MS), a_span(start_ms=NOW_MS + 1)])
    assert table.within(start_ms, end_ms).tolist() == stored
    assert table.start_ms.tolist() == [NOW_MS, NOW_MS + 1]


def test_a_table_without_spans_can_do_all_that_others_can() -> None:
    empty: SpanTable = concat_span_tables([])
    assert (len(empty), empty.spans(), empty.trace_hashes().tolist(), empty.attribute("a").to_list()) == (0, [], [], [])
    assert len(empty.take(np.empty(0, np.intp))) == 0
    assert concat_span_tables([empty, build_span_table([a_span()]), empty]).spans() == [a_span()]


def test_trace_hashes_are_those_of_the_ids() -> None:
    spans = [a_span("t1"), a_span("a" * 64)]
    assert build_span_table(spans).trace_hashes().tolist() == [hash_id("t1"), hash_id("a" * 64)]


def test_the_estimate_of_memory_grows_with_the_rows() -> None:
    small, large = build_span_table(many_spans(100)), build_span_table(many_spans(1000))
    assert 100 * 100 < small.nbytes < large.nbytes < 1000 * 500
