"""What agents and scripts rely on when they send: formats, batch ids, keys, rates, and a count for every loss."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard

from tests.support.server import Answer, Server, serving, vantage
from tests.support.wait import wait_until

MSGPACK = "application/msgpack"
PACKED = "application/vnd.vantage.v1+msgpack"
NO_RATES = {"VANTAGE_INGEST_RATE_LIMIT": "0", "VANTAGE_API_RATE_LIMIT": "0"}
KEYS_WITHIN_S = 6.0

# As the documentation prints it.
DOCUMENTED = b"""
  {
    "metrics": [
      {
        "timestamp": 1703001234567,
        "service_name": "my-api",
        "metric_name": "http.request.duration",
        "metric_type": "histogram",
        "value": 123.45,
        "tags": { "endpoint": "/api/users", "method": "GET" },
        "trace_id": "abc123",
        "span_id": "span001"
      }
    ],
    "service_name": "my-api",
    "environment": "production"
  }
"""
AT_MS = 1703001234567


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("contract") / "data", environ=NO_RATES) as server:
        yield server
        assert "Traceback" not in server.output, server.output


def now_ms() -> int:
    return int(time.time() * 1000)


def samples(service: str, *values: float, **other: Any) -> dict[str, Any]:
    return {
        "service_name": service,
        "metrics": [{"metric_name": "m", "value": value, "timestamp": now_ms() - 1000, **other} for value in values],
    }


def timeseries(server: Server, service: str, metric: str, **requested: str) -> Any:
    named = {"start": "1703001000", "end": "1703002000", "step": "1000s", **requested}
    query = "&".join(f"{name}={value}" for name, value in named.items())
    answer = server.get(f"/api/metrics/timeseries?service={service}&metric={metric}&{query}")
    assert answer.status == 200, answer
    return answer.json()


def values(result: Any) -> list[Any]:
    return [[value for _, value in item["points"] if value is not None] for item in result["series"]]


# ---- the documented payload


def test_the_documented_payload_is_kept_and_found(server: Server) -> None:
    answer = server.send(DOCUMENTED)
    assert (answer.status, answer.json()) == (202, {"accepted": 1, "rejected": 0, "errors": []})
    assert answer.headers["content-type"] == "application/json"
    result = timeseries(server, "my-api", "http.request.duration", agg="max", group_by="endpoint", tag="method:GET")
    assert values(result) == [[123.45]]
    assert result["series"][0]["tags"] == {"endpoint": "/api/users"}
    assert (result["agg"], result["source"], result["approximate"], result["step"]) == ("max", "raw", False, 1000)
    (line,) = server.get("/traces/?trace_id=abc123").json()
    assert (line["service"], line["span_id"], line["duration"]) == ("my-api", "span001", 123.45)
    (service,) = [item for item in server.get("/api/services").json()["services"] if item["name"] == "my-api"]
    assert (service["environments"], service["last_seen"]) == (["production"], AT_MS)
    (metric,) = server.get("/api/metrics?service=my-api").json()["metrics"]
    assert (metric["name"], metric["kind"]) == ("http.request.duration", "histogram")
    assert metric["tag_keys"] == ["endpoint", "method"]
    tags = server.get("/api/metrics/tags?service=my-api&metric=http.request.duration&key=endpoint").json()
    assert tags["values"] == [{"value": "/api/users", "series": 1}]


def as_native(service: str) -> dict[str, Any]:
    return {
        "service_name": service,
        "environment": "production",
        "service_version": "1.2.3",
        "instance": "i-1",
        "metrics": [
            {
                "timestamp": AT_MS,
                "metric_name": "queue.depth",
                "metric_type": "gauge",
                "value": value,
                "unit": "1",
                "tags": {"k": "v"},
                "trace_id": f"of-{service}",
                "span_id": f"s{value:g}",
            }
            for value in (1.5, 2.5, 4.0)
        ],
    }


def as_packed(service: str) -> dict[str, Any]:
    return {
        "batch": f"b-{service}",
        "resource": {
            "service_name": service,
            "environment": "production",
            "service_version": "1.2.3",
            "instance": "i-1",
        },
        "series": [["queue.depth", "gauge", "1", {"k": "v"}]],
        "samples": [
            [
                0,
                [AT_MS] * 3,
                [1.5, 2.5, 4.0],
                [[i, f"of-{service}", f"s{v}"] for i, v in enumerate(("1.5", "2.5", "4"))],
            ]
        ],
        "spans": [],
        "dropped": {},
    }


FORMATS = {
    "json": (lambda service: json.dumps(as_native(service)).encode(), "application/json", ""),
    "json with gzip": (
        lambda service: gzip.compress(json.dumps(as_native(service)).encode()), "application/json", "gzip",
    ),
    "json with zstd": (
        lambda service: zstandard.compress(json.dumps(as_native(service)).encode()), "application/json", "zstd",
    ),
    "messagepack": (lambda service: msgpack.packb(as_native(service)), MSGPACK, ""),
    "messagepack under its old name": (lambda service: msgpack.packb(as_native(service)), "application/x-msgpack", ""),
    "messagepack with gzip": (lambda service: gzip.compress(msgpack.packb(as_native(service))), MSGPACK, "gzip"),
    "packed": (lambda service: msgpack.packb(as_packed(service)), PACKED, ""),
    "packed with zstd": (lambda service: zstandard.compress(msgpack.packb(as_packed(service))), PACKED, "zstd"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_tells_the_same(server: Server, name: str) -> None:
    make, media_type, encoding = FORMATS[name]
    service = name.replace(" ", "-")
    headers = {"Content_Type": media_type, **({"Content_Encoding": encoding} if encoding else {})}
    answer = server.send(make(service), **headers)
    assert (answer.status, answer.json()) == (202, {"accepted": 3, "rejected": 0, "errors": []})
    result = timeseries(server, service, "queue.depth", agg="sum", group_by="k,environment")
    assert (values(result), result["unit"]) == ([[8.0]], "1")
    assert result["series"][0]["tags"] == {"k": "v", "environment": "production"}
    linked = server.get(f"/api/traces/of-{service}").json()["samples"]
    assert sorted((item["span_id"], item["value"]) for item in linked) == [("s1.5", 1.5), ("s2.5", 2.5), ("s4", 4.0)]
    (recorded,) = [item for item in server.get("/api/services").json()["services"] if item["name"] == service]
    assert recorded["versions"] == ["1.2.3"]


def test_a_zstd_body_without_its_size_in_the_header_is_read(server: Server) -> None:
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    assert server.send(compressor.compress(DOCUMENTED), Content_Encoding="zstd").status == 202


def test_a_timestamp_left_out_is_the_time_of_arrival(server: Server) -> None:
    before = now_ms()
    server.send({"service_name": "arrival", "metrics": [{"metric_name": "m", "value": 1}]})
    (recorded,) = [item for item in server.get("/api/services").json()["services"] if item["name"] == "arrival"]
    assert before <= recorded["last_seen"] <= now_ms()


def test_a_sample_s_own_service_and_environment_win_over_the_envelope_s(server: Server) -> None:
    own = {"metric_name": "m", "value": 1, "service_name": "own", "environment": "mine"}
    silent = {"metric_name": "m", "value": 1}
    server.send({"service_name": "outer", "environment": "outer-env", "metrics": [own, silent]})
    known = {item["name"]: item["environments"] for item in server.get("/api/services").json()["services"]}
    assert (known["own"], known["outer"]) == (["mine"], ["outer-env"])


@pytest.mark.parametrize(
    ("sample", "field"),
    [
        ({"metric_name": "a b"}, "metric_name"),
        ({"service_name": ""}, "service_name"),
        ({"environment": "a b"}, "environment"),
        ({"metric_type": "summary"}, "metric_type"),
        ({"timestamp": 1703001234}, "timestamp"),
        ({"timestamp": 4102444800000}, "timestamp"),
        ({"tags": {"k": "v" * 513}}, "tags.k"),
        ({"tags": {"k" * 65: "v"}}, "tags"),
        ({"trace_id": "a b"}, "trace_id"),
        ({"unit": "u" * 64}, "unit"),
    ],
)
def test_a_rejected_sample_is_named_by_index_field_and_reason(
    server: Server, sample: dict[str, Any], field: str
) -> None:
    good = {"metric_name": "m", "value": 1}
    body = {"service_name": "api", "metrics": [good, good, {**good, **sample}, good]}
    for answer in (server.send(body), server.send(msgpack.packb(body), Content_Type=MSGPACK)):
        recorded = answer.json()
        assert (answer.status, recorded["accepted"], recorded["rejected"]) == (202, 3, 1)
        (error,) = recorded["errors"]
        assert error.keys() == {"index", "field", "reason"}
        assert (error["index"], error["field"]) == (2, field)


def test_a_sample_just_within_ten_minutes_ahead_is_kept(server: Server) -> None:
    recorded = server.send(
        {
            "service_name": "ahead",
            "metrics": [
                {"metric_name": "m", "value": 1, "timestamp": now_ms() + minutes * 60_000} for minutes in (9, 11)
            ],
        }
    ).json()
    assert (recorded["accepted"], [error["index"] for error in recorded["errors"]]) == (1, [1])


# ---- spans


def span(trace_id: str, span_id: str, parent: str = "", start_ms: int = 0, duration_ms: int = 10, **other: Any) -> Any:
    return {
        "trace_id": trace_id,
        "span_id": span_id,
        "parent_span_id": parent,
        "name": f"op {span_id}",
        "start_ns": (AT_MS + start_ms) * 1_000_000,
        "duration_ns": duration_ms * 1_000_000,
        **other,
    }


def test_spans_become_a_tree(server: Server) -> None:
    spans = [
        span("tree", "c", "b", 20, 10, service_name="db", kind="client", attributes={"db.system": "pg", "rows": 3}),
        span("tree", "a", "", 0, 100, service_name="web", kind="server", status="error"),
        span("tree", "b", "a", 10, 50, service_name="app"),
        span("tree", "lost", "nobody", 90, 1, service_name="app"),
    ]
    assert server.send({"spans": spans}, "/v1/spans").json() == {"accepted": 4, "rejected": 0, "errors": []}
    tree = server.get("/api/traces/tree").json()
    assert [(item["span_id"], item["depth"], item["orphan"]) for item in tree["spans"]] == [
        ("a", 0, False), ("b", 1, False), ("c", 2, False), ("lost", 0, True),
    ]  # fmt: skip
    by_id = {item["span_id"]: item for item in tree["spans"]}
    assert by_id["a"]["children"] == ["b"]
    assert (by_id["a"]["self_ns"], by_id["b"]["self_ns"]) == (50_000_000, 40_000_000)
    assert by_id["c"]["attributes"] == {"db.system": "pg", "rows": "3"}
    assert (tree["roots"], tree["errors"], tree["duration_ns"]) == (["a", "lost"], 1, 100_000_000)
    assert tree["services"] == ["app", "db", "web"]
    lines = server.get("/traces/?trace_id=tree").json()
    assert [(line["service"], line["span_id"], line["duration"]) for line in lines] == [
        ("web", "a", 100), ("app", "b", 50), ("db", "c", 10), ("app", "lost", 1),
    ]  # fmt: skip


def test_spans_are_found_by_what_they_are(server: Server) -> None:
    spans = [
        span("slow", "a", duration_ms=500, service_name="find"),
        span("quick", "a", service_name="find", status="error", attributes={"http.route": "/pay", "retry": 2}),
    ]
    server.send(msgpack.packb({"spans": spans}), "/v1/spans", Content_Type=MSGPACK)
    requested = "/api/traces?service=find&start=1703000000&end=1703003000"

    def result(more: str) -> list[str]:
        return [item["trace_id"] for item in server.get(requested + more).json()["traces"]]

    assert sorted(result("")) == ["quick", "slow"]
    assert result("&min_duration=250ms") == ["slow"]
    assert result("&status=error") == ["quick"]
    assert result("&q=SLO") == ["slow"]
    assert result("&attribute=http.route:/pay&attribute=retry:2") == ["quick"]
    assert result("&attribute=http.route:/pay&attribute=retry:3") == []
    assert result("&limit=1") != result("&limit=1&cursor=" + server.get(requested + "&limit=1").json()["next_cursor"])


def test_metrics_of_two_services_with_one_trace_are_listed_as_documented(server: Server) -> None:
    for service, metric, value, span_id in (
        ("api-gateway", "http.request.duration", 123, "span-001"),
        ("auth-service", "database.query.duration", 45, "span-002"),
    ):
        sample = {"metric_name": metric, "value": value, "trace_id": "abc-123", "span_id": span_id}
        server.send({"service_name": service, "metrics": [sample]})
    lines = server.get("/traces/?trace_id=abc-123").json()
    assert [(line["service"], line["span_id"], line["duration"]) for line in lines] == [
        ("api-gateway", "span-001", 123), ("auth-service", "span-002", 45),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"trace_id": ""}, "trace_id"),
        ({"span_id": "a b"}, "span_id"),
        ({"duration_ns": -1}, "duration_ns"),
        ({"start_ns": 5}, "start_ns"),
        ({"service_name": ""}, "service_name"),
        ({"name": "n" * 513}, "name"),
        ({"attributes": {f"k{i}": "v" for i in range(1000)}}, "attributes"),
    ],
)
def test_a_span_that_cannot_be_kept_is_rejected_alone(server: Server, change: dict[str, Any], field: str) -> None:
    good = span("mixed", "a", service_name="spans")
    recorded = server.send({"spans": [good, {**good, **change}]}, "/v1/spans").json()
    assert (recorded["accepted"], recorded["rejected"]) == (1, 1)
    assert (recorded["errors"][0]["index"], recorded["errors"][0]["field"].partition(".")[0]) == (1, field)


def test_a_new_version_in_the_data_is_a_deployment(server: Server) -> None:
    body = samples("deployed", 1.0)
    for version in ("1.0", "1.1", "1.1"):
        server.send({**body, "service_version": version, "environment": "prod"})
    requested = "/api/deployments?service=deployed"
    result = wait_until(lambda: len(f := server.get(requested).json()["deployments"]) == 2 and f)
    assert sorted((item["version"], item["source"]) for item in result) == [("1.0", "detected"), ("1.1", "detected")]
    recorded = server.send({"service": "deployed", "version": "2.0"}, "/api/deployments")
    assert (recorded.status, recorded.json()["source"]) == (201, "reported")
    assert len(server.get(requested).json()["deployments"]) == 3


@pytest.mark.parametrize(("old", "new"), [("told", "reported"), ("seen", "detected")])
def test_an_earlier_word_for_a_source_is_refused_with_the_new_one(server: Server, old: str, new: str) -> None:
    answer = server.send({"service": "renamed", "version": "2.0", "source": old}, "/api/deployments")
    assert answer.status == 400
    assert (answer.json()["field"], answer.json()["detail"]) == ("source", f"'{old}' is now called '{new}'")
    assert server.get("/api/deployments?service=renamed").json()["deployments"] == []


# ---- batch ids


def test_the_same_batch_id_is_kept_once_also_after_a_restart(tmp_path: Path) -> None:
    data = tmp_path / "data"
    body, packed = samples("once", 1.0, 2.0), {**as_packed("x"), "batch": "packed-1"}
    packed["resource"]["service_name"] = "once-packed"
    packed["samples"] = [[0, [now_ms()], [8.0]]]
    for _ in range(2):
        with serving(data) as server:
            for _ in range(3):
                answer = server.send(body, Idempotency_Key="batch-1")
                assert (answer.status, answer.json()["accepted"]) == (202, 2)
                assert server.send(msgpack.packb(packed), Content_Type=PACKED).status == 202
            assert server.total("once", "m") == (2, 3.0)
            assert server.total("once-packed", "queue.depth") == (1, 8.0)
            server.kill()


def test_spans_too_have_batch_ids(server: Server) -> None:
    for _ in range(2):
        server.send({"spans": [span("once", "a", service_name="s")]}, "/v1/spans", Idempotency_Key="spans-1")
    assert len(server.get("/api/traces/once").json()["spans"]) == 1


def test_another_batch_id_is_another_batch(server: Server) -> None:
    body = samples("twice", 1.0)
    for key in ("a", "b"):
        server.send(body, Idempotency_Key=key)
    assert server.total("twice", "m") == (2, 2.0)


# ---- keys


def with_key(server: Server, secret: str, method: str = "POST", path: str = "/v1/metrics") -> Answer:
    headers = {"X-API-Key": secret, "Content-Type": "application/json"}
    return server.request(method, path, DOCUMENTED if method == "POST" else None, headers)


def create_key(data: Path, name: str, *options: str) -> str:
    made = vantage("keys", "create", name, "--data", str(data), *options)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def test_a_batch_id_belongs_to_one_endpoint(server: Server) -> None:
    span = {"trace_id": "one-endpoint", "span_id": "s", "name": "n", "start_ns": time.time_ns(), "duration_ns": 1}
    sample = {"metric_name": "one.endpoint", "value": 1}
    assert server.send({"service_name": "s", "metrics": [sample]}, Idempotency_Key="shared-id").status == 202
    for _ in range(2):
        answer = server.send({"service_name": "s", "spans": [span]}, "/v1/spans", Idempotency_Key="shared-id")
        assert answer.status == 202
    assert len(server.get("/api/traces/one-endpoint").json()["spans"]) == 1


def test_signing_in_has_a_rate_of_its_own(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ={**NO_RATES, "VANTAGE_API_KEY": "k3y"}) as server:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        tries = [server.request("POST", "/login", b"key=guess", form).status for _ in range(32)]
    assert tries == [401] * 30 + [429] * 2


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[str, str]]]:
    """A server that ran without keys until some were created beside it."""
    data = tmp_path_factory.mktemp("keyed") / "data"
    with serving(data, environ=NO_RATES) as server:
        assert server.send(DOCUMENTED).status == 202
        secrets = {scope: create_key(data, scope, "--scope", scope) for scope in ("ingest", "read", "admin")}
        wait_until(lambda: server.send(DOCUMENTED).status == 401, KEYS_WITHIN_S)
        # The first key may be read before the last is made; the last is the admin's.
        wait_until(lambda: server.get("/api/services", **{"X-API-Key": secrets["admin"]}).status == 200, KEYS_WITHIN_S)
        yield server, secrets
        assert "Traceback" not in server.output
        assert not any(secret in server.output for secret in secrets.values()), "a secret was printed"


ALLOWED = {
    ("ingest", "POST", "/v1/metrics"): 202,
    ("read", "POST", "/v1/metrics"): 403,
    ("admin", "POST", "/v1/metrics"): 202,
    ("ingest", "GET", "/api/services"): 403,
    ("read", "GET", "/api/services"): 200,
    ("admin", "GET", "/api/services"): 200,
    ("ingest", "DELETE", "/api/data?service=nobody"): 403,
    ("read", "DELETE", "/api/data?service=nobody"): 403,
    ("admin", "DELETE", "/api/data?service=nobody"): 200,
    ("ingest", "GET", "/"): 403,
    ("read", "GET", "/"): 200,
    ("ingest", "GET", "/traces/?trace_id=abc123"): 403,
    ("read", "GET", "/traces/?trace_id=abc123"): 200,
}


@pytest.mark.parametrize(("scope", "method", "path"), ALLOWED)
def test_a_key_may_do_what_its_scope_says(
    keyed: tuple[Server, dict[str, str]], scope: str, method: str, path: str
) -> None:
    server, secrets = keyed
    answer = with_key(server, secrets[scope], method, path)
    assert answer.status == ALLOWED[scope, method, path], answer


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "vtg_nobody"},
        {"Authorization": "Bearer vtg_nobody"},
        {"Authorization": "Basic YTpi"},
        {"X-API-Key": ""},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/metrics"),
        ("POST", "/v1/spans"),
        ("GET", "/api/services"),
        ("GET", "/traces/?trace_id=a"),
        ("DELETE", "/api/data?service=a"),
    ],
)
def test_without_a_key_everybody_is_refused(
    keyed: tuple[Server, dict[str, str]], method: str, path: str, headers: dict[str, str]
) -> None:
    answer = keyed[0].request(method, path, b"{}", {"Content-Type": "application/json", **headers})
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path", ["/health", "/health/live", "/health/ready", "/metrics", "/schema", "/schema/openapi.json", "/login"]
)
def test_operations_and_the_schema_are_open(keyed: tuple[Server, dict[str, str]], path: str) -> None:
    assert keyed[0].get(path).status == 200


def test_a_key_may_also_come_as_a_bearer_token(keyed: tuple[Server, dict[str, str]]) -> None:
    server, secrets = keyed
    assert server.get("/api/services", Authorization=f"Bearer {secrets['read']}").status == 200


def test_a_revoked_key_is_refused_within_seconds(keyed: tuple[Server, dict[str, str]]) -> None:
    server, _ = keyed
    secret = create_key(server.data, "to-revoke")
    wait_until(lambda: with_key(server, secret).status == 202, KEYS_WITHIN_S)
    assert vantage("keys", "revoke", "to-revoke", "--data", str(server.data)).returncode == 0
    wait_until(lambda: with_key(server, secret).status == 401, KEYS_WITHIN_S)


def test_the_key_of_the_environment_may_do_everything(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ={"VANTAGE_API_KEY": "s3cret-from-env"}) as server:
        assert server.send(DOCUMENTED).status == 401
        for method, path in (("POST", "/v1/metrics"), ("GET", "/api/services"), ("DELETE", "/api/data?service=a")):
            assert with_key(server, "s3cret-from-env", method, path).status in (200, 202)
        server.stop()
        assert "s3cret-from-env" not in server.output


def test_the_key_of_the_environment_may_come_from_a_file(tmp_path: Path) -> None:
    stored = tmp_path / "key"
    stored.write_text("s3cret-from-file\n")
    with serving(tmp_path / "data", environ={"VANTAGE_API_KEY_FILE": str(stored)}) as server:
        assert with_key(server, "s3cret-from-file").status == 202
        assert with_key(server, "else").status == 401


# ---- rates


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environ = {
        "VANTAGE_INGEST_RATE_LIMIT": "5",
        "VANTAGE_API_RATE_LIMIT": "5",
        "VANTAGE_TRUSTED_PROXIES": "127.0.0.1",
    }
    with serving(tmp_path_factory.mktemp("limited") / "data", environ=environ) as server:
        yield server


def from_address(server: Server, forwarded_for: str, path: str = "/v1/metrics") -> Answer:
    headers = {"X-Forwarded-For": forwarded_for, "Content-Type": "application/json"}
    method, body = ("POST", DOCUMENTED) if path.startswith("/v1/") else ("GET", None)
    return server.request(method, path, body, headers)


@pytest.mark.parametrize(("path", "good"), [("/v1/metrics", 202), ("/api/services", 200)])
def test_the_sixth_of_five_requests_a_minute_is_429_and_told_when_to_come_back(
    limited: Server, path: str, good: int
) -> None:
    answers = [from_address(limited, "203.0.113.1", path) for _ in range(6)]
    assert [answer.status for answer in answers] == [good] * 5 + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 12
    assert answers[-1].json()["title"] == "Too many requests"


def test_a_trusted_proxy_s_clients_have_rates_of_their_own(limited: Server) -> None:
    for _ in range(6):
        last = from_address(limited, "203.0.113.2")
    assert last.status == 429
    assert from_address(limited, "203.0.113.3").status == 202
    assert from_address(limited, "198.51.100.9, 203.0.113.2").status == 429, (
        "what a client wrote itself is not believed"
    )


def test_an_address_that_nobody_trusts_cannot_choose_another_one(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ={"VANTAGE_INGEST_RATE_LIMIT": "2"}) as server:
        statuses = [from_address(server, f"203.0.113.{i}").status for i in range(3)]
    assert statuses == [202, 202, 429]


def test_operations_have_no_rate(limited: Server) -> None:
    assert {limited.get("/health").status for _ in range(20)} == {200}


# ---- every loss has a count


def test_every_loss_is_counted(server: Server, limited: Server, keyed: tuple[Server, dict[str, str]]) -> None:
    before = server.counts()

    def grew(name: str, at: Server = server) -> float:
        return at.counts().get(name, 0.0) - (before.get(name, 0.0) if at is server else 0.0)

    server.send({"service_name": "a", "metrics": [{"metric_name": "", "value": 1}] * 3})
    assert grew('vantage_ingest_rejected_total{field="metric_name"}') == 3
    server.send({**samples("a"), "metrics": [{"metric_name": "m", "value": 1, "tags": {"k": 1}}]})
    assert grew('vantage_ingest_rejected_total{field="tags"}') == 1
    server.send(msgpack.packb({**as_packed("lossy"), "dropped": {"queue_full": 7}}), Content_Type=PACKED)
    assert grew('vantage_agent_dropped_total{reason="queue_full"}') == 7
    server.send(b"nonsense")
    assert grew('vantage_collector_errors_total{reason="bad_request"}') == 1
    server.send(DOCUMENTED, Content_Type="text/plain")
    assert grew('vantage_collector_errors_total{reason="unsupported_media_type"}') == 1
    server.send(gzip.compress(b" " * (9 << 20)), Content_Encoding="gzip")
    assert grew('vantage_collector_errors_total{reason="body_too_large"}') == 1
    for _ in range(7):
        limited.send(DOCUMENTED)
    assert grew('vantage_collector_errors_total{reason="too_many_requests"}', limited) >= 1
    keyed[0].send(DOCUMENTED)
    assert grew('vantage_collector_errors_total{reason="key_needed"}', keyed[0]) >= 1
    with_key(keyed[0], keyed[1]["read"])
    assert grew('vantage_collector_errors_total{reason="forbidden"}', keyed[0]) >= 1


def test_the_promised_metric_names_are_there_with_their_content_type(server: Server) -> None:
    server.send(DOCUMENTED)
    server.get("/api/metrics/timeseries?service=my-api&metric=http.request.duration")
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    counts = server.counts()
    for name in (
        'vantage_collector_requests_total{endpoint="/v1/metrics",status="202"}',
        "vantage_collector_kafka_publish_duration_seconds_count",
        "vantage_worker_messages_processed",
        "vantage_worker_messages_processed_total",
        "vantage_worker_db_write_duration_seconds_count",
        'vantage_api_query_duration_seconds_count{query="timeseries"}',
    ):
        assert counts[name] > 0, name
    assert "# TYPE vantage_worker_kafka_lag gauge" in server.get("/metrics").body.decode()
    assert "vantage_api_websocket_connections" in counts
