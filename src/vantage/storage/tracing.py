"""What stores that keep spans as objects share: matching spans, and summing up traces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from vantage.core.span import Span
from vantage.storage.ports import TraceFilter, TraceSummary


def span_matches(wanted: TraceFilter) -> Callable[[Span], bool]:
    """The test of one span against every condition of the filter."""
    start_ns, end_ns = wanted.time_range.start_ms * 1_000_000, wanted.time_range.end_ms * 1_000_000
    longest = wanted.max_duration_ns
    text = wanted.text.lower()

    def matches(span: Span) -> bool:
        return (
            start_ns <= span.start_ns < end_ns
            and (not wanted.service or span.service_name == wanted.service)
            and (not wanted.operation or span.name == wanted.operation)
            and (not wanted.status or span.status == wanted.status)
            and span.duration_ns >= wanted.min_duration_ns
            and (longest is None or span.duration_ns <= longest)
            and (not text or _mentions(span, text))
        )

    return matches


def _mentions(span: Span, text: str) -> bool:
    if text in span.name.lower() or text in span.trace_id.lower():
        return True
    return any(text in value.lower() for value in span.attributes.values())


def latest_traces(spans_of: Mapping[str, Sequence[Span]], wanted: TraceFilter) -> list[TraceSummary]:
    """Summaries of some traces, the latest start first, after ``before`` and up to ``limit``."""
    starts = [(min(span.start_ns for span in spans), trace_id) for trace_id, spans in spans_of.items()]
    starts.sort(reverse=True)
    if wanted.before is not None:
        starts = [start for start in starts if start < wanted.before]
    return [summary(trace_id, spans_of[trace_id]) for _, trace_id in starts[: wanted.limit]]


def summary(trace_id: str, spans: Sequence[Span]) -> TraceSummary:
    """One line about a trace of at least one span."""
    ordered = sorted(spans, key=lambda span: (span.start_ns, span.span_id))
    root = next((span for span in ordered if not span.parent_span_id), ordered[0])
    start_ns = ordered[0].start_ns
    return TraceSummary(
        trace_id=trace_id,
        root_service=root.service_name,
        root_name=root.name,
        start_ns=start_ns,
        duration_ns=max(span.start_ns + span.duration_ns for span in ordered) - start_ns,
        spans=len(ordered),
        errors=sum(span.is_error for span in ordered),
        services=tuple(sorted({span.service_name for span in ordered})),
    )


def count_by_service(spans: Iterable[Span]) -> dict[tuple[str, str, str, str], tuple[int, int, int]]:
    """Spans, first and last start (ms) by service, environment, version and instance."""
    found: dict[tuple[str, str, str, str], tuple[int, int, int]] = {}
    for span in spans:
        key = (span.service_name, span.environment, span.service_version, span.instance)
        count, first_ms, last_ms = found.get(key, (0, span.start_ms, span.start_ms))
        found[key] = (count + 1, min(first_ms, span.start_ms), max(last_ms, span.start_ms))
    return found
