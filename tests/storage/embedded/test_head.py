"""The head: what readers see of the blocks that commits add to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from vantage.core.exemplars import NO_EXEMPLARS, encode_exemplars
from vantage.core.idhash import hash_id
from vantage.core.record import Record, decode, encode
from vantage.core.sample_columns import SampleColumns, concat_samples
from vantage.storage.embedded.write.head import BLOCK_SAMPLES_MAX, GROWING_SAMPLES_MAX, Head, totals

Row = tuple[int, int, float, str, str]


def rows(first: int, count: int, *, width: int = 16, every: int = 2) -> list[Row]:
    return [
        (i % 7, 1_000 + i, float(i), f"{i:0{width}x}" if i % every == 0 else "", f"{i:x}" if i % every == 0 else "")
        for i in range(first, first + count)
    ]


def columns(of: Sequence[Row]) -> SampleColumns:
    slot, time_ms, value, trace_id, span_id = zip(*of, strict=True)
    carrying = [row for row, text in enumerate(trace_id) if text]
    exemplars = encode_exemplars(carrying, [trace_id[row] for row in carrying], [span_id[row] for row in carrying])
    return SampleColumns(np.array(slot, np.uint32), np.array(time_ms), np.array(value, np.float64), exemplars)


def listed(samples: SampleColumns) -> list[Row]:
    ids = {position: (trace_id, span_id) for position, trace_id, span_id in samples.exemplars.rows()}
    plain = zip(samples.slot.tolist(), samples.time_ms.tolist(), samples.value.tolist(), strict=True)
    return [(*row, *ids.get(i, ("", ""))) for i, row in enumerate(plain)]


def seen(head: Head) -> list[Row]:
    return [row for block in head.samples for row in listed(block.samples)]


def add(head: Head, *parts: list[Row]) -> None:
    head.append(Record(head.stage([columns(part) for part in parts]), (), 0))


def test_commits_are_seen_in_order_and_what_a_reader_has_stays_as_it_is() -> None:
    head, expected = Head(), []
    snapshots = []
    for number in range(60):
        parts = [rows(number * 500 + 100 * i, 1 + 90 * i, width=8 + number % 3) for i in range(3)]
        add(head, *parts)
        expected += [row for part in parts for row in part]
        snapshots.append((head.samples, len(expected)))
    assert seen(head) == expected
    for blocks, count in snapshots:
        assert [row for block in blocks for row in listed(block.samples)] == expected[:count]


def test_a_block_knows_its_times_its_hashes_and_its_bytes() -> None:
    head = Head()
    for number in range(40):
        add(head, rows(number * 1000, 700, width=10 + number % 5, every=3))
    for block in head.samples:
        assert (block.first_ms, block.last_ms) == (block.samples.time_ms.min(), block.samples.time_ms.max())
        exemplars = [trace_id for _, trace_id, _ in block.samples.exemplars.rows()]
        assert block.exemplar_hash.tolist() == [hash_id(trace_id) for trace_id in exemplars]
    samples, _, nbytes = totals(head.samples, head.spans)
    assert samples == head.sample_count == 40 * 700
    assert nbytes == pytest.approx(head.nbytes, rel=0.2)  # ids take the width of the widest beside them


def test_blocks_are_few_and_no_larger_than_they_may_be() -> None:
    head = Head()
    for number in range(2 * BLOCK_SAMPLES_MAX // 512):
        add(head, rows(number * 512, 512, every=64))
    assert len(head.samples) <= 8
    assert max(map(len, head.samples)) <= BLOCK_SAMPLES_MAX
    add(head, rows(0, GROWING_SAMPLES_MAX + 1))
    assert len(head.samples[-1]) == GROWING_SAMPLES_MAX + 1


def test_what_a_failed_commit_staged_is_written_over() -> None:
    head = Head()
    add(head, rows(0, 100))
    before = head.samples
    head.stage([columns(rows(5000, 60, width=30))])
    assert head.samples is before
    add(head, rows(100, 20), rows(120, 30))
    assert seen(head) == rows(0, 150)


def test_a_commit_is_encoded_as_it_was_sent() -> None:
    head = Head()
    add(head, rows(0, 10))
    record = Record(head.stage([columns(rows(10, 5)), columns(rows(15, 5, width=20))]), (), 0)
    assert listed(decode(encode(record)).samples) == [*rows(10, 5), *rows(15, 5, width=20)]


def test_a_record_that_was_not_staged_is_copied() -> None:
    head = Head()
    add(head, rows(0, 10))
    head.append(Record(concat_samples([columns(rows(10, 5))]), (), 0))
    assert seen(head) == rows(0, 15)


def test_samples_after_a_replacement_begin_a_block_of_their_own() -> None:
    head = Head()
    add(head, rows(0, 10))
    closed = head.samples
    head.replace((), ())
    add(head, rows(10, 10))
    assert [row for block in closed for row in listed(block.samples)] == rows(0, 10)
    assert seen(head) == rows(10, 10)


def test_samples_without_ids_take_no_memory_for_them() -> None:
    head = Head()
    add(head, [(0, 1, 1.0, "", "")])
    assert head.samples[0].samples.exemplars is NO_EXEMPLARS
