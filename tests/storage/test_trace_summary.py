"""Matching spans and summing up traces on columns, against plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.samples import NOW_MS, a_span, last_hours
from tests.support.spans import any_spans, many_spans
from vantage.core.span import Span, SpanStatus
from vantage.core.span_table import build_span_table
from vantage.core.timerange import TimeRange
from vantage.storage.ports import TraceFilter, TraceSummary
from vantage.storage.recent_spans import distinct_spans
from vantage.storage.trace_summary import count_by_service, latest_summaries, matching_rows, summarize_traces

ALWAYS = TimeRange(0, NOW_MS * 2)
few_ids = st.sampled_from(["a", "b", "B", "c.1"])


def meets(span: Span, wanted: TraceFilter) -> bool:
    text = wanted.text.lower()
    return (
        wanted.time_range.start_ms <= span.start_ms < wanted.time_range.end_ms
        and wanted.service in ("", span.service_name)
        and wanted.operation in ("", span.name)
        and wanted.status in ("", span.status)
        and span.duration_ns >= wanted.min_duration_ns
        and (wanted.max_duration_ns is None or span.duration_ns <= wanted.max_duration_ns)
        and all(span.attributes.get(key) == value for key, value in wanted.attributes)
        and any(text in item.lower() for item in (span.name, span.trace_id, *span.attributes.values()))
    )


def summary(trace_id: str, spans: list[Span]) -> TraceSummary:
    ordered = sorted(spans, key=lambda span: (span.start_ns, span.span_id))
    root = next((span for span in ordered if not span.parent_span_id), ordered[0])
    return TraceSummary(
        trace_id,
        root.service_name,
        root.name,
        ordered[0].start_ns,
        max(span.start_ns + span.duration_ns for span in ordered) - ordered[0].start_ns,
        len(ordered),
        sum(span.is_error for span in ordered),
        tuple(sorted({span.service_name for span in ordered})),
    )


def summed(spans: list[Span]) -> list[TraceSummary]:
    by_id: dict[str, list[Span]] = {}
    for span in distinct_spans(spans):
        by_id.setdefault(span.trace_id, []).append(span)
    return [summary(trace_id, by_id[trace_id]) for trace_id in sorted(by_id)]


conditions = st.fixed_dictionaries(
    {},
    optional={
        "service": st.sampled_from(["service-1", "service-9"]),
        "operation": st.sampled_from(["GET /api/1", "nothing"]),
        "status": st.sampled_from(["error", "unset"]),
        "min_duration_ns": st.integers(0, 10**8),
        "max_duration_ns": st.integers(0, 10**8),
        "text": st.sampled_from(["API/1", "post", "/9", "\0", "ü", "f0", "F0", "zz"]),
        "attributes": st.sampled_from([
            (("http.route", "/api/3"),),
            (("http.route", "/api/3"), ("http.request.method", "GET")),
            (("http.route", ""),),
        ]),
    },
)  # fmt: skip
SPANS = many_spans(300)
TABLE = build_span_table(SPANS)


@given(conditions)
def test_rows_match_as_the_spans_do(requested: dict[str, Any]) -> None:
    expected = TraceFilter(ALWAYS, **requested)
    assert matching_rows(TABLE, expected).tolist() == [row for row, span in enumerate(SPANS) if meets(span, expected)]


@pytest.mark.parametrize("text", ["Zoë", "zOË", "ABC", "abc-9", "Get", "é"])
def test_text_is_found_in_any_case(text: str) -> None:
    spans = [a_span("aBc-9", attributes={"user": "ZOË"}), a_span("none", name="caf\xe9 get", attributes={"abc": ""})]
    expected = TraceFilter(ALWAYS, text=text)
    rows = matching_rows(build_span_table(spans), expected).tolist()
    assert rows == [row for row, span in enumerate(spans) if meets(span, expected)]
    assert rows


@pytest.mark.parametrize(("start_ms", "result"), [(NOW_MS - 1, [0]), (NOW_MS, [0]), (NOW_MS + 1, [])])
def test_a_span_matches_by_its_start(start_ms: int, result: list[int]) -> None:
    table = build_span_table([a_span(start_ms=NOW_MS, duration_ms=5000)])
    assert matching_rows(table, TraceFilter(TimeRange(start_ms, NOW_MS + 10))).tolist() == result


def test_an_attribute_of_another_key_does_not_match() -> None:
    table = build_span_table([a_span(attributes={"a": "1", "b": "2"})])
    assert matching_rows(table, TraceFilter(ALWAYS, attributes=(("a", "2"),))).tolist() == []


def test_no_rows_match_in_an_empty_table() -> None:
    assert (
        matching_rows(build_span_table([]), TraceFilter(ALWAYS, service="a", text="b", attributes=(("c", "d"),))).size
        == 0
    )


@given(any_spans(some_ids=few_ids))
def test_traces_are_summarised_from_their_spans(spans: list[Span]) -> None:
    assert summarize_traces(build_span_table(spans)) == summed(spans)


def test_many_traces_are_summed_up_at_once() -> None:
    assert summarize_traces(TABLE) == summed(SPANS)


def test_of_spans_that_start_together_the_first_by_id_is_the_root() -> None:
    spans = [a_span(span_id="z", name="last"), a_span(span_id="b", name="first"), a_span(span_id="c", name="middle")]
    assert [trace.root_name for trace in summarize_traces(build_span_table(spans))] == ["first"]


def test_traces_are_listed_latest_first_and_ties_by_id() -> None:
    spans = [a_span(trace_id, start_ms=NOW_MS + late) for trace_id, late in (("a", 0), ("c", 0), ("b", 0), ("d", -1))]
    result = latest_summaries(build_span_table(spans), TraceFilter(last_hours()))
    assert [item.trace_id for item in result] == ["c", "b", "a", "d"]


@given(any_spans(some_ids=few_ids), st.integers(0, 4), st.integers(1, 3))
def test_a_listing_goes_on_after_any_of_its_traces(spans: list[Span], index: int, limit: int) -> None:
    table = build_span_table(spans)
    complete = latest_summaries(table, TraceFilter(ALWAYS))
    assert complete == sorted(summed(spans), key=lambda first: (first.start_ns, first.trace_id), reverse=True)
    for last in complete[index : index + 1]:
        expected = TraceFilter(ALWAYS, before=(last.start_ns, last.trace_id), limit=limit)
        assert latest_summaries(table, expected) == complete[index + 1 :][:limit]


def test_a_made_up_cursor_lists_what_is_before_it() -> None:
    table = build_span_table([a_span("t1", start_ms=NOW_MS)])
    for trace_id, stored in (("é", 1), ("", 0)):
        assert len(latest_summaries(table, TraceFilter(ALWAYS, before=(NOW_MS * 1_000_000, trace_id)))) == stored


@given(any_spans())
def test_spans_are_counted_by_service(spans: list[Span]) -> None:
    expected: dict[tuple[str, ...], list[int]] = {}
    for span in spans:
        key = (span.service_name, span.environment, span.service_version, span.instance)
        expected.setdefault(key, []).append(span.start_ms)
    assert count_by_service(build_span_table(spans)) == {
        key: (len(times), min(times), max(times)) for key, times in expected.items()
    }


def test_errors_are_counted_a_trace() -> None:
    spans = [a_span("a", "1", status=SpanStatus.ERROR), a_span("b", "2"), a_span("a", "3", status=SpanStatus.ERROR)]
    assert [(trace.trace_id, trace.errors) for trace in summarize_traces(build_span_table(spans))] == [
        ("a", 2),
        ("b", 0),
    ]


def test_ids_of_one_hash_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vantage.storage.trace_summary.hash_ids", lambda ids: np.zeros(len(ids), np.uint64))
    assert summarize_traces(TABLE) == summed(SPANS)
