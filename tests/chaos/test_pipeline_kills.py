"""Any part of the pipeline may die or hang at any moment: what was answered 202 is in ClickHouse exactly once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.clickhouse_server import ClickHouseServer
from tests.support.databases import DatabaseServer, postgres_server, redis_server
from tests.support.kafka_broker import KafkaBroker
from tests.support.mounts import fill, tmpfs
from tests.support.pipeline import Clients, Pipeline, running_pipeline
from tests.support.wait import wait_until

pytest.importorskip("confluent_kafka", reason="pip install 'vantage[kafka]'")
pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")
pytest.importorskip("asyncpg", reason="pip install 'vantage[postgres]'")
pytest.importorskip("redis", reason="pip install 'vantage[redis]'")

LONG = bool(os.environ.get("VANTAGE_TEST_LONG"))
CATCH_UP_S = (
    150.0  # in which something must be stored: a response that got lost is waited for for 60 s (read_timeout_s)
)
HANG_WORKER_S = 9.0  # longer than the broker waits for a member of the group
HANG_S = 4.0
# A merge that meets the end of the disk leaves a part that cannot be read: some stays free, as in deploy/clickhouse.
LEFT_NBYTES = 32 << 20
KEEP_FREE = (
    "<clickhouse><storage_configuration><disks><default>"
    f"<keep_free_space_bytes>{2 * LEFT_NBYTES}</keep_free_space_bytes>"
    "</default></disks></storage_configuration></clickhouse>"
)
PAUSE_S = 0.02 if LONG else 0.05
FAULTS = int(os.environ.get("VANTAGE_TEST_FAULTS", "100"))


def seeded() -> random.Random:
    """Return a source of chance whose seed is printed."""
    seed = int(os.environ.get("VANTAGE_TEST_SEED") or time.time_ns() % 2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def kill_worker(pipeline: Pipeline, name: str = "worker1") -> None:
    pipeline.servers[name].kill()
    pipeline.restart(name)


def kill_ingest(pipeline: Pipeline) -> None:
    pipeline.servers["ingest1"].kill()
    time.sleep(0.5)
    pipeline.restart("ingest1")


def kill_clickhouse(pipeline: Pipeline) -> None:
    pipeline.clickhouse.kill()
    time.sleep(0.5)
    pipeline.clickhouse.start()


def kill_broker(pipeline: Pipeline) -> None:
    pipeline.broker.kill()
    time.sleep(0.5)
    pipeline.broker.start()


def check_exactly_once(pipeline: Pipeline, batches: int) -> None:
    """Compare what is stored with what was acknowledged, to the sample."""
    expected = batches * Clients.SAMPLES

    def stored() -> int:
        return int(pipeline.query("SELECT count() FROM samples"))

    try:
        while (before := stored()) < expected:  # there may be much to catch up with; it goes on
            wait_until(lambda before=before: stored() > before, CATCH_UP_S, 0.2)
        wait_until(lambda: all(lag == 0 for lag in lags(pipeline)), CATCH_UP_S, 0.2)
    except AssertionError:
        print(f"expected {expected}, stored {pipeline.query('SELECT count() FROM samples')}, lags {lags(pipeline)}")
        print(f"batches {batches}, stored {pipeline.query('SELECT uniqExact(batch_id) FROM batch_ids')}")
        for name, server in pipeline.servers.items():
            print(f"{name}: {server.get('/health').body.decode()}\n{server.output[-4000:]}")
        print(pipeline.broker.log())
        raise
    for text, count in {
        "count() FROM samples": expected,
        "uniqExact(value) FROM samples": expected,
        "sum(count) FROM rollups_5m": expected,
        "sum(count) FROM rollups_1h": expected,
        "sum(count) FROM red_5m WHERE level = 'service' AND source != 'spans'": expected,
        "sum(count) FROM red_1h WHERE level = 'service' AND source != 'spans'": expected,
        "uniqExact(batch_id) FROM batch_ids": batches,
    }.items():
        assert pipeline.query(f"SELECT {text}") == str(count), text


def lags(pipeline: Pipeline) -> list[float]:
    """Return the lag of each partition, as the workers report it."""
    return [
        value
        for name, server in pipeline.servers.items()
        if name.startswith("worker")
        for metric, value in server.counts().items()
        if metric.startswith("vantage_worker_kafka_lag")
    ]


@pytest.mark.timeout(3600)
def test_a_worker_that_is_killed_again_and_again_stores_everything_once(tmp_path: Path) -> None:
    """One partition, one worker: kills of the worker, and fewer of ClickHouse and of the broker."""
    chance = seeded()
    kills: list[Callable[[Pipeline], None]] = [kill_worker] * (50 if LONG else 3)
    kills += [kill_clickhouse, kill_broker] * (10 if LONG else 1)
    chance.shuffle(kills)
    # Short ranges, so that a kill is likely to meet one.
    environ = {"VANTAGE_BATCH_WAIT_S": "0.1", "VANTAGE_BATCH_ROWS": "200"}
    with running_pipeline(tmp_path, "worker1", "ingest1", partitions=1, environ=environ) as pipeline:
        # One worker with short ranges is slow, and must catch up in the end.
        clients = Clients(pipeline, ("ingest1",), clients=3, pause_s=0.1 if LONG else 0.05)
        clients.start()
        try:
            for kill in kills:
                time.sleep(chance.uniform(0.1, 2.0))
                kill(pipeline)
        finally:
            batches = clients.stop()
        assert batches > 10 * len(kills)
        check_exactly_once(pipeline, batches)


class Faults:
    """What may happen to the parts of a pipeline: each dies, hangs or has no space left, and returns."""

    def __init__(self, pipeline: Pipeline, databases: dict[str, DatabaseServer], disks: dict[str, Path]) -> None:
        self._pipeline, self._databases, self._disks = pipeline, databases, disks

    def known(self) -> dict[str, Callable[[], None]]:
        """Return the faults by name."""
        pipeline = self._pipeline
        faults: dict[str, Callable[[], None]] = {
            "kill worker1": lambda: kill_worker(pipeline),
            "hang worker2": lambda: self._hang_server("worker2", HANG_WORKER_S),
            "kill ingest1": lambda: kill_ingest(pipeline),
            "hang ingest2": lambda: self._hang_server("ingest2", HANG_S),
            "kill api1": self._kill_api,
            "hang api2": lambda: self._hang_server("api2", HANG_S),
            "kill broker": lambda: kill_broker(pipeline),
            "hang broker": lambda: self._hang(pipeline.broker),
            "kill clickhouse": lambda: kill_clickhouse(pipeline),
            "hang clickhouse": lambda: self._hang(pipeline.clickhouse),
            "fill the disk of the broker": self._fill_disk_of_broker,
            "fill the disk of clickhouse": lambda: self._fill_disk("clickhouse"),
        }
        for name, server in self._databases.items():
            faults[f"kill {name}"] = lambda server=server: self._kill(server)
            faults[f"hang {name}"] = lambda server=server: self._hang(server)
        return faults

    def _kill_api(self) -> None:
        self._pipeline.servers["api1"].kill()
        self._pipeline.restart("api1")

    def _hang_server(self, name: str, for_s: float) -> None:
        process = self._pipeline.servers[name].process
        process.send_signal(signal.SIGSTOP)
        time.sleep(for_s)
        process.send_signal(signal.SIGCONT)

    def _hang(self, server: DatabaseServer | KafkaBroker | ClickHouseServer) -> None:
        server.pause()
        time.sleep(HANG_S)
        server.resume()

    def _kill(self, server: DatabaseServer) -> None:
        server.kill()
        time.sleep(0.5)
        server.start()

    def _fill_disk(self, name: str) -> None:
        filler = fill(self._disks[name], leave_nbytes=LEFT_NBYTES if name == "clickhouse" else 0)
        time.sleep(HANG_S)
        filler.unlink()

    def _fill_disk_of_broker(self) -> None:
        """Kafka ends when its only folder cannot be written: a supervisor would start it again."""
        self._fill_disk("broker")
        self._pipeline.broker.kill()
        self._pipeline.broker.start()


def acknowledged_by_api(pipeline: Pipeline, batches: int) -> None:
    """Check that both API servers answer with all that was acknowledged."""
    for name in ("api1", "api2"):
        answer = pipeline.servers[name].send({"query": "SELECT count() AS n FROM metrics"}, "/vql/execute")
        assert answer.json()["rows"] == [[batches * Clients.SAMPLES]], (name, answer)


@pytest.mark.timeout(7200)
def test_whatever_dies_hangs_or_has_no_space_nothing_is_lost_or_stored_twice(tmp_path: Path) -> None:
    """Two of each role; metadata in PostgreSQL and rates in Redis."""
    chance = seeded()
    with ExitStack() as stack:
        disks = {name: stack.enter_context(tmpfs(tmp_path / name, "size=1g")) for name in ("broker", "clickhouse")}
        postgres, redis = stack.enter_context(postgres_server()), stack.enter_context(redis_server())
        environ = {
            "VANTAGE_BATCH_WAIT_S": "0.2",
            "VANTAGE_METADATA_URL": postgres.url(postgres.new_database()),
            "VANTAGE_RATE_LIMIT_URL": f"redis://127.0.0.1:{redis.port}/0",
            "VANTAGE_INGEST_RATE_LIMIT": "1000000",
        }
        names = ("worker1", "worker2", "ingest1", "ingest2", "api1", "api2")
        config = tmp_path / "clickhouse.xml"
        config.write_text(KEEP_FREE)
        pipeline = stack.enter_context(
            running_pipeline(tmp_path, *names, disks=disks, clickhouse_config=config, environ=environ)
        )
        known = Faults(pipeline, {"postgres": postgres, "redis": redis}, disks).known()
        faults = chance.choices(list(known), k=FAULTS) if LONG else chance.sample(list(known), 4)
        clients = Clients(pipeline, ("ingest1", "ingest2"), clients=4, pause_s=PAUSE_S)
        clients.start()
        try:
            for number, fault in enumerate(faults):
                print(f"{time.strftime('%H:%M:%S')} {number} {fault}: {clients.acknowledged} acknowledged", flush=True)
                time.sleep(chance.uniform(0.2, 2.0))
                known[fault]()
        finally:
            batches = clients.stop()
        print(f"{batches} batches acknowledged, answers {clients.answers}")
        assert batches > 10 * len(faults)
        check_exactly_once(pipeline, batches)
        acknowledged_by_api(pipeline, batches)


@pytest.mark.timeout(600)
def test_a_rolling_restart_of_every_role_loses_nothing_and_serves_throughout(tmp_path: Path) -> None:
    names = ("worker1", "worker2", "ingest1", "ingest2", "api1", "api2")
    with running_pipeline(tmp_path, *names, environ={"VANTAGE_BATCH_WAIT_S": "0.2"}) as pipeline:
        clients = Clients(pipeline, ("ingest1", "ingest2"), clients=2, pause_s=PAUSE_S)
        clients.start()
        try:
            for name in names:
                other = name[:-1] + str(3 - int(name[-1]))
                assert pipeline.servers[name].stop() == 0
                assert pipeline.servers[other].get("/health/ready").status == 200
                pipeline.restart(name)
        finally:
            batches = clients.stop()
        check_exactly_once(pipeline, batches)
