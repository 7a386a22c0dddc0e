"""``vantage query``: of a server, of a folder, in every format, and what cannot be done in a clear line or two."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.load import NO_RATES
from tests.support.server import Server, serving, vantage

QUIET = {**NO_RATES, "VANTAGE_SELF_TELEMETRY": "false"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("query") / "data", environ=QUIET) as server:
        metrics = [
            {"metric_name": "m", "metric_type": "gauge", "value": float(n), "tags": {"n": str(n)}} for n in (1, 2)
        ]
        server.send({"service_name": "api", "environment": "prod", "metrics": metrics})
        yield server


def run_query(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    ran = vantage("query", *arguments, "--url", server.url)
    lines = ran.stderr.splitlines(keepends=True)
    ran.stderr = "".join(line for line in lines if not line.startswith("vantage: running for"))  # on a busy machine
    return ran


def test_a_table_and_what_was_read(server: Server) -> None:
    ran = run_query(server, "SELECT value, tags['n'] AS n FROM metrics ORDER BY value")
    assert ran.returncode == 0
    assert ran.stdout.splitlines() == ["value  n", "─────  ─", "    1  1", "    2  2"]
    warning, footer = ran.stderr.splitlines()
    assert warning == "vantage: warning: no lower time bound was given: the last hour is meant"
    assert footer.startswith("2 rows, 20")
    assert footer.endswith(" ms")


@pytest.mark.parametrize(
    ("kind", "out"),
    [
        ("csv", "value,n\n1.0,1\n2.0,2\n"),  # read as text, so \r\n has become \n
        ("ndjson", '{"value":1.0,"n":"1"}\n{"value":2.0,"n":"2"}\n'),
    ],
)
def test_formats_for_programs(server: Server, kind: str, out: str) -> None:
    ran = run_query(server, "SELECT value, tags['n'] AS n FROM metrics ORDER BY value", "--format", kind)
    assert (ran.returncode, ran.stdout) == (0, out)


def test_json_is_a_list_of_objects(server: Server) -> None:
    ran = run_query(server, "SELECT max(value) AS most FROM metrics", "--format", "json")
    assert json.loads(ran.stdout) == [{"most": 2.0}]


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pip install 'vantage[parquet]'")
def test_parquet_goes_to_a_file(server: Server, tmp_path: Path) -> None:
    from pyarrow import parquet

    ran = run_query(server, "SELECT value FROM metrics", "--format", "parquet", "--output", str(tmp_path / "x.parquet"))
    assert ran.returncode == 0
    assert sorted(parquet.read_table(tmp_path / "x.parquet").column("value").to_pylist()) == [1.0, 2.0]


def test_parameters_are_bound(server: Server) -> None:
    query = "SELECT value FROM metrics WHERE tags['n'] IN :n AND value > {least:Float64}"
    ran = run_query(server, query, "--param", 'n=["1", "2"]', "--param", "least=1.5", "--format", "csv")
    assert ran.stdout == "value\n2.0\n"
    ran = run_query(server, "SELECT value FROM metrics WHERE tags['n'] = :n", "--param", "n=2", "--format", "csv")
    assert ran.returncode == 1  # 2 is a number here: texts that look like one are given in quotes
    ran = run_query(server, "SELECT value FROM metrics WHERE tags['n'] = :n", "--param", 'n="2"', "--format", "csv")
    assert ran.stdout == "value\n2.0\n"
    assert "is not written as name=value" in run_query(server, "SELECT 1", "--param", "n").stderr


def test_the_query_may_come_from_standard_input(server: Server) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "vantage", "query", "-", "--url", server.url, "--format", "csv"],
        input="SELECT count() AS n\nFROM metrics\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout == "n\n2\n"


def test_a_refused_query_shows_the_place(server: Server) -> None:
    ran = run_query(server, "SELECT value\nFROM metrics\nWHERE sevice_name = 'a'")
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr.splitlines() == [
        "vantage: unknown column 'sevice_name': did you mean 'service_name'? (line 3, column 7)",
        "  WHERE sevice_name = 'a'",
        "        ^",
    ]


def test_a_folder_is_asked_when_no_server_holds_it(server: Server, tmp_path: Path) -> None:
    ran = vantage("query", "SELECT count() FROM metrics", "--data", str(server.data))
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "is in use by another Vantage process" in ran.stderr
    assert "--url" in ran.stderr
    data = tmp_path / "data"
    with serving(data, environ=QUIET) as other:
        other.send({"service_name": "a", "metrics": [{"metric_name": "m", "metric_type": "gauge", "value": 7}]})
    ran = vantage("query", "SELECT value FROM metrics", "--data", str(data), "--format", "csv")
    assert (ran.returncode, ran.stdout) == (0, "value\n7.0\n")
    ran = vantage("query", "SELECT valu FROM metrics", "--data", str(data))
    assert ran.stderr.splitlines()[-1] == "         ^"
    absent = vantage("query", "SELECT value FROM metrics", "--data", str(tmp_path / "absent"))
    assert (absent.returncode, absent.stderr) == (1, f"vantage: {tmp_path / 'absent'} is no folder\n")
    assert not (tmp_path / "absent").exists()


def test_what_cannot_be_done_is_one_line(server: Server, tmp_path: Path) -> None:
    away = vantage("query", "SELECT 1", environ={"VANTAGE_PORT": "1"})
    assert "cannot be reached" in away.stderr
    assert "give --data DIR" in away.stderr
    both = run_query(server, "SELECT 1", "--data", str(tmp_path))
    assert "not both" in both.stderr
    nowhere = run_query(server, "SELECT value FROM metrics", "--output", str(tmp_path / "no" / "file"))
    assert "cannot be written" in nowhere.stderr
    for ran in (away, both, nowhere):
        assert ran.returncode == 1
        assert ran.stderr.count("\n") == 1
