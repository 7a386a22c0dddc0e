"""For any input: the three encodings of the same samples mean the same, and nothing but InputError is ever raised."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.ingest import native_format, packed_format, series_cache, spans_format
from vantage.core.errors import InputError
from vantage.core.sample import FUTURE_MS_MAX, TIME_MS_MIN, Kind
from vantage.ingest.series_cache import SeriesCache
from vantage.ingest.wire.decoded import DecodedRequest

NOW_MS = 1_763_900_000_000

modest = settings(deadline=None, max_examples=120)
many = settings(deadline=None, max_examples=400)

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
identifier = st.from_regex(r"[A-Za-z0-9_.:-]{1,64}", fullmatch=True)
metric_name = st.from_regex(r"[A-Za-z0-9_.:/-]{1,30}", fullmatch=True)
service_name = text.filter(lambda name: name and "/" not in name and name.isprintable())
tags = st.dictionaries(
    text.filter(lambda key: key not in ("", "instance", "service_version")), text | st.just("x" * 512), max_size=5
)
resource = st.fixed_dictionaries(
    {"service_name": service_name},
    optional={"environment": metric_name, "service_version": text, "instance": text},
)


@dataclass(frozen=True)
class Sample:
    metric: str
    kind: str
    unit: str
    tags: dict[str, str]
    time_ms: int
    value: float
    trace_id: str
    span_id: str


samples = st.lists(
    st.builds(
        Sample,
        metric=metric_name | st.sampled_from(["a", "b"]),
        kind=st.sampled_from([kind.value for kind in Kind]),
        unit=st.sampled_from(["", "ms", "By", "µs"]),
        tags=tags,
        time_ms=st.integers(TIME_MS_MIN, NOW_MS + FUTURE_MS_MAX),
        value=st.floats(allow_nan=False, allow_infinity=False),
        trace_id=st.just("") | identifier,
        span_id=st.just("") | identifier,
    ).map(lambda sample: sample if sample.trace_id else Sample(**{**vars(sample), "span_id": ""})),
    max_size=12,
)


def native_of(envelope: dict[str, str], sent: list[Sample]) -> dict[str, Any]:
    return {
        **envelope,
        "metrics": [
            {
                "metric_name": item.metric,
                "metric_type": item.kind,
                "unit": item.unit,
                "tags": item.tags,
                "timestamp": item.time_ms,
                "value": item.value,
                **({"trace_id": item.trace_id} if item.trace_id else {}),
                **({"span_id": item.span_id} if item.span_id else {}),
            }
            for item in sent
        ],
    }


def packed_of(envelope: dict[str, str], sent: list[Sample]) -> dict[str, Any]:
    """Series in order of appearance, one column each, links in an order of their own."""
    places: dict[tuple[Any, ...], int] = {}
    columns: list[list[Any]] = []
    for item in sent:
        key = (item.metric, item.kind, item.unit, tuple(sorted(item.tags.items())))
        if key not in places:
            places[key] = len(columns)
            columns.append([len(columns), [], [], []])
        _, times, values, links = columns[places[key]]
        if item.trace_id:
            links.insert(0, [len(times), item.trace_id, item.span_id])
        times.append(item.time_ms)
        values.append(item.value)
    return {
        "batch": "b",
        "resource": envelope,
        "series": [[metric, kind, unit, dict(tags)] for metric, kind, unit, tags in places],
        "samples": columns,
    }


def receive(one_format: Any, body: bytes) -> DecodedRequest:
    received = one_format.receive(body, batch_id="b", now_ms=NOW_MS, oldest_ms=0)
    assert isinstance(received, DecodedRequest)
    return received


def content(received: DecodedRequest) -> list[Any]:
    """Everything a batch says of its samples, in no order."""
    batch = received.batch
    exemplars = {position: (trace_id, span_id) for position, trace_id, span_id in batch.exemplars.rows()}
    assert len(batch.index) == len(batch.time_ms) == len(batch.value)
    assert batch.exemplars.position.tolist() == sorted(exemplars)
    return sorted(
        (
            batch.series[index].canonical(),
            int(batch.time_ms[row]),
            float(batch.value[row]),
            *exemplars.get(row, ("", "")),
        )
        for row, index in enumerate(batch.index.tolist())
    )


def formats(cache: SeriesCache) -> dict[str, Any]:
    return {
        "json": native_format("json", cache),
        "msgpack": native_format("msgpack", cache),
        "packed": packed_format(cache),
        "spans": spans_format(),
        "spans as msgpack": spans_format("msgpack"),
    }


FORMATS = formats(series_cache())  # shared by all examples, as by all requests of a server
encode_msgpack = msgspec.msgpack.Encoder().encode


def encode_json(value: Any) -> bytes:
    return json.dumps(value).encode()


@modest
@given(resource, samples)
def test_the_same_samples_mean_the_same_in_every_encoding(envelope: dict[str, str], sent: list[Sample]) -> None:
    bodies = {
        "json": encode_json(native_of(envelope, sent)),
        "msgpack": encode_msgpack(native_of(envelope, sent)),
        "packed": encode_msgpack(packed_of(envelope, sent)),
    }
    contents = []
    for cached in (FORMATS, FORMATS, formats(series_cache(nbytes_max=0))):  # cold, warm, and never remembering
        for name, body in bodies.items():
            received = receive(cached[name], body)
            assert (received.rejected, received.errors) == (0, [])
            assert received.accepted == len(sent)
            contents.append(content(received))
    assert all(item == contents[0] for item in contents)
    assert [(time_ms, value) for _, time_ms, value, *_ in contents[0]] == [
        (time_ms, value) for _, time_ms, value, *_ in sorted(contents[0])
    ]
    assert sorted(value for _, _, value, *_ in contents[0]) == sorted(item.value for item in sent)


# A sample with one thing wrong, or nothing: rejected alone, or accepted, never in between.
faults: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {},
        {"metric_name": ""},
        {"metric_name": "a b"},
        {"metric_name": "x" * 256},
        {"metric_type": "summary"},
        {"metric_type": ""},
        {"unit": "x" * 64},
        {"service_name": "a/b"},
        {"environment": "a b"},
        {"timestamp": 0},
        {"timestamp": -(2**63)},
        {"timestamp": 2**63 - 1},
        {"timestamp": NOW_MS // 1000},
        {"trace_id": "no spaces"},
        {"trace_id": "x" * 65},
        {"trace_id": "a\n"},
        {"span_id": "alone"},
        {"trace_id": "t", "span_id": "ü"},
        {"tags": {"": "x"}},
        {"tags": {"instance": "x"}},
        {"tags": {"k": "x" * 513}},
        {"tags": {"k": "a\0"}},
        {"tags": {f"k{i}": "" for i in range(33)}},
        {"tags": {"k": 1}},
        {"tags": {"k": None}},
        {"tags": []},
        {"tags": None},
        {"tags": "text"},
        {"tags": 5},
        {"tags": {"k": {"deep": {}}}},
    ]
)


@modest
@given(resource, samples, st.lists(faults, max_size=40))
def test_each_sample_is_either_accepted_or_rejected(
    envelope: dict[str, str], sent: list[Sample], wrong: list[dict[str, Any]]
) -> None:
    body = native_of(envelope, sent)
    body["metrics"] += [{"metric_name": "a", "value": 1, "timestamp": NOW_MS, **fault} for fault in wrong]
    for name, encode in (("json", encode_json), ("msgpack", encode_msgpack)):
        received = receive(FORMATS[name], encode(body))
        assert received.accepted + received.rejected == len(body["metrics"])
        assert received.rejected == sum(received.fields.values()) == sum(1 for fault in wrong if fault)
        assert len(received.errors) == min(20, received.rejected)
        assert all(0 <= index < len(body["metrics"]) for index, _ in received.errors)
        content(received)


@modest
@given(resource, samples, st.lists(st.sampled_from([float("nan"), float("inf"), 1.0]), max_size=5), faults)
def test_each_packed_sample_is_either_accepted_or_rejected(
    envelope: dict[str, str], sent: list[Sample], values: list[float], fault: dict[str, Any]
) -> None:
    body = packed_of(envelope, sent)
    sample = {"metric_name": "a", "metric_type": "gauge", "unit": "", "tags": {}, "timestamp": NOW_MS, **fault}
    body["series"].append([sample["metric_name"], sample["metric_type"], sample["unit"], sample["tags"]])
    body["samples"].append([len(body["series"]) - 1, [sample["timestamp"]] * len(values), values])
    received = receive(FORMATS["packed"], encode_msgpack(body))
    assert received.accepted + received.rejected == len(sent) + len(values)
    assert received.accepted >= len(sent)
    content(received)


def attempt(body: bytes) -> None:
    for one_format in FORMATS.values():
        try:
            received = receive(one_format, body)
        except InputError:
            continue
        content(received)


@many
@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_input_errors(body: bytes) -> None:
    attempt(body)


SPANS = {
    "service_name": "s",
    "spans": [{"trace_id": "t", "span_id": "s", "name": "n", "start_ns": NOW_MS * 10**6, "duration_ns": 5,
               "kind": "server", "status": "error", "attributes": {"a": 1, "b": None, "c": True}}],
}  # fmt: skip


@many
@given(resource, samples.filter(bool), st.data())
def test_damaged_bodies_raise_nothing_but_input_errors(
    envelope: dict[str, str], sent: list[Sample], data: st.DataObject
) -> None:
    encode = data.draw(st.sampled_from([encode_json, encode_msgpack]))
    value = data.draw(st.sampled_from([native_of(envelope, sent), packed_of(envelope, sent), SPANS]))
    body = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, max(0, len(body) - 1)))
        match data.draw(st.sampled_from(["cut", "replace", "insert", "remove", "repeat"])):
            case "cut":
                del body[index:]
            case "replace" if body:
                body[index] = data.draw(st.integers(0, 255))
            case "insert":
                body[index:index] = data.draw(st.binary(min_size=1, max_size=8))
            case "remove":
                del body[index : index + data.draw(st.integers(1, 8))]
            case _:
                body[index:index] = body[index : index + 40]
    attempt(bytes(body))


anything: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | text
    | st.sampled_from(["a", "gauge", "series", "\ud800"[:0], "x" * 600]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)


@many
@given(st.data())
def test_fields_of_any_other_type_raise_nothing_but_input_errors(data: st.DataObject) -> None:
    sample = Sample("a", "gauge", "", {"k": "v"}, NOW_MS, 1.0, "t", "s")
    make = data.draw(st.sampled_from([native_of, packed_of]))
    body: Any = make({"service_name": "s"}, [sample]) if data.draw(st.booleans()) else msgspec.to_builtins(SPANS)
    node, key = body, data.draw(st.sampled_from(sorted(body)))
    while isinstance(node[key], (dict, list)) and node[key] and data.draw(st.booleans()):
        node = node[key]
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
    node[key] = data.draw(anything)
    attempt(encode_msgpack(body))
    attempt(json.dumps(body).encode())


def test_deep_nesting_is_an_input_error() -> None:
    deep = 100_000
    for body in (
        b"[" * deep,
        b'{"metrics":' * deep,
        b'{"metrics":[{"metric_name":"a","value":1,"tags":' + b"[" * deep + b"]" * deep + b"}]}",
        b'{"metrics":[{"metric_name":"a","value":1,"tags":{"a":' + b"[" * deep + b"]" * deep + b"}}]}",
        b"\x91" * deep,
        b"\x81\xa7metrics" * deep,
        b"\x81\xa7metrics\x91\x83\xabmetric_name\xa1a\xa5value\x01\xa4tags" + b"\x91" * deep + b"\x90",
        b"\x82\xa8resource\x81\xacservice_name\xa1s\xa6series\x91\x94\xa1a\xa5gauge\xa0" + b"\x91" * deep + b"\x90",
    ):
        attempt(body)


@pytest.mark.parametrize(
    "fields",
    [
        b'"metric_name":"\\ud800","value":1',
        b'"metric_name":"a","value":1,"tags":{"k":"\\ud800"}',
        b'"metric_name":"a","value":1,"tags":{"\\udfff":"v"}',
        b'"metric_name":"a","value":1,"tags":{"k":"\xff"}',
        b'"metric_name":"a","value":1,"tags":{"k":"v","k":"w"}',
        b'"metric_name":"a","value":1,"tags":{"k":NaN}',
        b'"metric_name":"a","value":1e999',
        b'"metric_name":"a","value":' + b"9" * 5000,
        b'"metric_name":"a","value":1,"timestamp":' + b"9" * 5000,
        b'"metric_name":"a","value":1,"timestamp":1e3',
        b'"metric_name":"a","value":1,"trace_id":"\\ud800"',
        b'"metric_name":"a","value":1,"service_name":"\\ud800"',
        b'"metric_name":"a","value":1,"unit":"\\ud800"',
        b'"metric_name":"a","value":1,"instance":"\\ud800"',
    ],
)
def test_what_json_can_say_and_python_rather_not_is_rejected(fields: bytes) -> None:
    body = b'{"service_name":"s","metrics":[{' + fields + b"}]}"
    try:
        received = receive(native_format(), body)
    except InputError:
        return
    assert (received.accepted, received.rejected) == (0, 1)


def test_times_with_a_fraction_are_cut_to_milliseconds() -> None:
    """What ``time.time() * 1000`` gives; far-off and odd ones are rejected one by one."""
    times: list[Any] = [1_763_899_999_999.75, 1_763_899_999_998, 1e300, -1e300, None]
    metrics = [{"metric_name": "m", "value": 1, "timestamp": time_ms} for time_ms in times]
    body = msgspec.json.encode({"service_name": "s", "metrics": metrics})
    result = native_format().receive(body, batch_id="", now_ms=NOW_MS, oldest_ms=0)
    assert result.batch.time_ms.tolist() == [1_763_899_999_999, 1_763_899_999_998, NOW_MS]
    assert [index for index, _ in result.errors] == [2, 3]
