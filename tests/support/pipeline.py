"""The split roles as processes: a broker, ClickHouse, a metadata database, and any number of each role."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.clickhouse_server import ClickHouseServer, running_clickhouse
from tests.support.kafka_broker import KafkaBroker, running_kafka
from tests.support.load import NO_RATES
from tests.support.server import Server


@dataclass(slots=True)
class Pipeline:
    """Servers by the name of their role and a number, such as ``worker1``. ``database`` is that in ClickHouse."""

    broker: KafkaBroker
    clickhouse: ClickHouseServer
    folder: Path
    environ: dict[str, str]
    database: str
    servers: dict[str, Server] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)  # what servers wrote that are gone

    def start(self, *names: str) -> None:
        """Start servers, and wait until they are ready."""
        started = {}
        for name in names:
            folder = self.folder / name
            folder.mkdir(exist_ok=True)
            options = ("--role", name.rstrip("0123456789"))
            started[name] = Server(folder / "data", *options, environ=self.environ)
        try:
            for name, server in started.items():
                self.servers[name] = server.wait_ready()
        except BaseException:
            for server in started.values():
                server.stop()
            raise

    def restart(self, name: str) -> None:
        """Start a server again that has ended; as a supervisor would, again if ClickHouse ends meanwhile."""
        self.ended.append(self.servers[name].output)
        for attempts_left in range(4, -1, -1):
            self.clickhouse.revive()
            try:
                self.start(name)
            except AssertionError as error:
                if not attempts_left or "ClickHouse" not in str(error):
                    raise
            else:
                return

    def query(self, text: str) -> str:
        """Ask ClickHouse; tables are those of the database."""
        self.clickhouse.revive()
        return self.clickhouse.query(text.replace("FROM ", f"FROM {self.database}."))

    def stop(self) -> None:
        """End all servers."""
        for server in self.servers.values():
            if server.process.poll() is None:
                server.stop()


@contextlib.contextmanager
def running_pipeline(
    folder: Path,
    *names: str,
    partitions: int = 4,
    disks: Mapping[str, Path] | None = None,
    clickhouse_config: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Pipeline]:
    """Run the broker, ClickHouse and the named servers. ``disks`` are folders for the data of broker and ClickHouse."""
    within = disks or {}
    with (
        running_kafka(within=within.get("broker")) as broker,
        running_clickhouse(config=clickhouse_config, within=within.get("clickhouse")) as clickhouse,
    ):
        url = clickhouse.new_database()
        settings = {
            **NO_RATES,
            "VANTAGE_BROKER_URL": broker.url,
            "VANTAGE_STORE_URL": url,
            "VANTAGE_METADATA_URL": f"sqlite:///{folder / 'metadata.db'}",
            "VANTAGE_KAFKA_PARTITIONS": str(partitions),
            "VANTAGE_SELF_TELEMETRY": "false",
            "VANTAGE_SYNCHRONOUS": "NORMAL",  # the kernel survives: what it has need not be on the disk
            **(environ or {}),
        }
        pipeline = Pipeline(broker, clickhouse, folder, settings, url.rpartition("/")[2])
        try:
            pipeline.start(*names)
            yield pipeline
        finally:
            pipeline.stop()


class Clients:
    """Threads that send batches with ids, each until it is acknowledged, and some of them again afterwards.

    Values are distinct: ``value`` names client, batch and sample.
    """

    SAMPLES = 20

    def __init__(self, pipeline: Pipeline, ingests: tuple[str, ...], *, clients: int, pause_s: float = 0.02) -> None:
        self._pipeline = pipeline
        self._ingests = ingests
        self._pause_s = pause_s
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(clients)]
        self.acknowledged = 0
        self.answers: dict[int, int] = {}

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> int:
        """Stop when the batch of each client is acknowledged; return how many batches were."""
        self._done.set()
        for thread in self._threads:
            thread.join()
        return self.acknowledged

    def _send(self, client: int) -> None:
        number = 0
        while not self._done.is_set():
            self._until_acknowledged(client, number)
            if number % 7 == 0:
                self._until_acknowledged(client, number)
            number += 1
            with self._lock:
                self.acknowledged += 1
            time.sleep(self._pause_s)

    def _until_acknowledged(self, client: int, number: int) -> None:
        batch_id = f"c{client}-{number}"
        first = (client * 1_000_000 + number) * self.SAMPLES
        samples = [
            {"metric_name": f"m{n % 4}", "metric_type": "histogram", "value": first + n} for n in range(self.SAMPLES)
        ]
        payload = {"service_name": f"s{client}", "metrics": samples}
        attempt = client
        while True:
            server = self._pipeline.servers[self._ingests[attempt % len(self._ingests)]]
            attempt += 1
            try:
                status = server.send(payload, Idempotency_Key=batch_id).status
            except OSError:
                status = 0
            with self._lock:
                self.answers[status] = self.answers.get(status, 0) + 1
            if status == 202:
                return
            assert status in (0, 503), status
            time.sleep(0.1)
