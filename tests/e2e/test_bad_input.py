"""Everything a client can do wrong, over a real socket, against the real process: it answers, and it stays well."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import resource
import socket
import string
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack
import psutil
import pytest
import zstandard
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.support.server import Server, serving
from tests.support.wait import BUSY_S, wait_until

INT64_MAX = 2**63 - 1
NAME_MILLION = "a" * 1_000_000
RSS_GROWTH_MAX = 100 << 20
BODY_TIMEOUT_S = 1.0
MSGPACK = "application/msgpack"
PACKED = "application/vnd.vantage.v1+msgpack"
IMPATIENT = {
    "VANTAGE_BODY_TIMEOUT_S": f"{BODY_TIMEOUT_S:g}",
    "VANTAGE_HEADER_TIMEOUT_S": f"{BODY_TIMEOUT_S:g}",
    "VANTAGE_CORS_ORIGINS": "https://app.example.com",
    "VANTAGE_INGEST_RATE_LIMIT": "0",
    "VANTAGE_API_RATE_LIMIT": "0",
}


@contextlib.contextmanager
def unharmed(server: Server) -> Iterator[psutil.Process]:
    """Afterwards the server answers, is not much larger, and has printed no traceback."""
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    yield process
    assert server.process.poll() is None, f"the server died:\n{server.output}"
    assert send_metric(server, "afterwards").status == 202
    assert process.memory_info().rss - before < RSS_GROWTH_MAX
    assert "Traceback" not in server.output, server.output


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("bad") / "data", environ=IMPATIENT) as server:
        assert send_metric(server, "before").status == 202
        with unharmed(server):
            yield server


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With the default limits on time."""
    with serving(tmp_path_factory.mktemp("patient") / "data") as server, unharmed(server):
        yield server


def envelope(*samples: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {
        "service_name": "api",
        "metrics": [{"metric_name": "m", "value": 1, **sample} for sample in samples],
        **other,
    }


def send_metric(server: Server, metric: str) -> Any:
    return server.send(envelope({"metric_name": metric}))


def talk(server: Server, *parts: bytes, pause_s: float = 0.0, timeout_s: float = 10.0) -> bytes:
    """What comes back until the server closes; sending stops when it does."""
    answer = b""
    with server.connect() as connection:
        connection.settimeout(timeout_s)
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
                if pause_s:
                    time.sleep(pause_s)
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65_536):
                answer += part
    return answer


def head(server: Server, *lines: str, method: str = "POST", path: str = "/v1/metrics") -> bytes:
    host = f"Host: {server.address[0]}:{server.address[1]}"
    return "\r\n".join([f"{method} {path} HTTP/1.1", host, *lines, "", ""]).encode()


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    return int(answer.split(b" ", 2)[1])


# ---- bodies that cannot be read as a whole: 400, with the path where there is one

DEEP = 100_000


def of_sample(fields: bytes) -> bytes:
    return b'{"metrics":[{"metric_name":"m","value":1,' + fields + b"}]}"


COMPLETE = {
    "nothing": (b"", "body"),
    "truncated": (b'{"metrics": [{"metric_name": "m", "val', ""),
    "no JSON": (b"metric=1", ""),
    "two documents": (b'{"metrics":[]}{"metrics":[]}', ""),
    "null": (b"null", ""),
    "a list": (b"[]", ""),
    "a text": (b'"metrics"', ""),
    "an empty object": (b"{}", ""),
    "metrics is an object": (b'{"metrics":{}}', "metrics"),
    "the envelope's service is a list": (b'{"metrics":[],"service_name":["a"]}', "service_name"),
    "NaN": (b'{"metrics":[{"metric_name":"m","value":NaN}]}', ""),
    "Infinity": (b'{"metrics":[{"metric_name":"m","value":Infinity}]}', ""),
    "-Infinity": (b'{"metrics":[{"metric_name":"m","value":-Infinity}]}', ""),
    "a name that is not UTF-8": (b'{"metrics":[{"metric_name":"m\xff","value":1}]}', ""),
    "a service that is not UTF-8": (b'{"metrics":[],"service_name":"\xc3\x28"}', ""),
    "a service with half a surrogate pair": (b'{"metrics":[],"service_name":"\\ud800"}', ""),
    "deep arrays as the whole body": (b"[" * DEEP, ""),
    "deep objects as the whole body": (b'{"metrics":' * 90_000, "metrics"),
    "deep arrays in an unknown field": (b'{"metrics":[],"x":' + b"[" * DEEP + b"]" * DEEP + b"}", ""),
    "deep objects in an unknown field": (b'{"metrics":[],"x":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}", ""),
    "deep arrays in tags": (of_sample(b'"tags":' + b"[" * DEEP + b"]" * DEEP), ""),
    "deep objects in tags": (of_sample(b'"tags":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPLETE)
def test_a_body_that_cannot_be_read_is_400_with_the_path_of_the_fault(server: Server, name: str) -> None:
    body, field = COMPLETE[name]
    answer = server.send(body)
    problem = answer.json()
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json"), answer
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem.get("field", "") == field
    assert len(answer.body) < 1000, "a bad body is not sent back"


ILL_TYPED = {
    "a sample is a list": (b'{"metrics":[[]]}', "sample"),
    "a sample is null": (b'{"metrics":[null]}', "sample"),
    "the value is a text": (b'{"metrics":[{"metric_name":"m","value":"1"}]}', "value"),
    "the value is a boolean": (b'{"metrics":[{"metric_name":"m","value":true}]}', "value"),
    "the value is missing": (b'{"metrics":[{"metric_name":"m"}]}', "sample"),
    "the name is a number": (b'{"metrics":[{"metric_name":7,"value":1}]}', "metric_name"),
    "the timestamp is a text": (of_sample(b'"timestamp":"1"'), "timestamp"),
    "a number beyond a float": (b'{"metrics":[{"metric_name":"m","value":1e999}]}', "value"),
    "a timestamp above int64": (of_sample(b'"timestamp":9223372036854775808'), "timestamp"),
    "a timestamp below int64": (of_sample(b'"timestamp":-9223372036854775809'), "timestamp"),
    "a timestamp of a hundred digits": (of_sample(b'"timestamp":1' + b"0" * 100), "timestamp"),
}  # fmt: skip


@pytest.mark.parametrize("name", ILL_TYPED)
def test_a_sample_of_a_wrong_type_is_rejected_with_the_field(server: Server, name: str) -> None:
    body, field = ILL_TYPED[name]
    answer = server.send(body)
    assert (answer.status, answer.json()["rejected"]) == (202, 1), answer
    (error,) = answer.json()["errors"]
    assert (error["index"], error["field"]) == (0, field)
    assert error["reason"]
    assert not error["reason"].startswith(field)


def test_the_index_names_the_sample_at_fault(server: Server) -> None:
    samples: list[dict[str, Any]] = [{}] * 7
    answer = server.send(envelope(*samples, {"value": "x"}))
    assert (answer.status, answer.json()["accepted"]) == (202, 7)
    assert [(error["index"], error["field"]) for error in answer.json()["errors"]] == [(7, "value")]


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\x01"


BINARY = {
    "nothing at all": b"\xc1",
    "truncated": msgpack.packb(envelope({}))[:-3],
    "followed by more": msgpack.packb(envelope({})) + b"\x00",
    "a list": msgpack.packb([1]),
    "a map that announces 4 billion pairs": b"\xdf\xff\xff\xff\xff",
    "an array that announces 4 billion samples": b"\x81\xa7metrics\xdd\xff\xff\xff\xff",
    "a text that announces 4 GB": b"\x81\xa7metrics\xdb\xff\xff\xff\xff",
    "deep arrays as the whole body": nested(DEEP),
    "deep arrays in an unknown field": b"\x82\xa7metrics\x90\xa1x" + nested(DEEP),
    "deep arrays in tags": b"\x81\xa7metrics\x91\x83\xabmetric_name\xa1m\xa5value\x01\xa4tags" + nested(DEEP),
    "a name that is not UTF-8": b"\x81\xa7metrics\x91\x82\xabmetric_name\xa1\xff\xa5value\x01",
    "samples of the wrong type": msgpack.packb({"metrics": {}, "series": {}}),
}


@pytest.mark.parametrize("media_type", [MSGPACK, PACKED])
@pytest.mark.parametrize("name", BINARY)
def test_a_messagepack_body_that_cannot_be_read_is_400(server: Server, name: str, media_type: str) -> None:
    answer = server.send(BINARY[name], Content_Type=media_type)
    assert answer.status == 400, answer


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"samples": [[1, [1], [1.0]]]}, "samples[0][0]"),
        ({"samples": [[0, [1, 2], [1.0]]]}, "samples[0]"),
        ({"samples": [[0, [1], [1.0], [[5, "t", "s"]]]]}, "samples[0][3]"),
        ({"samples": [[-1, [1], [1.0]]]}, "samples[0][0]"),
        ({"batch": "x" * 65}, "batch"),
        ({"dropped": {f"r{i}": 1 for i in range(17)}}, "dropped"),
        ({"resource": None}, "resource"),
    ],
)
def test_a_packed_body_that_contradicts_itself_is_400(server: Server, change: dict[str, Any], field: str) -> None:
    packed = {"resource": {"service_name": "a"}, "series": [["m", "gauge", "", {}]], "samples": [], **change}
    answer = server.send(msgpack.packb(packed), Content_Type=PACKED)
    assert (answer.status, answer.json()["field"]) == (400, field), answer


@pytest.mark.parametrize("body", [b"", b'{"spans":', b'{"spans":{}}', b"[" * DEEP])
def test_a_spans_body_that_cannot_be_read_is_400(server: Server, body: bytes) -> None:
    assert server.send(body, "/v1/spans").status == 400


# ---- samples that cannot be kept: 202, and each one named


def base_36(number: int) -> str:
    digits = string.digits + string.ascii_lowercase
    return (base_36(number // 36) if number >= 36 else "") + digits[number % 36]


MANY_TAGS = "{" + ",".join(f'"{base_36(i)}":""' for i in range(100_000)) + "}"
SECONDS = 1_703_001_234
SINGLE = {
    "a metric name of a million characters": (f'"metric_name":"{NAME_MILLION}"', "metric_name"),
    "a metric name with a blank": ('"metric_name":"a b"', "metric_name"),
    "an empty metric name": ('"metric_name":""', "metric_name"),
    "a service of a million characters": (f'"service_name":"{NAME_MILLION}"', "service_name"),
    "a service with a control character": ('"service_name":"a\\u0000b"', "service_name"),
    "a service with a slash": ('"service_name":"a/b"', "service_name"),
    "an environment of a million characters": (f'"environment":"{NAME_MILLION}"', "environment"),
    "a kind nobody knows": ('"metric_type":"summary"', "metric_type"),
    "a kind of a million characters": (f'"metric_type":"{NAME_MILLION}"', "metric_type"),
    "a unit of a million characters": (f'"unit":"{NAME_MILLION}"', "unit"),
    "a trace id of a million characters": (f'"trace_id":"{NAME_MILLION}"', "trace_id"),
    "a span id with a blank": ('"trace_id":"a","span_id":"b c"', "span_id"),
    "a span without a trace": ('"span_id":"b"', "trace_id"),
    "100 000 tags": (f'"tags":{MANY_TAGS}', "tags"),
    "33 tags": ('"tags":{' + ",".join(f'"k{i}":""' for i in range(33)) + "}", "tags"),
    "a tag key of a million characters": (f'"tags":{{"{NAME_MILLION}":""}}', "tags"),
    "a tag value of a million characters": (f'"tags":{{"k":"{NAME_MILLION}"}}', "tags.k"),
    "an empty tag key": ('"tags":{"":"v"}', "tags"),
    "a tag twice": ('"tags":{"k":"1","k":"2"}', "tags"),
    "a tag twice, once escaped": ('"tags":{"k":"1","\\u006b":"2"}', "tags"),
    "a reserved tag": ('"tags":{"instance":"i"}', "tags.instance"),
    "tags as a list": ('"tags":["k"]', "tags"),
    "tags as a text": ('"tags":"k=v"', "tags"),
    "tags of numbers": ('"tags":{"k":1}', "tags"),
    "tags of null": ('"tags":null', "tags"),
    "a tag value with NUL": ('"tags":{"k":"a\\u0000"}', "tags.k"),
    "a timestamp at int64's end": (f'"timestamp":{INT64_MAX}', "timestamp"),
    "a timestamp at int64's start": (f'"timestamp":{-INT64_MAX - 1}', "timestamp"),
    "the epoch": ('"timestamp":0', "timestamp"),
    "seconds with a fraction": ('"timestamp":1795000000.5', "timestamp"),
    "a timestamp beyond all integers": ('"timestamp":1e300', "timestamp"),
    "seconds for milliseconds": (f'"timestamp":{SECONDS}', "timestamp"),
    "nanoseconds for milliseconds": (f'"timestamp":{SECONDS}000000000', "timestamp"),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_sample_that_cannot_be_kept_is_rejected_and_its_neighbours_are_kept(server: Server, name: str) -> None:
    fields, field = SINGLE[name]
    metric = "" if '"metric_name"' in fields else '"metric_name":"m",'
    good = '{"metric_name":"m","value":1}'
    answer = server.send(f'{{"service_name":"api","metrics":[{good},{{{metric}"value":1,{fields}}},{good}]}}'.encode())
    recorded = answer.json()
    assert (answer.status, recorded["accepted"], recorded["rejected"]) == (202, 2, 1), answer
    (error,) = recorded["errors"]
    assert (error["index"], error["field"]) == (1, field)
    assert 0 < len(error["reason"]) < 300


def test_seconds_are_told_that_milliseconds_are_wanted(server: Server) -> None:
    (error,) = server.send(envelope({"timestamp": SECONDS})).json()["errors"]
    assert "milliseconds" in error["reason"]


def test_tags_that_are_not_utf_8_are_rejected_with_their_sample_alone(server: Server) -> None:
    good = b'{"metric_name":"m","value":1}'
    bad = b'{"metric_name":"m","value":1,"tags":{"k":"\xff"}}'
    recorded = server.send(b'{"service_name":"api","metrics":[' + good + b"," + bad + b"]}").json()
    assert (recorded["accepted"], recorded["rejected"]) == (1, 1)
    assert recorded["errors"] == [{"index": 1, "field": "tags", "reason": "is not valid UTF-8"}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_messagepack_can_write_nan_and_infinity_and_each_is_rejected(server: Server, value: float) -> None:
    native = msgpack.packb(envelope({}, {"value": value}, {}))
    times = [int(time.time() * 1000)] * 3
    packed = msgpack.packb(
        {"resource": {"service_name": "a"}, "series": [["m", "gauge"]], "samples": [[0, times, [1.0, value, 2.0]]]}
    )
    for body, media_type in ((native, MSGPACK), (packed, PACKED)):
        recorded = server.send(body, Content_Type=media_type).json()
        assert (recorded["accepted"], recorded["rejected"]) == (2, 1)
        assert (recorded["errors"][0]["index"], recorded["errors"][0]["field"]) == (1, "value")


@pytest.mark.parametrize("tags", [[1], "k", {"k": 1}, {1: "k"}, None, 5, {"k": {"k": "v"}}, {"k": b"v"}])
def test_messagepack_tags_that_are_no_map_of_texts_are_rejected(server: Server, tags: Any) -> None:
    recorded = server.send(msgpack.packb(envelope({"tags": tags}, {})), Content_Type=MSGPACK).json()
    assert (recorded["accepted"], recorded["rejected"], recorded["errors"][0]["field"]) == (1, 1, "tags")


def test_a_messagepack_tag_given_twice_is_rejected(server: Server) -> None:
    body = (
        b"\x82\xacservice_name\xa1a\xa7metrics\x91\x83\xabmetric_name\xa1m\xa5value\x01\xa4tags\x82\xa1k\xa11\xa1k\xa12"
    )
    assert server.send(body, Content_Type=MSGPACK).json()["errors"][0]["reason"] == "holds a key twice"


def test_of_a_field_given_twice_the_last_one_counts(server: Server) -> None:
    body = b'{"service_name":"x","service_name":"twice","metrics":[{"metric_name":"m","value":1,"value":8}]}'
    assert server.send(body).json()["accepted"] == 1
    assert server.total("twice", "m") == (1, 8.0)


def test_unknown_fields_are_ignored(server: Server) -> None:
    body = envelope({"colour": "red", "nested": {"a": [1, None, {"b": "c"}]}}, version=7, resource={"a": "b"})
    assert server.send(body).json() == {"accepted": 1, "rejected": 0, "errors": []}


@pytest.mark.parametrize(("path", "body"), [("/v1/metrics", {"metrics": []}), ("/v1/spans", {"spans": []})])
def test_an_empty_list_is_accepted_as_nothing(server: Server, path: str, body: Any) -> None:
    answer = server.send(body, path)
    assert (answer.status, answer.json()) == (202, {"accepted": 0, "rejected": 0, "errors": []})


def test_of_many_rejected_samples_the_first_twenty_are_named(server: Server) -> None:
    recorded = server.send(envelope(*[{"timestamp": 5}] * 300)).json()
    assert (recorded["accepted"], recorded["rejected"]) == (0, 300)
    assert [error["index"] for error in recorded["errors"]] == list(range(20))


# ---- sizes

JSON_LINE = "Content-Type: application/json"
GOOD = json.dumps(envelope({})).encode()


@pytest.mark.parametrize("nbytes", [(1 << 20) + 1, 2 << 20])
def test_a_body_of_more_than_a_megabyte_is_413(server: Server, nbytes: int) -> None:
    answer = talk(server, head(server, JSON_LINE, f"Content-Length: {nbytes}") + b" " * nbytes)
    assert status_of(answer) == 413


def test_a_body_of_just_a_megabyte_is_read(server: Server) -> None:
    body = json.dumps(envelope({})).encode()
    assert server.send(body + b" " * ((1 << 20) - len(body))).status == 202


def gzip_bomb() -> bytes:
    """Under a megabyte that unpacks to nearly a gigabyte, as members of one file."""
    member = gzip.compress(b"\0" * (64 << 20), 9)
    return member * ((1 << 20) // len(member))


def zstd_bomb() -> bytes:
    frame = zstandard.ZstdCompressor(level=3).compress(b"\0" * (64 << 20))
    return frame * min(1000, (1 << 20) // len(frame))


def slow_gzip_bomb() -> bytes:
    """Members that unpack to nothing: as many as fit, and none counts against the size."""
    member = gzip.compress(b"")
    return member * ((1 << 20) // len(member))


@pytest.mark.parametrize(("encoding", "bomb"), [("gzip", gzip_bomb), ("zstd", zstd_bomb)])
def test_a_bomb_is_413_and_takes_no_memory(server: Server, encoding: str, bomb: Any) -> None:
    body = bomb()
    process = psutil.Process(server.process.pid)
    before = highest = process.memory_info().rss
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(server.send, body, Content_Encoding=encoding) for _ in range(16)]
        while not all(answer.done() for answer in answers):
            highest = max(highest, process.memory_info().rss)
            time.sleep(0.01)
    assert {answer.result().status for answer in answers} == {413}
    assert highest - before < RSS_GROWTH_MAX


def test_a_gzip_body_of_ten_thousands_of_empty_members_is_refused_while_others_are_served(server: Server) -> None:
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(server.send, slow_gzip_bomb(), Content_Encoding="gzip")
        started = time.monotonic()
        assert send_metric(server, "meanwhile").status == 202
        assert time.monotonic() - started < BUSY_S
        assert answer.result().status == 400


PACKED_GOOD = gzip.compress(GOOD, mtime=0)  # each worker must call a case the same
ZSTD_GOOD = zstandard.ZstdCompressor().compress(GOOD)


def zstd_with_a_window_of_two_gigabytes() -> bytes:
    """A frame header that asks the reader for a window of 2 GB (RFC 8878, 3.1.1.1.2)."""
    return struct.pack("<I", 0xFD2FB528) + bytes([0x00, (31 - 10) << 3]) + b"\x01\x00\x00"


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", PACKED_GOOD[:-9], 400),
        ("gzip", PACKED_GOOD[:5], 400),
        ("gzip", PACKED_GOOD[:-8] + b"\0" * 8, 400),
        ("gzip", PACKED_GOOD + b"rubbish", 400),
        ("gzip", GOOD, 400),
        ("gzip", zlib.compress(GOOD), 400),
        ("zstd", ZSTD_GOOD[:-3], 400),
        ("zstd", ZSTD_GOOD[:4], 400),
        ("zstd", GOOD, 400),
        ("zstd", zstd_with_a_window_of_two_gigabytes(), 400),
        ("br", GOOD, 415),
        ("deflate", zlib.compress(GOOD), 415),
        ("gzip, gzip", gzip.compress(PACKED_GOOD, mtime=0), 415),
        ("x" * 5000, GOOD, 415),
        ("GZIP", PACKED_GOOD, 202),
        ("identity", GOOD, 202),
    ],
)
def test_a_body_is_what_its_content_encoding_says(server: Server, encoding: str, body: bytes, status: int) -> None:
    answer = server.send(body, Content_Encoding=encoding)
    assert answer.status == status, answer


# ---- HTTP itself


@pytest.mark.parametrize("path", ["/v1/metrics", "/api/deployments"])
def test_a_body_longer_than_announced_harms_nobody(server: Server, path: str) -> None:
    answer = talk(server, head(server, JSON_LINE, "Content-Length: 10", path=path) + GOOD + b"\r\n\r\n")
    assert status_of(answer) == 400


@pytest.mark.parametrize("path", ["/v1/metrics", "/api/deployments"])
def test_a_body_shorter_than_announced_is_given_up(server: Server, path: str) -> None:
    started = time.monotonic()
    answer = talk(server, head(server, JSON_LINE, "Content-Length: 5000", path=path) + GOOD)
    assert time.monotonic() - started < BODY_TIMEOUT_S + BUSY_S
    if path.startswith("/v1/"):
        assert status_of(answer) == 408
    elif answer:
        assert status_of(answer) in (400, 408)


def test_a_client_that_leaves_in_the_middle_of_its_body_is_counted(server: Server) -> None:
    def disconnected() -> bool:
        return 'vantage_collector_errors_total{reason="disconnected"}' in server.get("/metrics").body.decode()

    with server.connect() as connection:
        connection.sendall(head(server, JSON_LINE, "Content-Length: 5000") + GOOD)
    wait_until(disconnected)


def test_an_announced_body_that_is_too_large_is_refused_before_it_comes(server: Server) -> None:
    started = time.monotonic()
    for length in (1 << 21, 10**15, 10**18):
        assert status_of(talk(server, head(server, JSON_LINE, f"Content-Length: {length}"))) == 413
    assert time.monotonic() - started < BUSY_S


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: -1"],
        ["Content-Length: ten"],
        ["Content-Length: 1" + "0" * 40],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked, identity"],
        ["Bad Header: x"],
        ["X: a\x00b"],
    ],
)
def test_headers_that_contradict_themselves_end_the_connection(server: Server, lines: list[str]) -> None:
    answer = talk(server, head(server, JSON_LINE, *lines) + GOOD)
    assert answer == b"" or status_of(answer) == 400, answer[:200]


@pytest.mark.parametrize(
    "first",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
        b"\0" * 5000,
        b"GET\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_what_is_no_http_ends_the_connection(server: Server, first: bytes) -> None:
    answer = talk(server, first)
    assert answer == b"" or status_of(answer) == 400


@pytest.mark.parametrize("path", ["/v1/metrics", "/api/deployments"])
def test_a_body_that_drips_for_ever_is_given_up(server: Server, path: str) -> None:
    start = head(server, JSON_LINE, "Transfer-Encoding: chunked", path=path)
    started = time.monotonic()
    answer = talk(server, start, *[b"1\r\n \r\n"] * 40, pause_s=0.1)
    if path.startswith("/v1/"):
        assert status_of(answer) == 408
    assert time.monotonic() - started < 40 * 0.1 + BUSY_S


def test_a_dripping_body_is_answered_within_its_time(server: Server) -> None:
    with server.connect() as connection:
        connection.settimeout(BODY_TIMEOUT_S + BUSY_S)
        connection.sendall(head(server, JSON_LINE, "Transfer-Encoding: chunked"))
        stop = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.1):
                    connection.sendall(b"1\r\n \r\n")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            started = time.monotonic()
            assert status_of(connection.recv(4096)) == 408
            assert time.monotonic() - started < BODY_TIMEOUT_S + BUSY_S
        finally:
            stop.set()
            dripping.join()


@pytest.mark.parametrize("path", ["/v1/metrics", "/api/deployments"])
def test_a_body_that_never_ends_is_413(server: Server, path: str) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = talk(server, head(server, JSON_LINE, "Transfer-Encoding: chunked", path=path), *[chunk] * 100)
    assert answer == b"" or status_of(answer) == 413  # closing with bytes unread may cost the client the answer


def test_a_chunk_that_is_no_chunk_harms_nobody(server: Server) -> None:
    answer = talk(server, head(server, JSON_LINE, "Transfer-Encoding: chunked"), b"zz\r\nhello\r\n")
    assert answer == b"" or status_of(answer) == 400


@pytest.mark.parametrize("sent", [b"", b"POST /v1/met", b"POST /v1/metrics HTTP/1.1\r\nHost: localhost\r\nX-A: "])
def test_headers_that_do_not_come_end_the_connection(server: Server, sent: bytes) -> None:
    started = time.monotonic()
    answer = talk(server, sent)
    assert answer in (b"",) or status_of(answer) in (400, 408)
    assert time.monotonic() - started < BODY_TIMEOUT_S + BUSY_S


def test_headers_that_drip_end_the_connection(server: Server) -> None:
    started = time.monotonic()
    talk(server, b"POST /v1/metrics HTTP/1.1\r\n", *[b"X-A: b\r\n"] * 100, pause_s=0.05)
    assert time.monotonic() - started < 100 * 0.05 + BUSY_S
    assert send_metric(server, "after").status == 202


@pytest.mark.parametrize("line", [b"X-A: " + b"b" * 100 + b"\r\n", b"b" * 107])
def test_endless_headers_are_refused(server: Server, line: bytes) -> None:
    answer = talk(server, b"POST /v1/metrics HTTP/1.1\r\nHost: localhost\r\nX: ", *[line * 100] * 1000)
    assert answer == b"" or status_of(answer) in (400, 431)


def test_an_address_of_a_hundred_kilobytes_is_refused(server: Server) -> None:
    answer = talk(server, head(server, method="GET", path="/api/services?x=" + "a" * 100_000))
    assert answer == b"" or status_of(answer) in (400, 414, 431)


def test_two_thousand_idle_connections_keep_nobody_from_posting(patient: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        if hard != resource.RLIM_INFINITY and hard < 4096:
            pytest.skip("needs 4096 open files: raise the hard limit with `ulimit -Hn 4096`")
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    process = psutil.Process(patient.process.pid)
    with contextlib.ExitStack() as exit_stack:
        for i in range(2000):
            idle = exit_stack.enter_context(socket.create_connection(patient.address, timeout=10))
            if i % 2:
                idle.sendall(b"POST /v1/metrics HTTP/1.1\r\nHost: ")
        wait_until(lambda: len(process.net_connections("tcp")) > 2000)
        for _ in range(3):
            started = time.monotonic()
            assert send_metric(patient, "crowd").status == 202
            assert time.monotonic() - started < BUSY_S
    assert patient.total("api", "crowd") == (3, 3.0)


def test_many_requests_on_one_connection_are_answered_in_order(server: Server) -> None:
    requests = [
        head(server, JSON_LINE, f"Content-Length: {len(GOOD)}", f"X-Request-Id: number-{i:05d}", *last) + GOOD
        for i, last in ((i, ["Connection: close"] if i == 199 else []) for i in range(200))
    ]
    answer = talk(server, b"".join(requests)).decode()
    assert answer.count("HTTP/1.1 202") == 200
    numbers = [line.partition(": ")[2] for line in answer.splitlines() if line.startswith("x-request-id")]
    assert numbers == [f"number-{i:05d}" for i in range(200)]


# ---- methods, types, addresses


@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/spans"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_another_method_is_405_and_names_the_right_one(server: Server, method: str, path: str) -> None:
    answer = server.request(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("POST", "/api/services", "GET"), ("DELETE", "/api/deployments", "POST"), ("PUT", "/health", "GET")],
)
def test_the_api_names_the_methods_it_knows(server: Server, method: str, path: str, allowed: str) -> None:
    answer = server.request(method, path)
    assert answer.status == 405
    assert allowed in answer.headers["allow"]
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "application/x-protobuf",
        "x" * 5000,
        "\xff",
    ],
)
def test_another_content_type_is_415_and_the_right_ones_are_named(server: Server, media_type: str) -> None:
    answer = server.send(GOOD, Content_Type=media_type)
    assert answer.status == 415, answer
    assert "application/json" in answer.json()["detail"]


def test_a_missing_content_type_is_415(server: Server) -> None:
    assert server.request("POST", "/v1/metrics", GOOD).status == 415


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", "Application/JSON", "application/json;charset=UTF-8"]
)
def test_a_content_type_may_say_more(server: Server, media_type: str) -> None:
    assert server.send(GOOD, Content_Type=media_type).status == 202


@pytest.mark.parametrize(
    "path",
    [
        "/v1/",
        "/v1/nothing",
        "/v1/metrics//",
        "/api/nothing",
        "/../etc/passwd",
        "/%00",
        "/static/../app.py",
        "/static/%2e%2e/pyproject.toml",
    ],
)
def test_what_is_not_there_is_404(server: Server, path: str) -> None:
    for method in ("GET", "POST"):
        answer = server.request(method, path, headers={"Content-Type": "application/json"})
        assert answer.status in (404, 405), answer


@pytest.mark.parametrize("key", ["x" * 65, "a b", "ä"])
def test_a_batch_id_that_is_none_is_400(server: Server, key: str) -> None:
    body = talk(server, head(server, JSON_LINE, f"Content-Length: {len(GOOD)}", f"Idempotency-Key: {key}") + GOOD)
    assert status_of(body) == 400
    assert b"Idempotency-Key" in body


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/metrics/timeseries?metric=m", "service"),
        ("/api/metrics/timeseries?service=a&metric=m&agg=mode", "agg"),
        ("/api/metrics/timeseries?service=a&metric=m&step=0", "step"),
        ("/api/metrics/timeseries?service=a&metric=m&step=fast", "step"),
        ("/api/metrics/timeseries?service=a&metric=m&step=999999999999w", "step"),
        ("/api/metrics/timeseries?service=a&metric=m&step=1ms&start=0", "step"),
        ("/api/metrics/timeseries?service=a&metric=m&start=yesterday", "start"),
        ("/api/metrics/timeseries?service=a&metric=m&start=-1", "start"),
        ("/api/metrics/timeseries?service=a&metric=m&start=nan", "start"),
        ("/api/metrics/timeseries?service=a&metric=m&end=1e400", "end"),
        ("/api/metrics/timeseries?service=a&metric=m&start=now&end=now-1h", "end"),
        ("/api/metrics/timeseries?service=a&metric=m&tag=novalue", "tag"),
        ("/api/metrics/timeseries?service=a&metric=m&group_by=a,b,c,d,e,f", "group_by"),
        (f"/api/metrics/timeseries?service={'a' * 300}&metric=m", "service"),
        ("/api/traces?limit=0", "limit"),
        ("/api/traces?limit=x", "limit"),
        ("/api/traces?cursor=%20%20", "cursor"),
        ("/api/traces?min_duration=long", "min_duration"),
        ("/api/traces?attribute=novalue", "attribute"),
        ("/api/traces?attribute=" + "&attribute=".join(["a:b"] * 33), "attribute"),
        ("/api/traces/a%20b", "trace_id"),
        ("/api/edges?start=yesterday", "start"),
        ("/api/edges?start=now&end=now-1h", "end"),
        (f"/api/edges?service={'a' * 300}", "service"),
        ("/traces/", "trace_id"),
        ("/api/deployments?limit=1001", "limit"),
    ],
)
def test_a_wrong_parameter_is_400_and_named(server: Server, path: str, field: str) -> None:
    answer = server.get(path)
    assert (answer.status, answer.json().get("field")) == (400, field), answer
    assert answer.headers["content-type"] == "application/problem+json"


# ---- where from: Host and Origin


def with_host(server: Server, host: str, path: str) -> int:
    lines = (
        f"{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len(GOOD)}\r\n{JSON_LINE}\r\n\r\n"
    )
    return status_of(talk(server, lines.encode() + GOOD))


@pytest.mark.parametrize("request_line", ["POST /v1/metrics", "GET /api/services", "GET /", "GET /health"])
@pytest.mark.parametrize(
    "host",
    ["evil.example.com", "evil.example.com:8000", "", "127.0.0.1.evil.example.com", "localhost@evil.example.com"],
)
def test_a_foreign_host_is_403(server: Server, host: str, request_line: str) -> None:
    assert with_host(server, host, request_line) == 403


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "LOCALHOST", "127.0.0.1", "[::1]:8000", "10.1.2.3", "app.localhost"]
)
def test_our_own_names_and_plain_addresses_are_answered(server: Server, host: str) -> None:
    assert with_host(server, host, "POST /v1/metrics") == 202


@pytest.mark.parametrize(
    "origin", ["https://evil.example.com", "null", "http://localhost:1", "http://127.0.0.1", "file://"]
)
@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/spans", "/api/deployments"])
def test_a_change_from_a_foreign_origin_is_403(server: Server, path: str, origin: str) -> None:
    answer = server.send(GOOD, path, Origin=origin)
    assert answer.status == 403, answer
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/ws/metrics", "/ws/pages"])
def test_a_websocket_from_a_foreign_origin_or_host_is_refused(server: Server, path: str) -> None:
    address = server.url.replace("http", "ws") + path
    twice = {"additional_headers": {"Host": "evil.example.com"}}  # the client sends its own Host as well
    for named, status in (({"origin": "https://evil.example.com"}, 403), (twice, 400)):
        with pytest.raises(InvalidStatus) as refused, connect(address, **named):
            pass
        assert refused.value.response.status_code == status
    host = b"evil.example.com"
    request = b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" % (path.encode(), host)
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    assert status_of(talk(server, request + key)) == 403


def test_pages_of_our_own_may_post_and_listen(server: Server) -> None:
    assert server.send(GOOD, Origin=server.url).status == 202
    with connect(server.url.replace("http", "ws") + "/ws/metrics", origin=Origin(server.url)):
        pass


def test_reading_from_a_foreign_origin_gets_no_header_that_allows_it(server: Server) -> None:
    answer = server.get("/api/services", Origin="https://evil.example.com")
    assert "access-control-allow-origin" not in answer.headers


def test_an_allowed_origin_may_call_the_api(server: Server) -> None:
    origin = "https://app.example.com"
    for answer in (server.get("/api/services", Origin=origin), server.send(GOOD, Origin=origin)):
        assert answer.status in (200, 202)
        assert answer.headers["access-control-allow-origin"] == origin
        assert "origin" in answer.headers["vary"].lower()
    refused = server.send(b"nonsense", Origin=origin)
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (400, origin)


@pytest.mark.parametrize(
    ("origin", "allowed"), [("https://app.example.com", True), ("https://evil.example.com", False)]
)
@pytest.mark.parametrize("path", ["/v1/metrics", "/api/services"])
def test_a_preflight_is_answered_to_allowed_origins_alone(
    server: Server, path: str, origin: str, *, allowed: bool
) -> None:
    requested = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key",
    }
    answer = server.request("OPTIONS", path, headers=requested)
    assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
    if allowed:
        assert answer.status == 204
        assert "x-api-key" in answer.headers["access-control-allow-headers"]


def test_every_refusal_was_counted(server: Server) -> None:
    server.send(b"{")
    server.send(envelope({"timestamp": 5}))
    text = server.get("/metrics").body.decode()
    counts = dict(line.rsplit(" ", 1) for line in io.StringIO(text) if not line.startswith("#"))
    assert float(counts['vantage_collector_errors_total{reason="bad_request"}']) >= 1
    assert float(counts['vantage_ingest_rejected_total{field="timestamp"}']) >= 1
    assert float(counts['vantage_collector_requests_total{endpoint="/v1/metrics",status="400"}']) >= 1
