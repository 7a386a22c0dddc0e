"""Journal rows come back as they were, and damage is noticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.samples import a_span
from vantage.core.batch import NO_LINKS, Links
from vantage.storage.embedded.write.record import Record, decode, encode

rows = st.lists(
    st.tuples(
        st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
    ),
    max_size=50,
)
texts = st.text(max_size=20).filter(lambda text: text.isprintable())


@given(rows, st.lists(st.tuples(texts, texts), max_size=10))
def test_a_record_comes_back_as_it_was(samples: list[tuple[int, int, float]], ids: list[tuple[str, str]]) -> None:
    slot = np.array([row[0] for row in samples], np.uint32)
    time_ms = np.array([row[1] for row in samples], np.int64)
    value = np.array([row[2] for row in samples], np.float64)
    links = Links(np.arange(len(ids), dtype=np.uint32), [a for a, _ in ids], [b for _, b in ids]) if ids else NO_LINKS
    spans = (a_span(attributes={"k": "v"}),)
    found = decode(encode(Record(slot, time_ms, value, links, spans)))
    assert found.slot.tobytes() == slot.tobytes()
    assert found.time_ms.tobytes() == time_ms.tobytes()
    assert found.value.tobytes() == value.tobytes()
    assert list(found.links.trace_id) == [a for a, _ in ids]
    assert list(found.links.span_id) == [b for _, b in ids]
    assert found.spans == spans


@given(st.binary(max_size=200))
def test_bytes_that_are_no_record_are_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        decode(body)
