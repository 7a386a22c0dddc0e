"""The command palette: words in any order and case, beginnings first, traces by id."""

from collections.abc import AsyncIterator

import pytest

from tests.support.context_writes import write_batch
from tests.support.samples import NOW_MS, MovedClock, a_series, a_span
from vantage.core.batch import build_batch
from vantage.core.sample import Kind
from vantage.query.context import QueryContext
from vantage.query.palette import RESULTS_MAX, Hit, find
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    clock = MovedClock()
    async with MemoryMetadataStore(clock) as metadata:
        context = QueryContext(MemoryStore(clock=clock), metadata, clock, Telemetry())
        names = [("checkout", "queue.length"), ("shop", "checkout.total"), ("shop", "http.requests"), ("web", "Café")]
        rows = [(a_series(service, metric, Kind.GAUGE), NOW_MS - 1, 1.0) for service, metric in names]
        await write_batch(context, build_batch(rows, spans=(a_span("4bf92f3577b34da6", "s", service="spans-only"),)))
        yield context


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("checkout", [Hit("service", "checkout"), Hit("metric", "checkout.total", "shop"),
                      Hit("metric", "queue.length", "checkout")]),
        ("SHOP requests", [Hit("metric", "http.requests", "shop")]),
        ("requests shop", [Hit("metric", "http.requests", "shop")]),
        ("café", [Hit("metric", "Café", "web")]),
        ("spans", [Hit("service", "spans-only")]),
        ("4bf92f3577b34da6", [Hit("trace", "4bf92f3577b34da6")]),
        ("4bf92f3577b34da7", []),
        ("", []),
        ("  ", []),
        ("checkout nothing", []),
        ("\x00%_[\\", []),
    ],
    ids=str,
)  # fmt: skip
async def test_names_with_every_word_are_found(context: QueryContext, text: str, hits: list[Hit]) -> None:
    assert await find(context, text) == hits


async def test_there_are_no_more_than_can_be_shown(context: QueryContext) -> None:
    rows = [(a_series(f"many-{number}", "m", Kind.GAUGE), NOW_MS - 1, 1.0) for number in range(50)]
    await write_batch(context, build_batch(rows))
    assert len(await find(context, "many")) == RESULTS_MAX
