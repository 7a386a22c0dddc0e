"""The engine of a ClickHouse server: columns both ways, limits, failures of the network, logins."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.certificate import make_certificate
from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.wait import wait_until
from vantage.core.dict_column import dict_encode
from vantage.core.errors import InputError, StartupError, StoreTimeout, StoreUnavailable
from vantage.storage.clickhouse.engine import LOOKUP_NBYTES_MAX, Statement, query_limits, translate_error
from vantage.storage.clickhouse.native import NativeEngine
from vantage.storage.clickhouse.server_url import parse_server_url

pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")

SLOW = Statement("SELECT toInt64(sum(sleepEachRow(0.1))) AS slept FROM numbers(600) SETTINGS max_block_size = 1")


@pytest.fixture(scope="module")
def server() -> Iterator[ClickHouseServer]:
    with running_clickhouse() as server:
        yield server


@pytest.fixture
def engine(server: ClickHouseServer) -> Iterator[NativeEngine]:
    engine = NativeEngine(parse_server_url(server.new_database()))
    engine.open()
    yield engine
    engine.close()


def running_queries(server: ClickHouseServer) -> int:
    return int(server.query("SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow(0.1)%'")) - 1


def test_columns_come_back_as_they_were_inserted(engine: NativeEngine) -> None:
    engine.run(
        Statement(
            "CREATE TABLE t (name LowCardinality(String), id UInt64, at DateTime64(3, 'UTC'), value Float64, "
            "text String, tags Map(LowCardinality(String), String)) ENGINE = MergeTree ORDER BY id"
        )
    )
    names, texts = ["b", "a", "b", ""], ["it's", "ü🙂\n", "", "\\N"]
    tags = [{"k": "v", "ü": "\t"}, {}, {"a": ""}, {"z": "1"}]
    values = np.array([0.1, -0.0, 1e308, 0.0])
    insert = engine.encode(
        "t",
        {
            "name": dict_encode(names),
            "id": np.array([1, 2, 3, 2**64 - 1], np.uint64),
            "at": np.array([0, 1, 1795003600123, 2], np.int64).view("datetime64[ms]"),
            "value": values,
            "text": texts,
            "tags": tags,
        },
        token="t1",
    )
    engine.insert(insert)
    result = engine.run(Statement("SELECT *, toUnixTimestamp64Milli(at) AS ms FROM t ORDER BY id"))
    assert len(result) == 4
    assert result.to_list("name") == names
    assert result.text_column("name").to_list() == names
    assert result.to_list("id") == [1, 2, 3, 2**64 - 1]
    assert result.ints("ms").tolist() == [0, 1, 1795003600123, 2]
    assert result.floats("value").tobytes() == values.tobytes()
    assert result.to_list("text") == texts
    assert result.text_column("text").to_list() == texts
    assert result.to_list("tags") == tags


def test_columns_that_are_mostly_empty_are_read_in_full(engine: NativeEngine) -> None:
    """The server sends such columns as their default and the few other values."""
    engine.run(
        Statement(
            "CREATE TABLE t (id UInt64, text String, number Float64) ENGINE = MergeTree ORDER BY id "
            "SETTINGS ratio_of_defaults_for_sparse_serialization = 0.5"
        )
    )
    engine.run(
        Statement(
            "INSERT INTO t SELECT number, if(number % 1000 = 7, toString(number), ''), if(number % 999 = 5, 0.5, 0) "
            "FROM numbers(200000)"
        )
    )
    result = engine.run(Statement("SELECT text, number FROM t ORDER BY id"))
    expected = [str(n) if n % 1000 == 7 else "" for n in range(200_000)]
    assert result.to_list("text") == expected
    assert result.text_column("text").to_list() == expected
    assert result.floats("number").sum() == sum(0.5 for n in range(200_000) if n % 999 == 5)


def test_null_and_no_rows(engine: NativeEngine) -> None:
    result = engine.run(Statement("SELECT CAST(NULL AS Nullable(Float64)) AS a, toNullable(2.5) AS b, NULL AS c"))
    assert [result.to_list(name) for name in "abc"] == [[None], [2.5], [None]]
    nothing = engine.run(Statement("SELECT 1 AS a, 'x' AS b WHERE 0"))
    assert len(nothing) == 0
    assert nothing.to_list("a") == []
    assert nothing.ints("a").tolist() == []
    assert nothing.text_column("b").to_list() == []


@pytest.mark.parametrize(("rows", "distinct"), [(1, 1), (1000, 2), (1000, 1000), (70_000, 300), (70_000, 70_000)])
def test_a_dictionary_of_any_size_comes_back(engine: NativeEngine, rows: int, distinct: int) -> None:
    engine.run(
        Statement("CREATE TABLE t (id UInt64, low LowCardinality(String), text String) ENGINE = MergeTree ORDER BY id")
    )
    texts = [f"text {row % distinct}" for row in range(rows)]
    ids, column = np.arange(rows, dtype=np.uint64), dict_encode(texts)
    engine.insert(engine.encode("t", {"id": ids, "low": column, "text": column}, token="t1"))
    result = engine.run(Statement("SELECT low, text FROM t ORDER BY id"))
    assert result.to_list("low") == texts
    assert result.to_list("text") == texts


def test_an_insert_is_repeated_with_its_token_and_stored_once(engine: NativeEngine) -> None:
    engine.run(
        Statement(
            "CREATE TABLE t (id UInt64) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 9"
        )
    )
    for token in ("t1", "t1", "t2"):
        engine.insert(engine.encode("t", {"id": np.arange(10, dtype=np.uint64)}, token=token))
    assert engine.run(Statement("SELECT count() AS n FROM t")).to_list("n") == [20]


def test_limits_are_enforced_by_the_server(engine: NativeEngine) -> None:
    with pytest.raises(StoreTimeout):
        engine.run(SLOW, query_limits(0.2))
    limits = query_limits(20.0, rows_max=1000, nbytes_max=LOOKUP_NBYTES_MAX)
    with pytest.raises(InputError, match="at most 1000 are allowed"):
        engine.run(Statement("SELECT sum(number) FROM numbers(100000)"), limits)
    limits = query_limits(20.0, nbytes_max=10_000_000)
    with pytest.raises(InputError, match="more than 10000000 bytes of memory"):
        engine.run(Statement("SELECT groupArray(number) AS n FROM numbers(5000000)"), limits)


def test_a_query_cannot_write(engine: NativeEngine) -> None:
    assert engine.run(Statement("SELECT toInt64(getSetting('readonly')) AS mode")).to_list("mode") == [2]


def test_a_cancelled_query_ends_on_the_server(engine: NativeEngine, server: ClickHouseServer) -> None:
    cancelled = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            engine.run(SLOW, cancelled=cancelled)
        except StoreUnavailable as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: running_queries(server) == 1)
    cancelled.set()
    thread.join()
    assert [str(failure) for failure in failures] == ["the query was cancelled"]
    wait_until(lambda: running_queries(server) == 0)


def test_a_stream_that_is_closed_ends_on_the_server(engine: NativeEngine, server: ClickHouseServer) -> None:
    stream = engine.stream(Statement("SELECT number, sleepEachRow(0.1) FROM numbers(600) SETTINGS max_block_size = 1"))
    assert len(next(stream)) == 1
    stream.close()  # type: ignore[attr-defined]
    wait_until(lambda: running_queries(server) == 0)


def test_a_restarted_server_is_found_again(server: ClickHouseServer, engine: NativeEngine) -> None:
    engine.run(Statement("SELECT 1"))
    server.kill()
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{server.port}"):
        engine.run(Statement("SELECT 1"))
    server.start()
    assert engine.run(Statement("SELECT 1 AS one")).to_list("one") == [1]


def test_another_host_takes_over(server: ClickHouseServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        url = server.new_database().replace("@", f"@127.0.0.1:1,127.0.0.1:{silent.getsockname()[1]},")
        engine = NativeEngine(parse_server_url(f"{url}?connect_timeout_s=2&read_timeout_s=0.5"))
        engine.open()
        assert engine.run(Statement("SELECT 1 AS one")).to_list("one") == [1]
        engine.close()


def test_a_host_that_dies_is_replaced_between_two_queries_and_between_two_inserts(server: ClickHouseServer) -> None:
    with running_clickhouse() as other:
        first = server.new_database()
        database = first.rpartition("/")[2]
        other.query(f"CREATE DATABASE {database} ENGINE = Atomic")
        other.query(f"CREATE TABLE {database}.t (id UInt64) ENGINE = MergeTree ORDER BY id")
        engine = NativeEngine(parse_server_url(first.replace("@", f"@127.0.0.1:{other.port},")))
        engine.open()
        insert = engine.encode("t", {"id": np.arange(3, dtype=np.uint64)}, token="t1")
        engine.insert(insert)
        assert engine.run(Statement("SELECT count() AS n FROM t")).to_list("n") == [3]
        engine.run(Statement("SELECT 1"))
        server.query(f"CREATE DATABASE IF NOT EXISTS {database} ENGINE = Atomic")
        server.query(f"CREATE TABLE {database}.t (id UInt64) ENGINE = MergeTree ORDER BY id")
        other.kill()
        assert engine.run(Statement("SELECT count() AS n FROM t")).to_list("n") == [0]
        engine.insert(insert)
        assert engine.run(Statement("SELECT count() AS n FROM t")).to_list("n") == [3]
        engine.close()
        other.start()


@pytest.fixture
def tls_proxy(server: ClickHouseServer, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A port that speaks TLS and passes everything on to the server, and the certificate to trust."""
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), TlsProxy) as proxy:
        proxy.daemon_threads = True
        proxy.context, proxy.target = context, server.port  # type: ignore[attr-defined]
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield proxy.server_address[1], certificate
        proxy.shutdown()
        thread.join()


class TlsProxy(socketserver.BaseRequestHandler):
    server: Any

    def handle(self) -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.server.target)) as target,
            self.server.context.wrap_socket(self.request, server_side=True) as client,
        ):
            threading.Thread(target=self.copy, args=(target, client), daemon=True).start()
            self.copy(client, target)

    def copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_tls_is_spoken_and_the_certificate_checked(server: ClickHouseServer, tls_proxy: tuple[int, Path]) -> None:
    port, certificate = tls_proxy
    url = server.new_database().replace(f"127.0.0.1:{server.port}", f"localhost:{port}")
    for trusted in (f"?secure=true&ca_certs={certificate}", "?secure=true&verify=false"):
        engine = NativeEngine(parse_server_url(url + trusted))
        engine.open()
        assert engine.run(Statement("SELECT 1 AS one")).to_list("one") == [1]
        engine.close()
    engine = NativeEngine(parse_server_url(url.replace("clickhouse://", "clickhouses://")))
    with pytest.raises(StartupError, match=f"cannot be reached at localhost:{port}: .*[Cc]ertificate"):
        engine.open()


def test_an_older_server_is_refused(server: ClickHouseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vantage.storage.clickhouse.native.VERSION_MIN", (99, 1))
    with pytest.raises(StartupError, match=r"127\.0\.0\.1:\d+ is version 26\.7\.[\d.]+, and 99\.1 is needed"):
        NativeEngine(parse_server_url(server.new_database())).open()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (60, "a table is missing: run `vantage migrate` (Unknown table t.)"),
        (164, "the ClickHouse account may only read (Unknown table t.)"),
        (242, "the ClickHouse table is read-only (Unknown table t.)"),
        (243, "the disk of ClickHouse is full (Unknown table t.)"),
        (252, "ClickHouse has too many parts to merge, and takes no inserts until it has caught up (Unknown table t.)"),
        (516, "ClickHouse does not know the user, or the password is wrong (Unknown table t.)"),
        (9999, "the ClickHouse engine failed: Unknown table t."),
    ],
)
def test_an_error_of_the_server_is_one_line_by_its_code(code: int, text: str) -> None:
    error = RuntimeError(f"Code: {code}.\nDB::Exception: Unknown table\nt. Stack trace:\n\n0. ? @ 0x1")
    assert str(translate_error(error, {})) == text


def test_an_unreachable_server_is_named_without_the_password() -> None:
    engine = NativeEngine(parse_server_url("clickhouse://me:geheim@127.0.0.1:1,127.0.0.1:2/db"))
    with pytest.raises(StartupError) as caught:
        engine.open()
    text = str(caught.value)
    assert "127.0.0.1:1" in text
    assert "127.0.0.1:2" in text
    assert "geheim" not in text
    assert "\n" not in text


def test_a_refused_login_is_one_clear_line(server: ClickHouseServer) -> None:
    engine = NativeEngine(parse_server_url(f"clickhouse://nobody:geheim@127.0.0.1:{server.port}/db"))
    with pytest.raises(StartupError, match="refuses the login: ClickHouse does not know the user, or the password"):
        engine.open()
    server.kill()  # a refused login may end this server
    server.start()
