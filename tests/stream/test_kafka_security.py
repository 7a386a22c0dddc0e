"""Logins and TLS on a real broker: batches arrive, and what is set wrongly is one line that names the setting."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest
from structlog.testing import capture_logs

from tests.support.certificate import make_certificate
from tests.support.kafka_broker import MECHANISMS, PASSWORD, KafkaBroker, running_kafka
from tests.support.samples import a_batch
from tests.support.server import Answer, Server, serving, vantage
from tests.support.wait import until, wait_until
from vantage.core.clock import SystemClock
from vantage.core.errors import ConfigError, UnavailableError
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.stream.kafka.client import Topics, parse_url
from vantage.stream.kafka.sink import KafkaSink
from vantage.stream.kafka.source import KafkaSource
from vantage.stream.kafka.topic_settings import TopicSettings
from vantage.stream.ports import Message

WRONG = "wr0ng-p4ssw0rd"
TOPICS = (TopicSettings(name=f"topic-{number}", partitions=1) for number in count())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def broker(certificate: tuple[Path, Path]) -> Iterator[KafkaBroker]:
    pytest.importorskip("confluent_kafka", reason="pip install 'vantage[kafka]'")
    with running_kafka(certificate=certificate) as broker:
        yield broker


@contextmanager
def an_http_server() -> Iterator[int]:
    """Run a server that answers in another protocol; yield its port."""

    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name in the base class
            del format, arguments

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def a_closing_server() -> Iterator[int]:
    """Run a server that closes each connection; yield its port."""
    server = ThreadingTCPServer(("127.0.0.1", 0), BaseRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("listener", "mechanism"),
    [("SSL", ""), ("SASL_PLAINTEXT", "SCRAM-SHA-512"), *(("SASL_SSL", mechanism) for mechanism in MECHANISMS)],
)
async def test_a_batch_is_published_and_consumed(
    broker: KafkaBroker, certificate: tuple[Path, Path], listener: str, mechanism: str
) -> None:
    options = [f"ca={certificate[0]}"] * listener.endswith("SSL") + [f"sasl={mechanism}"] * bool(mechanism)
    url, topic = parse_url(broker.secured_url(listener, "?" + "&".join(options))), next(TOPICS)
    fetched: list[Message] = []
    async with (
        KafkaSink(url, topic, acks="all", compression="lz4", nbytes_max=1 << 20) as sink,
        MemoryMetadataStore(SystemClock()) as positions,
        KafkaSource(url, topic, positions, group=topic.name) as source,
    ):
        await sink.publish(a_batch(1.0, 2.0, batch_id="b"))

        async def received() -> bool:
            fetched.extend(await source.fetch(0.2))
            return bool(fetched)

        await until(received)
        await source.reject(fetched[0], "a dead letter takes the same way")
    assert [message.batch and message.batch.batch_id for message in fetched] == ["b"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a wrong password", "refuses the login: check user and password of broker_url"),
        ("a wrong password for SCRAM", "refuses the login: check user and password of broker_url"),
        ("a login where none is known", "refuses the login: check sasl of broker_url"),
        ("no login", "wants a login: put user:password@ before the hosts of broker_url"),
        ("an authority that is not known", "its authority is not known: .* as ca=FILE"),
        ("a port for TLS", r"speaks TLS: add \?tls=true to broker_url"),
        ("a port for TLS with a login", r"speaks TLS: add \?tls=true to broker_url"),
        ("a port without TLS", "does not speak TLS: leave tls and ca out of broker_url"),
        ("an HTTP server", "is an HTTP server and not a Kafka broker: check the hosts of broker_url"),
        ("a load balancer without brokers", "does not answer$"),
        ("a name that is not known", "cannot be resolved: check the hosts of broker_url"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_setting(
    broker: KafkaBroker, certificate: tuple[Path, Path], tmp_path: Path, name: str, reason: str
) -> None:
    ca = f"?ca={certificate[0]}"
    ports = broker.ports
    with an_http_server() as http_port, a_closing_server() as closing_port, capture_logs() as logs:
        url = {
            "a wrong password": broker.secured_url("SASL_SSL", ca, WRONG),
            "a wrong password for SCRAM": broker.secured_url("SASL_PLAINTEXT", "?sasl=SCRAM-SHA-256", WRONG),
            "a login where none is known": f"kafka://user:{WRONG}@127.0.0.1:{ports['PLAINTEXT']}",
            "no login": f"kafka://127.0.0.1:{ports['SASL_PLAINTEXT']}",
            "a port for TLS": f"kafka://127.0.0.1:{ports['SSL']}",
            "a port for TLS with a login": f"kafka://user:{WRONG}@127.0.0.1:{ports['SASL_SSL']}",
            "a port without TLS": f"kafka://127.0.0.1:{ports['PLAINTEXT']}{ca}",
            "an HTTP server": f"kafka://127.0.0.1:{http_port}",
            "a load balancer without brokers": f"kafka://127.0.0.1:{closing_port}",
            "a name that is not known": "kafka://no-host.invalid",
        }.get(name) or broker.secured_url("SSL", f"?ca={make_certificate(tmp_path)[0]}")
        topics = Topics(parse_url(url), TopicSettings())
        lines = []
        for _ in range(2):  # what takes long to see is in the second
            with pytest.raises(UnavailableError) as failure:
                topics.ping()
            lines.append(str(failure.value))
    assert re.search(reason, lines[-1]), lines
    logged = [line["reason"] for line in logs if line["event"] == "broker"]
    assert logged[-1] == lines[-1]
    assert len(set(logged)) == len(logged) <= 2
    assert all(WRONG not in line and PASSWORD not in line and "\n" not in line for line in lines + logged)


@pytest.mark.parametrize(("content", "reason"), [(None, "cannot be read"), ("no certificate", "contains no certif")])
async def test_a_file_of_certificates_that_is_none_is_an_error_of_the_settings(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    sink = KafkaSink(
        parse_url(f"kafka://127.0.0.1:1?ca={file}"), TopicSettings(), acks="all", compression="lz4", nbytes_max=1
    )
    with pytest.raises(ConfigError, match=f"^broker_url: ca={file} {reason}"):
        async with sink:
            pass
    if content is not None:
        return
    done = await asyncio.to_thread(
        vantage, "serve", "--port", "0", cwd=tmp_path, environ={"VANTAGE_BROKER_URL": f"kafka://127.0.0.1:1?ca={file}"}
    )
    assert done.returncode == 1
    assert f"broker_url: ca={file} {reason}" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_server_with_a_wrong_password_refuses_batches_and_loses_none(
    broker: KafkaBroker, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    options = f"?ca={certificate[0]}&sasl=SCRAM-SHA-512"

    def environ(password: str) -> dict[str, str]:
        return {
            "VANTAGE_BROKER_URL": broker.secured_url("SASL_SSL", options, password),
            "VANTAGE_SELF_TELEMETRY": "false",
        }

    def send(server: Server) -> int:
        payload = {"service_name": "s", "metrics": [{"metric_name": "m", "metric_type": "gauge", "value": 7}]}
        return server.send(payload, Idempotency_Key="b").status

    with serving(tmp_path / "data", environ=environ(WRONG)) as server:
        assert send(server) == 503

        def both_down() -> Answer | None:
            health = server.get("/health")
            parts = health.json()["dependencies"]
            return health if parts["broker"]["status"] == parts["consumer"]["status"] == "down" else None

        health = wait_until(both_down)
        assert health.status == 503
        assert {name for name, part in health.json()["dependencies"].items() if part["status"] == "up"} == {
            "store",
            "metadata",
        }
        for part in ("broker", "consumer"):
            assert "check user and password of broker_url" in health.json()["dependencies"][part]["detail"]
        assert "check user and password of broker_url" in server.get("/pipeline").body.decode()
        output, body = server, health.body.decode()
    assert WRONG not in output.output + body
    with serving(tmp_path / "data", environ=environ(PASSWORD)) as server:
        assert send(server) == 202
        assert send(server) == 202
        wait_until(lambda: server.total("s", "m") == (1, 7.0))
        assert server.get("/health").status == 200
