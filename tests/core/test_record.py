"""Journal rows come back as they were, and damage is noticed."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.samples import a_span
from tests.support.spans import ID_ALPHABET
from vantage.core.exemplars import encode_exemplars
from vantage.core.record import Record, decode, encode
from vantage.core.sample_columns import SampleColumns

rows = st.lists(
    st.tuples(
        st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
    ),
    max_size=50,
)
ids_of_traces = st.text(ID_ALPHABET, min_size=1, max_size=64)
ids_of_spans = st.text(ID_ALPHABET, max_size=64)


@given(rows, st.lists(st.tuples(ids_of_traces, ids_of_spans), max_size=10))
def test_a_record_comes_back_as_it_was(samples: list[tuple[int, int, float]], ids: list[tuple[str, str]]) -> None:
    slot = np.array([row[0] for row in samples], np.uint32)
    time_ms = np.array([row[1] for row in samples], np.int64)
    value = np.array([row[2] for row in samples], np.float64)
    exemplars = encode_exemplars(range(len(ids)), [a for a, _ in ids], [b for _, b in ids])
    spans = (a_span(attributes={"k": "v"}),)
    record = decode(encode(Record(SampleColumns(slot, time_ms, value, exemplars), spans, 0)))
    assert record.samples.slot.tobytes() == slot.tobytes()
    assert record.samples.time_ms.tobytes() == time_ms.tobytes()
    assert record.samples.value.tobytes() == value.tobytes()
    assert record.samples.exemplars.rows() == [(row, *pair) for row, pair in enumerate(ids)]
    assert record.spans == spans


@given(st.binary(max_size=200))
def test_bytes_that_are_no_record_are_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        decode(body)


def test_a_record_of_an_earlier_format_is_read() -> None:
    """Up to format 2 the ids of exemplars were arrays of text."""
    columns = (np.zeros(2, "<u4"), np.array([1, 2], "<i8"), np.array([0.5, -0.0], "<f8"), np.array([1], "<u4"))
    body = msgspec.msgpack.encode([*(column.tobytes() for column in columns), ["t1"], [""], []])
    assert decode(body).samples.exemplars.rows() == [(1, "t1", "")]
    with pytest.raises(ValueError, match="different length"):
        decode(msgspec.msgpack.encode([*(column.tobytes() for column in columns), ["t1", "t2"], [""], []]))
