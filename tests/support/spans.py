"""Spans of any shape that ingest accepts, and realistic ones, for tests of columns."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from tests.support.samples import NOW_MS
from vantage.core.sample import TIME_MS_MIN
from vantage.core.span import DURATION_NS_MAX, Span, SpanKind, SpanStatus

ID_ALPHABET = "0123456789abcdefABCDEFxyz_.:-"
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
hex_ids = st.binary(min_size=1, max_size=16).map(bytes.hex)
ids = st.one_of(hex_ids, st.text(ID_ALPHABET, min_size=1, max_size=64))


def any_spans(max_size: int = 12, *, some_ids: st.SearchStrategy[str] = ids) -> st.SearchStrategy[list[Span]]:
    """Generate lists of spans as unusual as the limits allow; ``some_ids`` may restrict the form of ids."""
    span = st.builds(
        Span,
        trace_id=some_ids,
        span_id=some_ids,
        service_name=texts.filter(bool),
        name=texts.filter(bool),
        start_ns=st.integers(TIME_MS_MIN * 1_000_000, NOW_MS * 1_000_000),
        duration_ns=st.integers(0, DURATION_NS_MAX),
        parent_span_id=st.one_of(st.just(""), some_ids),
        kind=st.sampled_from(SpanKind),
        status=st.sampled_from(SpanStatus),
        environment=texts,
        service_version=texts,
        instance=texts,
        attributes=st.dictionaries(texts.filter(bool), texts, max_size=4),
    )
    return st.lists(span, max_size=max_size)


def many_spans(count: int, *, seed: int = 1, services: int = 5) -> list[Span]:
    """Return spans as an instrumented shop sends them, ten per trace, by start."""
    chance = random.Random(seed)
    spans: list[Span] = []
    start_ns = NOW_MS * 1_000_000 - 3_600_000_000_000
    for index in range(count):
        if index % 10 == 0:
            trace_id, parents = f"{chance.getrandbits(128):032x}", [""]
        span_id = f"{chance.getrandbits(64):016x}"
        method, route = chance.choice(("GET", "POST")), f"/api/{chance.randint(0, 14)}"
        start_ns += chance.randint(1000, 5_000_000)
        spans.append(
            Span(
                trace_id,
                span_id,
                f"service-{chance.randrange(services)}",
                f"{method} {route}",
                start_ns,
                int(chance.lognormvariate(16, 1)),
                chance.choice(parents),
                chance.choice(list(SpanKind)),
                chance.choice([SpanStatus.UNSET] * 9 + [SpanStatus.ERROR]),
                "production",
                "2.5.0",
                f"host-{chance.randint(0, 3)}",
                {
                    "http.route": route,
                    "http.request.method": method,
                    "http.response.status_code": chance.choice(["200"] * 8 + ["404", "500"]),
                    "url.path": f"{route}/{chance.randint(1, 10_000)}",
                },
            )
        )
        parents.append(span_id)
    return spans
