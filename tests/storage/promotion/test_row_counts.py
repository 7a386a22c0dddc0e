"""Which rows does another store lack? Compared with a multiset of Python, on random batches."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.support.samples import a_batch, a_series, a_span
from vantage.core.batch import Batch
from vantage.storage.promotion.hour_summary import HourSummer
from vantage.storage.promotion.row_counts import RowCounts


def rows_of(batch: Batch) -> list[tuple[int, int, float]]:
    columns = zip(batch.index.tolist(), batch.time_ms.tolist(), batch.value.tolist(), strict=True)
    return [(batch.series[index].id, time_ms, value) for index, time_ms, value in columns]


def random_batches(chance: random.Random) -> list[Batch]:
    """Return batches of few distinct samples, many of them equal."""
    return [
        a_batch(
            *(float(chance.randrange(4)) for _ in range(chance.randrange(1, 30))),
            series=a_series(f"s{chance.randrange(3)}"),
            at_ms=1_000_000 + chance.randrange(3),
        )
        for _ in range(chance.randrange(6))
    ]


@pytest.mark.parametrize("seed", range(30))
def test_the_rows_that_are_lacking_are_those_of_a_multiset(seed: int) -> None:
    chance = random.Random(seed)
    here, there = random_batches(chance), random_batches(chance)
    counts = RowCounts()
    for batch in there:
        counts.add(batch)
    assert counts.left == sum(batch.samples for batch in there)
    lacking: Counter[object] = Counter()
    for batch in here:
        lacking.update(rows_of(counts.take(batch)))
    in_here = Counter(row for batch in here for row in rows_of(batch))
    in_there = Counter(row for batch in there for row in rows_of(batch))
    assert lacking == in_here - in_there
    assert counts.left == (in_there - in_here).total()


def test_a_span_is_there_or_lacking_with_its_identity() -> None:
    counts = RowCounts()
    counts.add(Batch(spans=(a_span("t1", "a"), a_span("t1", "b"))))
    lacking = counts.take(Batch(spans=(a_span("t1", "b"), a_span("t2", "b"))))
    assert [(span.trace_id, span.span_id) for span in lacking.spans] == [("t2", "b")]
    assert counts.left == 1


def test_a_summary_grows_by_what_is_added() -> None:
    first, second, both = HourSummer(), HourSummer(), HourSummer()
    for summer, batch in ((first, a_batch(1, 2)), (second, Batch(spans=(a_span("t", "s"),))), (second, a_batch(3))):
        summer.add(batch)
        both.add(batch)
    assert first.summary().with_more(second.summary()) == both.summary()
