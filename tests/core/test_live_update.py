"""Live updates: sums of batches, and their bytes."""

from __future__ import annotations

import random

import pytest

from tests.support.samples import NOW_MS, a_series
from tests.support.spans import many_spans
from vantage.core.batch import Batch, build_batch
from vantage.core.live_update import MESSAGE_NBYTES, Update, decode_updates, encode_updates, services_of, updates_of


def one_by_one(batches: list[Batch]) -> dict[int, Update]:
    """Return the updates by series id, each sample merged by itself."""
    updates: dict[int, Update] = {}
    for batch in batches:
        for index, time_ms, value in zip(
            batch.index.tolist(), batch.time_ms.tolist(), batch.value.tolist(), strict=True
        ):
            series = batch.series[index]
            sample = Update(series, 1, value, value, value, value, time_ms)
            if series.id in updates:
                updates[series.id].merge(sample)
            else:
                updates[series.id] = sample
    return updates


def test_batches_are_summed_up_as_their_samples_one_by_one() -> None:
    chance = random.Random(1)
    series = [a_series(metric=f"m{number}") for number in range(5)]
    for _ in range(50):
        batches = [
            build_batch(
                [
                    (chance.choice(series), NOW_MS + chance.randrange(3), float(chance.randrange(100)))
                    for _ in range(chance.randrange(8))
                ]
            )
            for _ in range(chance.randrange(5))
        ]
        expected = one_by_one(batches)
        result = updates_of(batches)
        assert len(result) == len(expected)
        assert {update.series.id: update for update in result} == expected


def test_a_message_is_read_as_it_was_written() -> None:
    batches = [build_batch([(a_series(metric=f"m{n}", tags={"k": "v" * 400}), NOW_MS, n / 3)]) for n in range(2000)]
    batches.append(Batch(spans=tuple(many_spans(3))))
    updates, services = updates_of(batches), services_of(batches)
    messages = list(encode_updates(updates, services))
    assert len(messages) > 2
    assert max(map(len, messages)) < 2 * MESSAGE_NBYTES
    read = [decode_updates(message) for message in messages]
    assert [(update.series.canonical(), update.total) for part, _ in read for update in part] == [
        (update.series.canonical(), update.total) for update in updates
    ]
    assert set().union(*(named for _, named in read)) == services


@pytest.mark.parametrize("value", [b"", b"\x92\x90", b"\x92\x90\x91\x97\xc4\x01\x90\x01\x01\x01\x01\x01\x01", b"{}"])
def test_any_other_message_is_a_value_error(value: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_updates(value)
