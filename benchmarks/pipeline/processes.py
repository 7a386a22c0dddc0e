"""The processes of the pipeline: servers in a role, and how much CPU time each program has taken."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any, Final

import psutil

from tests.support.clickhouse_server import ClickHouseServer
from tests.support.kafka_broker import KafkaBroker
from tests.support.load import NO_RATES
from tests.support.server import Server


class Stage:
    """A broker, ClickHouse with a database of its own, and servers with default settings but for the rates. All wait
    for the disk as they do by default."""

    def __init__(self, work: Path, broker: KafkaBroker, clickhouse: ClickHouseServer, *, partitions: int) -> None:
        self.broker = broker
        self.clickhouse = clickhouse
        url = clickhouse.new_database()
        self.database: Final = url.rpartition("/")[2]
        self._work = work / self.database
        self._work.mkdir()
        self.environ = {
            **NO_RATES,
            "VANTAGE_BROKER_URL": broker.url,
            "VANTAGE_STORE_URL": url,
            "VANTAGE_METADATA_URL": f"sqlite:///{self._work / 'metadata.db'}",
            "VANTAGE_KAFKA_PARTITIONS": str(partitions),
            "VANTAGE_LOG_LEVEL": "warning",
        }

    @contextlib.contextmanager
    def serving(self, *roles: str, **environ: str) -> Iterator[list[Server]]:
        """Start a server of each role; they may not be ready yet."""
        servers: list[Server] = []
        try:
            for number, role in enumerate(roles):
                folder = self._work / f"{role}{number}"
                folder.mkdir(exist_ok=True)
                servers.append(Server(folder / "data", "--role", role, environ={**self.environ, **environ}))
            yield servers
        finally:
            for server in servers:
                server.stop()

    def stored(self) -> int:
        """Return how many samples are stored."""
        return int(
            self.clickhouse.query(
                "SELECT sum(rows) FROM system.parts WHERE active AND table = 'samples' "
                f"AND database = '{self.database}'"
            )
        )

    def stored_nbytes(self) -> dict[str, int]:
        """Merge each table into one part, and return the bytes by table."""
        sizes = f"SELECT table, sum(bytes_on_disk) FROM system.parts WHERE active AND database = '{self.database}'"
        tables = [line.split("\t")[0] for line in self.clickhouse.query(f"{sizes} GROUP BY table").splitlines()]
        for table in tables:
            self.clickhouse.query(f"OPTIMIZE TABLE {self.database}.{table} FINAL")
        lines = self.clickhouse.query(f"{sizes} GROUP BY table").splitlines()
        return {table: int(size) for table, size in (line.split("\t") for line in lines)}


def cpu_s(process: Popen[Any] | None) -> float:
    """Return the CPU seconds of a process so far."""
    assert process is not None
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def move_to_second_core(process: Popen[Any] | None) -> None:
    """Let every thread of a process run on the second core alone, as the load does."""
    assert process is not None
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        for thread in psutil.Process(process.pid).threads():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, {1})
