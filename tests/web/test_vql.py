"""``POST /vql/execute`` and ``where=``: the formats, the errors, and that no text does more than read."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.load import NO_RATES
from tests.support.server import Answer, Server, serving
from tests.vql.attacks import ATTACKS, HARMLESS
from vantage.core.clock import SystemClock
from vantage.query import table_formats

URL = "/vql/execute"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environ = {**NO_RATES, "VANTAGE_SELF_TELEMETRY": "false"}
    with serving(tmp_path_factory.mktemp("vql") / "data", environ=environ) as server:
        now_ms = SystemClock().now_ms()
        samples = [
            {
                "metric_name": "http.request.duration",
                "metric_type": "histogram",
                "value": float(n),
                "timestamp": now_ms - 5000 + n,
                "tags": {"method": ("GET", "POST")[n % 2], "ü": 'a "b", c\n'},
            }
            for n in range(12)
        ]
        server.send({"service_name": "my-api", "environment": "prod", "metrics": samples})
        yield server
        assert "Traceback" not in server.output, server.output


def ask(server: Server, query: str, **body: Any) -> Answer:
    return server.send({"query": query, **body}, URL)


def test_the_plan_s_own_call_is_answered(server: Server) -> None:
    answer = ask(server, "SELECT * FROM metrics WHERE service_name='my-api' LIMIT 10")
    result = answer.json()
    assert answer.status == 200
    assert result["row_count"] == len(result["rows"]) == 10
    assert result["columns"][0] == {"name": "timestamp", "type": "time"}
    assert not result["truncated"]
    assert result["range"]["end"] - result["range"]["start"] == 3_600_000
    assert result["warnings"] == ["no lower time bound was given: the last hour is meant"]
    assert result["elapsed_ms"] > 0
    assert result["cached"] is False
    assert result["rows"][0][7] == {"method": "GET", "ü": 'a "b", c\n'}


def test_parameters_are_bound(server: Server) -> None:
    query = "SELECT count() FROM metrics WHERE tags['method'] IN {m:Array(String)} AND value < :most"
    result = ask(server, query, params={"m": ["GET", "' OR 1=1 --"], "most": 6}).json()
    assert result["rows"] == [[3]]
    answer = ask(server, query, params={"m": ["GET"]})
    assert (answer.status, answer.json()["field"]) == (400, "params.most")


def test_csv_is_streamed_with_a_line_of_names(server: Server) -> None:
    answer = ask(server, "SELECT value, tags, value > 5 AS big, 1 / 0 AS n FROM metrics ORDER BY value", format="csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["vantage-truncated"] == "false"
    assert answer.headers["vantage-warnings"].startswith("no lower time bound")
    rows = list(csv.reader(io.StringIO(answer.body.decode(), newline="")))
    assert rows[0] == ["value", "tags", "big", "n"]
    assert rows[7] == ["6.0", '{"method":"GET","ü":"a \\"b\\", c\\n"}', "true", ""]
    assert len(rows) == 13


def test_ndjson_can_be_requested_by_the_accept_header(server: Server) -> None:
    answer = server.send(
        {"query": "SELECT value, tags['method'] AS m FROM metrics ORDER BY value LIMIT 2"},
        URL,
        accept="application/x-ndjson, */*",
    )
    assert [json.loads(line) for line in answer.body.splitlines()] == [
        {"value": 0.0, "m": "GET"},
        {"value": 1.0, "m": "POST"},
    ]


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pip install 'vantage[parquet]'")
def test_parquet_has_types(server: Server) -> None:
    from pyarrow import parquet

    query = "SELECT timestamp, value, tags, count() AS n, 1 / 0 AS nothing FROM metrics GROUP BY 1, 2, 3 ORDER BY value"
    answer = ask(server, query, format="parquet")
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    table = parquet.read_table(io.BytesIO(answer.body))
    kinds = [str(field.type).partition(" (")[0] for field in table.schema]
    assert kinds == ["timestamp[ms, tz=UTC]", "double", "map<string, string", "int64", "double"]
    assert table.column("value").to_pylist() == [float(n) for n in range(12)]
    assert table.column("nothing").null_count == 12
    assert table.column("tags").to_pylist()[1] == [("method", "POST"), ("ü", 'a "b", c\n')]


def test_without_pyarrow_parquet_is_406_with_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    hidden = {"PYTHONPATH": str(server.data.parent / "hidden"), **NO_RATES}
    package = server.data.parent / "hidden"
    package.mkdir()
    # A finder that does not know pyarrow stands before all others.
    (package / "sitecustomize.py").write_text(
        "import importlib.util\nreal = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'pyarrow' else real(name, *more)\n"
    )
    with serving(server.data.parent / "other", environ=hidden) as bare:
        answer = ask(bare, "SELECT value FROM metrics", format="parquet")
    assert answer.status == 406
    assert "pip install 'vantage[parquet]'" in answer.json()["detail"]


def test_a_refused_query_has_a_position_and_a_suggestion(server: Server) -> None:
    answer = ask(server, "SELECT value\nFROM metrics\nWHERE service_name=my-api")
    result = answer.json()
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert (result["field"], result["line"], result["column"]) == ("query", 3, 20)
    assert result["suggestion"] == "did you mean 'my-api' in quotes?"
    assert result["detail"].startswith("unknown column 'my'")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "data"),
        ({"query": 5}, "query"),
        ({"query": "SELECT value FROM metrics", "format": "xml"}, "format"),
        ({"query": "SELECT value FROM metrics", "params": {"a": {"b": 1}}}, "params[...]"),
        ({"query": "SELECT value FROM metrics", "params": {"a": 1}}, "params.a"),
        ({"query": "SELECT value FROM metrics", "params": {str(n): n for n in range(101)}}, "params"),
    ],
)
def test_a_body_that_does_not_fit_names_the_field(server: Server, body: dict[str, Any], field: str) -> None:
    answer = server.send(body, URL)
    assert (answer.status, answer.json()["field"]) == (400, field)


def test_explain_returns_what_would_be_read(server: Server) -> None:
    result = ask(server, "EXPLAIN SELECT count() FROM metrics").json()
    assert [column["name"] for column in result["columns"]] == ["tier", "chunks", "rows"]
    assert sum(row[2] for row in result["rows"]) == 12


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_a_clear_4xx(server: Server, attack: str) -> None:
    body = json.dumps({"query": ATTACKS[attack]}).encode()
    answer = server.send(body, URL)
    # A megabyte is refused before it is read, or by its length.
    assert answer.status in ((400, 413) if len(body) > 500_000 else (400,))
    assert len(answer.body) < 2000
    assert answer.json()["detail"]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_an_attack_is_answered(server: Server, text: str) -> None:
    assert ask(server, HARMLESS[text]).status == 200


def timeseries(server: Server, where: str) -> Answer:
    from urllib.parse import quote

    path = "/api/metrics/timeseries?service=my-api&metric=http.request.duration&start=now-1h&step=1h&agg=count"
    return server.get(f"{path}&where={quote(where)}")


@pytest.mark.parametrize(
    ("where", "count", "source"),
    [
        ("value >= 6", 6, "raw"),
        ("tags['method'] = 'GET'", 6, "mixed"),
        ("tags['method'] LIKE 'P%' AND value < 6", 3, "raw"),
        ("value < 0", 0, "raw"),
        ("tags['method'] = 'PUT' OR environment = 'prod'", 12, "mixed"),
        ("  ", 12, "mixed"),
    ],
)
def test_a_condition_narrows_a_timeseries(server: Server, where: str, count: int, source: str) -> None:
    result = timeseries(server, where).json()
    assert sum(point[1] or 0 for series in result["series"] for point in series["points"]) == count
    assert result["source"] in (source, "raw", "1h")
    if source == "raw":
        assert result["source"] == "raw"


def test_a_condition_that_cannot_be_read_is_named(server: Server) -> None:
    result = timeseries(server, "valu > 5").json()
    assert (result["status"], result["field"], result["column"]) == (400, "where", 1)
    assert timeseries(server, "count() > 5").json()["field"] == "where"
    assert timeseries(server, "value > 5; DROP TABLE metrics").status == 400


def test_long_answers_come_in_pieces() -> None:
    from vantage.vql.table import Table, TableColumn

    table = Table((TableColumn("n", "int"),), (list(range(2500)),))
    assert [piece.count(b"\n") for piece in table_formats.encode_table(table, table_formats.NDJSON)] == [
        1000,
        1000,
        500,
    ]
    assert [piece.count(b"\n") for piece in table_formats.encode_table(table, table_formats.CSV)] == [1001, 1000, 500]
    empty = Table((TableColumn("n", "int"),), ([],))
    assert list(table_formats.encode_table(empty, table_formats.CSV)) == [b"n\r\n"]
    assert list(table_formats.encode_table(empty, table_formats.NDJSON)) == []


def test_json_of_many_rows_is_streamed_and_the_same_as_in_one_piece(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ=NO_RATES) as server:
        for part in range(0, 2500, 500):
            samples = [{"metric_name": "m", "value": n} for n in range(part, part + 500)]
            server.send({"service_name": "many", "metrics": samples})
        query = "SELECT value, metric_name FROM metrics WHERE service_name = 'many'"
        for rows, streamed in ((1, False), (1000, False), (1001, True), (2500, True)):
            answer = ask(server, f"{query} ORDER BY value LIMIT {rows}")
            assert ("transfer-encoding" in answer.headers) == streamed
            assert answer.json()["rows"] == [[float(n), "m"] for n in range(rows)]
            assert answer.json()["row_count"] == rows
        assert ask(server, f"{query} AND value < 0").json()["rows"] == []
