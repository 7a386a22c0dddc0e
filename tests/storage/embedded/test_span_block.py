"""Blocks of spans: nothing is lost, nothing damaged is believed."""

from __future__ import annotations

import random
import zlib
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.samples import a_span
from tests.support.spans import any_spans, hex_ids, many_spans
from vantage.core import span_table
from vantage.core.dict_column import DictColumn, dict_encode
from vantage.core.span import Span
from vantage.core.span_table import build_span_table, concat_span_tables
from vantage.storage.embedded.format import span_block
from vantage.storage.embedded.format.span_block import decode, encode


def sealed(body: bytes) -> bytes:
    """A body with the header that fits it."""
    return bytes([span_block.VERSION]) + zlib.crc32(body).to_bytes(4, "little") + body


def fields_of(block: bytes) -> list[Any]:
    result: list[Any] = msgspec.msgpack.decode(block[5:])
    return result


@given(any_spans())
@example([])
@example([a_span()])
def test_spans_come_back_equal(spans: list[Span]) -> None:
    assert decode(encode(build_span_table(spans))).spans() == spans


@given(any_spans(some_ids=hex_ids))
def test_spans_with_hexadecimal_ids_come_back_equal(spans: list[Span]) -> None:
    assert decode(encode(build_span_table(spans))).spans() == spans


@given(any_spans(some_ids=st.sampled_from(["a", "b", "c", "A", "ff"])))
def test_parents_inside_and_outside_of_the_block_come_back(spans: list[Span]) -> None:
    assert decode(encode(build_span_table(spans))).spans() == spans


@given(any_spans(), st.randoms(use_true_random=False))
def test_rows_of_a_table_come_back_equal_in_any_order(spans: list[Span], chance: random.Random) -> None:
    rows = chance.sample(range(len(spans)), len(spans) - len(spans) // 3)
    block = build_span_table(spans).take(np.array(rows, np.int64))
    assert decode(encode(block)).spans() == [spans[row] for row in rows]


def test_attributes_of_a_later_block_stay_with_their_keys() -> None:
    """Its first span has a key that in the table of all spans came second."""
    spans = [a_span(attributes={"a": "1"}), a_span(attributes={"b": "2"}), a_span(attributes={"a": "3"})]
    block = build_span_table(spans).take(np.array([1, 2]))
    assert decode(encode(block)).spans() == spans[1:]


def test_a_complete_block_is_decoded() -> None:
    spans = many_spans(4096)
    assert decode(encode(build_span_table(spans))).spans() == spans


def test_what_is_read_can_be_joined_and_written_again() -> None:
    tables = [build_span_table(many_spans(300, seed=seed)) for seed in range(3)]
    again = decode(encode(concat_span_tables(decode(encode(table)) for table in tables)))
    assert again.spans() == [span for table in tables for span in table.spans()]


def test_texts_of_skipped_rows_are_not_written() -> None:
    table = build_span_table(many_spans(2000))
    few = table.take(np.arange(10))
    complete = span_table.SpanTable(**{
        name: getattr(few, name) for name in few.__slots__ if name != "name"
    }, name=DictColumn(few.name.codes, (*few.name.values, *map(str, range(10_000)))))  # fmt: skip
    assert len(encode(complete)) == len(encode(few))


def test_ids_in_hexadecimal_take_half_the_room() -> None:
    upper = [a_span(f"{i * 7919:032X}", f"{i * 104_729:016X}") for i in range(1000)]
    lower = [a_span(f"{i * 7919:032x}", f"{i * 104_729:016x}") for i in range(1000)]
    assert fields_of(encode(build_span_table(lower)))[6][0] is True
    assert fields_of(encode(build_span_table(upper)))[6][0] is False
    assert fields_of(encode(build_span_table(lower)))[6][3][0] == 8 * 1000


def test_realistic_spans_take_less_than_32_bytes_each() -> None:
    assert len(encode(build_span_table(many_spans(4096)))) < 32 * 4096


def test_times_far_apart_and_longest_durations_come_back() -> None:
    spans = [a_span(start_ms=at, duration_ms=long) for at, long in ((1 << 41, 0), (946_684_800_000, 604_800_000))]
    assert decode(encode(build_span_table(spans))).spans() == spans


def test_much_text_comes_back() -> None:
    spans = [a_span(attributes={f"k{i}": chr(0x1F600 + i) * 2048 for i in range(64)}) for _ in range(20)]
    spans += [a_span(attributes={"k": f"{i:02048d}"}) for i in range(8000)]
    assert decode(encode(build_span_table(spans))).spans() == spans


def test_more_spans_than_fit_into_a_block_are_refused() -> None:
    table = build_span_table([a_span()])
    with pytest.raises(ValueError, match="spans in a block"):
        encode(table.take(np.zeros(span_block.ROWS_MAX + 1, np.intp)))


def test_a_text_with_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        encode(build_span_table([a_span(attributes={"k": "a\0b"})]))


# ---- damage

BLOCK = encode(build_span_table(many_spans(40)))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(body: bytes) -> None:
    for sample in (body, sealed(body)):
        with pytest.raises(ValueError, match="block of spans"):
            decode(sample)


@given(st.integers(0, len(BLOCK) * 8 - 1))
def test_a_flipped_bit_is_noticed(bit: int) -> None:
    damaged = bytearray(BLOCK)
    damaged[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(ValueError, match="block of spans"):
        decode(bytes(damaged))


@given(st.integers(0, len(BLOCK) - 1))
def test_a_block_cut_short_is_noticed(length: int) -> None:
    with pytest.raises(ValueError, match="block of spans"):
        decode(BLOCK[:length])


@given(st.lists(st.tuples(st.integers(0, len(BLOCK) - 6), st.integers(0, 255)), min_size=1, max_size=3))
def test_nonsense_under_a_fitting_checksum_is_refused_or_read_but_breaks_nothing(
    changes: list[tuple[int, int]],
) -> None:
    body = bytearray(BLOCK[5:])
    for index, byte in changes:
        body[index] = byte
    try:
        table = decode(sealed(bytes(body)))
    except ValueError:
        return
    assert len(table.spans()) == len(table)


numbers = st.one_of(st.integers(-(2**63), 2**64 - 1), st.integers(-2, 70), st.binary(max_size=12))


@given(st.data())
def test_any_field_may_be_invalid(data: st.DataObject) -> None:
    fields = fields_of(BLOCK)
    at = fields
    while True:
        index = data.draw(st.integers(0, len(at) - 1))
        if not isinstance(at[index], list) or not at[index]:
            break
        at = at[index]
    at[index] = data.draw(numbers)
    try:
        table = decode(sealed(msgspec.msgpack.encode(fields)))
    except ValueError:
        return
    assert len(table.spans()) == len(table)


def with_field(path: tuple[int, ...], value: Any) -> bytes:
    fields = fields_of(BLOCK)
    at = fields
    for index in path[:-1]:
        at = at[index]
    at[path[-1]] = value
    return sealed(msgspec.msgpack.encode(fields))


BOMB = zstandard.ZstdCompressor().compress(bytes(1 << 28))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((0,), 1 << 40),
        ((1,), 1 << 40),
        ((12,), [1 << 28, BOMB]),  # 256 MiB of NUL: as many empty texts
        ((12,), [1 << 40, BOMB]),
        ((2, 2), [39 * 4, BOMB]),
        ((2, 1), 3),
        ((6,), [False, 65, 40, [65 * 40, bytes(65 * 40)]]),
        ((6,), [False, 2, 40, [80, b"\0a" * 40]]),
        ((6,), [False, 2, 40, [80, b"a\xff" * 40]]),
        ((6,), [True, 3, 40, [60, bytes(60)]]),
        ((6,), [False, 1, 39, [39, b"a" * 39]]),
        ((10,), [1] * 9),
        ((10,), [-1] * 9),
        ((10,), []),
        ((11,), []),
    ],
)
def test_declared_sizes_are_not_believed(path: tuple[int, ...], value: Any) -> None:
    with pytest.raises(ValueError, match="block of spans"):
        decode(with_field(path, value))


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(ValueError, match="known version"):
        decode(bytes([version]) + BLOCK[1:])


def test_a_kind_that_does_not_exist_is_refused() -> None:
    table = build_span_table([a_span()])
    odd = span_table.SpanTable(**{name: getattr(table, name) for name in table.__slots__ if name != "kind"},
                              kind=dict_encode(["sideways"]))  # fmt: skip
    with pytest.raises(ValueError, match="does not exist"):
        decode(encode(odd))
