"""A value of a wrong type costs its sample or span, never the batch around it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.support.ingest import native_format, packed_format, spans_format
from tests.support.samples import NOW_MS
from vantage.core.errors import InputError

MISSING = object()
ENCODERS: dict[str, Any] = {"json": msgspec.json.encode, "msgpack": msgspec.msgpack.encode}


def changed(item: dict[str, Any], field: str, value: object) -> dict[str, Any]:
    item = {**item, field: value}
    return {name: given for name, given in item.items() if given is not MISSING}


@pytest.mark.parametrize("encoding", ENCODERS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("value", None), ("value", "12"), ("value", [1]), ("value", True), ("value", MISSING), ("value", {}),
        ("metric_name", None), ("metric_name", 5), ("metric_name", MISSING), ("metric_name", ["m"]),
        ("timestamp", "now"), ("timestamp", []), ("timestamp", True),
        ("tags", 7), ("tags", ["a"]), ("tags", "a=b"), ("tags", {"a": 1}), ("tags", {"a": None}),
        ("metric_type", 1), ("metric_type", None), ("metric_type", "speed"),
        ("service_name", 1), ("unit", 3), ("environment", {}), ("service_version", 2), ("instance", []),
        ("trace_id", 12), ("span_id", {}),
    ],
)  # fmt: skip
def test_a_sample_of_a_wrong_type_is_rejected_alone(encoding: str, field: str, value: object) -> None:
    good = {"metric_name": "m", "value": 1.0, "trace_id": "t", "span_id": "s"}
    samples = [good, changed(good, field, value), good]
    body = ENCODERS[encoding]({"service_name": "api", "metrics": samples})
    received = native_format(encoding).receive(body, batch_id="", now_ms=NOW_MS, oldest_ms=0)
    assert (received.accepted, received.rejected) == (2, 1)
    ((index, rejection),) = received.errors
    expected = "sample" if value is MISSING else field
    assert (index, rejection.field.split(".")[0]) == (1, expected)
    assert rejection.reason


@pytest.mark.parametrize("encoding", ENCODERS)
@pytest.mark.parametrize("item", [None, 1, "text", [], [1.0], True])
def test_what_is_no_sample_or_span_at_all_is_rejected_alone(encoding: str, item: object) -> None:
    sample = {"metric_name": "m", "value": 1.0}
    span = {"trace_id": "t", "span_id": "s", "name": "n", "start_ns": NOW_MS * 1_000_000, "duration_ns": 1}
    for received in (
        native_format(encoding).receive(
            ENCODERS[encoding]({"service_name": "api", "metrics": [sample, item]}),
            batch_id="", now_ms=NOW_MS, oldest_ms=0,
        ),
        spans_format(encoding).receive(
            ENCODERS[encoding]({"service_name": "api", "spans": [span, item]}), batch_id="", now_ms=NOW_MS, oldest_ms=0
        ),
    ):  # fmt: skip
        assert (received.accepted, [index for index, _ in received.errors]) == (1, [1])


@pytest.mark.parametrize("encoding", [*ENCODERS, "packed"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "sideways"), ("kind", 3), ("status", "fine"), ("status", None),
        ("trace_id", None), ("trace_id", 12), ("span_id", MISSING), ("name", None), ("name", 1),
        ("start_ns", "now"), ("start_ns", MISSING), ("duration_ns", None), ("duration_ns", 1.5),
        ("attributes", ["a"]), ("attributes", "a"), ("parent_span_id", 5), ("service_name", 7),
    ],
)  # fmt: skip
def test_a_span_of_a_wrong_type_is_rejected_alone(encoding: str, field: str, value: object) -> None:
    good = {"trace_id": "t", "span_id": "s", "name": "n", "start_ns": NOW_MS * 1_000_000, "duration_ns": 1}
    spans = [good, changed(good, field, value), good]
    if encoding == "packed":
        body = msgspec.msgpack.encode({"resource": {"service_name": "api"}, "spans": spans})
        received = packed_format().receive(body, batch_id="", now_ms=NOW_MS, oldest_ms=0)
    else:
        body = ENCODERS[encoding]({"service_name": "api", "spans": spans})
        received = spans_format(encoding).receive(body, batch_id="", now_ms=NOW_MS, oldest_ms=0)
    assert (received.accepted, received.rejected) == (2, 1)
    ((index, rejection),) = received.errors
    assert (index, rejection.field) == (1, "span" if value is MISSING else field)


def test_attributes_of_any_kind_are_kept_as_text() -> None:
    attributes = {"list": [1, "a", None], "map": {"a": [True]}, "int": 7, "yes": True, "none": None, "text": "[1]"}
    span = {"trace_id": "t", "span_id": "s", "name": "n", "start_ns": NOW_MS * 1_000_000, "duration_ns": 1}
    for encoding, encode in ENCODERS.items():
        body = encode({"service_name": "api", "spans": [{**span, "attributes": attributes}]})
        received = spans_format(encoding).receive(body, batch_id="", now_ms=NOW_MS, oldest_ms=0)
        assert received.batch.spans[0].attributes == {
            "list": '[1,"a",null]', "map": '{"a":[true]}', "int": "7", "yes": "true", "none": "", "text": "[1]",
        }  # fmt: skip


@pytest.mark.parametrize(
    "body", [b"[]", b'{"metrics": {}}', b'{"metrics": [1', b"{}", b'{"metrics": [], "service_name": 1}']
)
def test_a_body_of_a_wrong_shape_is_refused_whole(body: bytes) -> None:
    with pytest.raises(InputError):
        native_format().receive(body, batch_id="", now_ms=NOW_MS, oldest_ms=0)
