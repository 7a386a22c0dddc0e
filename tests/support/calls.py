"""Random traces over services, in the order in which they arrive: some spans late, some sent again."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.support.samples import NOW_MS
from vantage.core.span import Span, SpanKind, SpanStatus
from vantage.storage.ports import ServiceEdge, ServiceEdges

SERVICES = ("web", "shop", "pay", "mail", "db")
ENVIRONMENTS = ("prod", "test")
Calls = dict[tuple[str, str, str], tuple[int, int, int, int]]


def random_calls(seed: int, *, traces: int = 60, minutes: int = 40, late: float = 0.2) -> Iterator[list[Span]]:
    """Yield spans in pieces, as they arrive in batches."""
    chance = random.Random(seed)
    waiting: list[list[Span]] = [[] for _ in range(10)]
    for number in range(traces):
        spans = _trace(chance, f"t{seed}-{number}", NOW_MS - chance.randrange(1, minutes * 60_000))
        at = number * len(waiting) // traces
        for span in spans:
            later = chance.randrange(at, len(waiting)) if chance.random() < late else at
            waiting[later].append(span)
            if chance.random() < 0.05:
                waiting[chance.randrange(later, len(waiting))].append(span)
    for spans in waiting:
        chance.shuffle(spans)
        yield spans


def _trace(chance: random.Random, trace_id: str, start_ms: int) -> list[Span]:
    """Return a root and calls below it: a client's or producer's span each, and mostly one of the called service."""
    environment = chance.choice(ENVIRONMENTS)
    spans: list[Span] = []

    def span(service: str, kind: SpanKind, parent: str, **attributes: str) -> Span:
        made = Span(
            trace_id, f"s{len(spans)}", service, "GET /", (start_ms + 10 * len(spans)) * 1_000_000 + 1,
            chance.randrange(1, 900) * 1_000_000, parent_span_id=parent, kind=kind,
            status=chance.choice([SpanStatus.OK, SpanStatus.OK, SpanStatus.ERROR]), environment=environment,
            attributes=attributes,
        )  # fmt: skip
        spans.append(made)
        return made

    callers = [span(chance.choice(SERVICES), SpanKind.SERVER, "")]
    for _ in range(chance.randrange(6)):
        caller = chance.choice(callers)
        message = chance.random() < 0.3
        outgoing, incoming = (SpanKind.PRODUCER, SpanKind.CONSUMER) if message else (SpanKind.CLIENT, SpanKind.SERVER)
        peer = {"peer.service": chance.choice(["bank", *SERVICES])} if chance.random() < 0.7 else {}
        call = span(caller.service_name, outgoing, caller.span_id, **peer)
        if chance.random() < 0.7:
            callers.append(span(chance.choice(SERVICES), incoming, call.span_id))
    return spans


def figures(result: ServiceEdges, *, external: bool = True, longest: bool = True) -> Calls:
    """Return the figures by caller, callee and kind; without the maximum where ``longest`` is false."""

    def of(edge: ServiceEdge) -> tuple[int, int, int, int]:
        return edge.calls, edge.errors, edge.duration_ns_sum, edge.duration_ns_max if longest else 0

    return {
        (edge.caller, edge.callee, edge.kind): of(edge) for edge in result.edges if edge.kind != "external" or external
    }
