"""Any part of the pipeline may die or hang at any moment: what was answered 202 is in ClickHouse exactly once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.pipeline import Clients, Pipeline, running_pipeline
from tests.support.wait import wait_until

pytest.importorskip("confluent_kafka", reason="pip install 'vantage[kafka]'")
pytest.importorskip("clickhouse_driver", reason="pip install 'vantage[clickhouse]'")

LONG = bool(os.environ.get("VANTAGE_TEST_LONG"))
CATCH_UP_S = 120.0
HANG_WORKER_S = 9.0  # longer than the broker waits for a member of the group
HANG_BROKER_S = 4.0


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


def hang_worker(pipeline: Pipeline) -> None:
    """Hang until its partitions have gone to the other worker."""
    process = pipeline.servers["worker2"].process
    process.send_signal(signal.SIGSTOP)
    time.sleep(HANG_WORKER_S)
    process.send_signal(signal.SIGCONT)


def hang_broker(pipeline: Pipeline) -> None:
    pipeline.broker.pause()
    time.sleep(HANG_BROKER_S)
    pipeline.broker.resume()


def check_exactly_once(pipeline: Pipeline, batches: int) -> None:
    """Compare what is stored with what was acknowledged, to the sample."""
    expected = batches * Clients.SAMPLES

    def stored() -> bool:
        return int(pipeline.query("SELECT count() FROM samples")) >= expected

    wait_until(stored, CATCH_UP_S, 0.2)
    wait_until(lambda: all(lag == 0 for lag in lags(pipeline)), CATCH_UP_S, 0.2)
    for text, count in {
        "count() FROM samples": expected,
        "uniqExact(value) FROM samples": expected,
        "sum(count) FROM rollups_5m": expected,
        "sum(count) FROM rollups_1h": expected,
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


@pytest.mark.timeout(1800)
def test_a_worker_that_is_killed_again_and_again_stores_everything_once(tmp_path: Path) -> None:
    """One partition, one worker: kills of the worker, and fewer of ClickHouse and of the broker."""
    chance = seeded()
    kills: list[Callable[[Pipeline], None]] = [kill_worker] * (50 if LONG else 5)
    kills += [kill_clickhouse, kill_broker] * (10 if LONG else 1)
    chance.shuffle(kills)
    # Short ranges, so that a kill is likely to meet one.
    environ = {"VANTAGE_BATCH_WAIT_S": "0.1", "VANTAGE_BATCH_ROWS": "200"}
    with running_pipeline(tmp_path, "worker1", "ingest1", partitions=1, **environ) as pipeline:
        clients = Clients(pipeline, ("ingest1",), clients=3)
        clients.start()
        try:
            for kill in kills:
                time.sleep(chance.uniform(0.1, 2.0))
                kill(pipeline)
        finally:
            batches = clients.stop()
        assert batches > 10 * len(kills)
        check_exactly_once(pipeline, batches)


@pytest.mark.timeout(3600)
def test_whatever_dies_or_hangs_nothing_is_lost_or_stored_twice(tmp_path: Path) -> None:
    """Two of each but the API, which answers throughout."""
    chance = seeded()
    known: list[Callable[[Pipeline], None]] = [
        kill_worker,
        hang_worker,
        kill_ingest,
        kill_broker,
        hang_broker,
        kill_clickhouse,
    ]
    faults = chance.choices(known, k=100) if LONG else chance.sample(known, 5)
    names = ("worker1", "worker2", "ingest1", "ingest2", "api1")
    with running_pipeline(tmp_path, *names, VANTAGE_BATCH_WAIT_S="0.2") as pipeline:
        clients = Clients(pipeline, ("ingest1", "ingest2"), clients=4)
        clients.start()
        try:
            for fault in faults:
                print(fault.__name__)
                time.sleep(chance.uniform(0.2, 2.0))
                fault(pipeline)
        finally:
            batches = clients.stop()
        check_exactly_once(pipeline, batches)
        answer = pipeline.servers["api1"].send({"query": "SELECT count() AS n FROM metrics"}, "/vql/execute")
        assert answer.json()["rows"] == [[batches * Clients.SAMPLES]]


@pytest.mark.timeout(600)
def test_a_rolling_restart_of_every_role_loses_nothing_and_serves_throughout(tmp_path: Path) -> None:
    names = ("worker1", "worker2", "ingest1", "ingest2", "api1", "api2")
    with running_pipeline(tmp_path, *names, VANTAGE_BATCH_WAIT_S="0.2") as pipeline:
        clients = Clients(pipeline, ("ingest1", "ingest2"), clients=2)
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
