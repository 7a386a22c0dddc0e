"""What slow or failed traces have in common: services, operations and attributes that occur in more of them than in
the others.

Traces are counted, not spans. Traits are ranked by Fisher's exact test (Fisher: "On the interpretation of chi-squared
from contingency tables, and the calculation of P", 1922): how likely chance alone would put a trait into as many of the
targets as it is in. So 18 of 20 against 3 of 180 comes before 2 of 20 against none. Of many traits a few are always
unlikely; listed are those that are so even after the probability was multiplied by the number of traits compared
(Bonferroni's correction).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from vantage.core.span import Span
from vantage.core.span_table import build_span_table
from vantage.query.context import QueryContext
from vantage.query.traces import find_traces
from vantage.storage.ports import TraceFilter, TraceSummary
from vantage.storage.recent_spans import distinct_spans
from vantage.storage.trace_summary import matching_rows

TRACES_MAX: Final = 400
SPANS_MAX: Final = 20_000
SPANS_OF_TRACE_MAX: Final = 2000  # of larger ones few would leave room for others
SLOW_QUANTILE: Final = 0.9
CHANCE_MAX: Final = 0.05
GROUPS_MAX: Final = 15
ALIKE_MAX: Final = 6
VALUE_LENGTH_MAX: Final = 150  # longer texts are messages, not traits
_TRAITS_MAX: Final = 200_000
TraitKind = Literal["service", "operation", "attribute"]
Target = Literal["slow", "failed"]
_Trait = tuple[TraitKind, str, str]


@dataclass(frozen=True, slots=True)
class Trait:
    """A service (``name``), an operation (``name``, of the service ``value``) or an attribute and its value.
    ``narrows``: of the traces that match already, some have it on the very span that matches."""

    kind: TraitKind
    name: str
    value: str
    narrows: bool


@dataclass(frozen=True, slots=True)
class TraitGroup:
    """Traits that the same traces have, the most general one first. ``in_targets`` and ``in_others`` are numbers of
    traces; ``chance`` is the probability of Fisher's test, before the correction."""

    traits: tuple[Trait, ...]
    more_traits: int
    in_targets: int
    in_others: int
    chance: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """``targets`` slow or failed traces against ``others``. ``threshold_ns``: slow ones took at least this long, and
    at most ``limit_ns`` where that is not None. ``traces_left_out`` were too large; ``is_cut``: there are more traces
    that match. ``compared`` traits were tested."""

    target: Target
    targets: int
    others: int
    spans: int
    groups: tuple[TraitGroup, ...]
    compared: int
    threshold_ns: int = 0
    limit_ns: int | None = None
    traces_left_out: int = 0
    is_cut: bool = False


async def compare_traces(context: QueryContext, wanted: TraceFilter, target: Target) -> Comparison:
    """Compare the latest traces that match, at most TRACES_MAX with SPANS_MAX spans. A filter's durations do not narrow
    them: they say which are slow; without them these are the slowest tenth. Raises what the store raises."""
    everything = replace(wanted, min_duration_ns=0, max_duration_ns=None, limit=TRACES_MAX, before=None)
    if target == "failed":
        everything = replace(everything, min_duration_ns=wanted.min_duration_ns, max_duration_ns=wanted.max_duration_ns)
        everything = replace(everything, status="") if wanted.status == "error" else everything
    summaries = await find_traces(context, everything)
    chosen = _within(summaries)
    targets, threshold_ns = _targets(chosen, wanted, target)
    spans: Sequence[Span] = ()
    if 0 < len(targets) < len(chosen):
        spans = await context.store.spans_of([trace.trace_id for trace in chosen], spans_max=SPANS_MAX)
    comparison = await asyncio.to_thread(_compare, chosen, targets, spans, wanted)
    return replace(
        comparison,
        target=target,
        threshold_ns=threshold_ns,
        limit_ns=wanted.max_duration_ns if target == "slow" else None,
        traces_left_out=len(summaries) - len(chosen),
        is_cut=len(summaries) == TRACES_MAX,
    )


def chance_of(in_targets: int, in_others: int, *, targets: int, others: int) -> float:
    """Return the probability that of as many traces drawn by chance as there are targets, at least ``in_targets`` have
    a trait that ``in_targets + in_others`` of all have."""
    total, having = targets + others, in_targets + in_others
    log_all = _log_choose(total, targets)
    return min(
        1.0,
        math.fsum(
            math.exp(_log_choose(having, hits) + _log_choose(total - having, targets - hits) - log_all)
            for hits in range(in_targets, min(targets, having) + 1)
            if targets - hits <= total - having
        ),
    )


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


def _within(summaries: Sequence[TraceSummary]) -> list[TraceSummary]:
    """Return the first traces whose spans stay within the limits."""
    chosen, spans = [], 0
    for trace in summaries:
        if trace.spans <= SPANS_OF_TRACE_MAX and spans + trace.spans <= SPANS_MAX:
            chosen.append(trace)
            spans += trace.spans
    return chosen


def _targets(traces: Sequence[TraceSummary], wanted: TraceFilter, target: Target) -> tuple[frozenset[str], int]:
    """Return the ids of the slow or failed traces, and from which duration on a trace is slow."""
    if target == "failed":
        return frozenset(trace.trace_id for trace in traces if trace.errors), 0
    threshold_ns = wanted.min_duration_ns
    if not threshold_ns and wanted.max_duration_ns is None and traces:
        durations = sorted(trace.duration_ns for trace in traces)
        quantile_ns = durations[math.ceil(SLOW_QUANTILE * len(durations)) - 1]
        threshold_ns = next((duration for duration in durations if duration > quantile_ns), durations[-1])
        threshold_ns += threshold_ns == durations[0]  # all took the same time: none is slow
    limit_ns = math.inf if wanted.max_duration_ns is None else wanted.max_duration_ns
    return frozenset(trace.trace_id for trace in traces if threshold_ns <= trace.duration_ns <= limit_ns), threshold_ns


def _compare(
    traces: Sequence[TraceSummary], targets: frozenset[str], spans: Sequence[Span], matching: TraceFilter
) -> Comparison:
    spans = distinct_spans(spans)
    bits = {trace.trace_id: 1 << number for number, trace in enumerate(traces)}
    target_bits = sum(bits[trace_id] for trace_id in targets)
    others = len(traces) - len(targets)
    occurs, on_match = _occurrences(spans, bits, matching)
    chances: dict[int, float] = {}
    groups: dict[int, list[_Trait]] = {}
    compared = 0
    for trait, having in occurs.items():
        in_targets = (having & target_bits).bit_count()
        in_others = having.bit_count() - in_targets
        if in_targets >= 2 and in_targets * others > in_others * len(targets):
            compared += 1
            groups.setdefault(having, []).append(trait)
            if having not in chances:
                chances[having] = chance_of(in_targets, in_others, targets=len(targets), others=others)
    likely = sorted(
        (having for having in groups if chances[having] * compared <= CHANCE_MAX),
        key=lambda having: (chances[having], groups[having]),
    )
    return Comparison(
        "slow",
        len(targets),
        others,
        len(spans),
        tuple(_group(groups[having], having, target_bits, chances[having], on_match) for having in likely[:GROUPS_MAX]),
        compared,
    )


def _occurrences(
    spans: Sequence[Span], bits: Mapping[str, int], matching: TraceFilter
) -> tuple[dict[_Trait, int], set[_Trait]]:
    """Return which traces have each trait, a bit each, and the traits that spans have which match the filter."""
    occurs: dict[_Trait, int] = {}
    on_match: set[_Trait] = set()
    matched = frozenset(matching_rows(build_span_table(spans), matching).tolist())
    for number, span in enumerate(spans):
        bit = bits[span.trace_id]
        for trait in _traits(span):
            having = occurs.get(trait, 0)
            if having or len(occurs) < _TRAITS_MAX:
                occurs[trait] = having | bit
            if number in matched:
                on_match.add(trait)
    return occurs, on_match


def _traits(span: Span) -> Iterator[_Trait]:
    yield "service", span.service_name, ""
    yield "operation", span.name, span.service_name
    for key, value in span.attributes.items():
        if len(value) <= VALUE_LENGTH_MAX:
            yield "attribute", key, value


def _group(traits: Sequence[_Trait], having: int, target_bits: int, chance: float, on_match: set[_Trait]) -> TraitGroup:
    kinds = ("service", "operation", "attribute")
    first = sorted(traits, key=lambda trait: (kinds.index(trait[0]), trait))
    in_targets = (having & target_bits).bit_count()
    return TraitGroup(
        tuple(Trait(*trait, narrows=trait in on_match) for trait in first[: ALIKE_MAX + 1]),
        max(0, len(first) - ALIKE_MAX - 1),
        in_targets,
        having.bit_count() - in_targets,
        chance,
    )
