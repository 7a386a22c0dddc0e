"""VictoriaMetrics, one node, from Debian's package."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.storage.data import Columns, Plan, all_series, windows
from benchmarks.storage.promql import PromqlStore, promql_name
from benchmarks.storage.subject import Loaded, Stopwatch, nbytes

QUIET_S: Final = 2.0


class VictoriaMetrics(PromqlStore):
    """InfluxDB's line protocol over HTTP, one request per batch."""

    binary = "victoria-metrics"
    path = "/write?precision=ms"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._names = [
            f"{promql_name(series.metric)},service_name={series.service},"
            + ",".join(f"{key}={value}" for key, value in (("environment", series.environment), *series.tags))
            + " value="
            for series in all_series()
        ]

    def command(self, port: int) -> list[str]:
        return [
            self.binary,
            f"-httpListenAddr=127.0.0.1:{port}",
            f"-storageDataPath={self._folder}",
            "-retentionPeriod=10y",
            "-influxSkipSingleField",
            "-search.disableCache",
            "-search.latencyOffset=0s",
            "-loggerLevel=WARN",
        ]

    def load(self, plan: Plan) -> Loaded:
        server = self.start()
        insert, finish = Stopwatch(server.cpu_s), Stopwatch(server.cpu_s)
        try:
            for window in windows(plan):
                bodies = [self._body(batch) for batch in window.batches()]
                with insert:
                    for body in bodies:
                        server.send("POST", self.path, body)
            with finish:
                server.send("GET", "/internal/force_flush")
                server.send("GET", "/internal/force_merge")
            finish.wall_s += _until_quiet(lambda: nbytes(self._folder, "data/**/*"))
        finally:
            server.stop()
        sizes = {"total": nbytes(self._folder), "samples": nbytes(self._folder, "data/**/*")}
        return Loaded(insert.wall_s, insert.cpu_s, finish.wall_s, finish.cpu_s, sizes)

    def _body(self, batch: Columns) -> bytes:
        names = self._names
        columns = zip(batch.index.tolist(), batch.value.tolist(), batch.time_ms.tolist(), strict=True)
        return "\n".join([f"{names[which]}{value!r} {at_ms}" for which, value, at_ms in columns]).encode()


def _until_quiet(size: Callable[[], int]) -> float:
    """Wait until background merging stops changing the size. Return for how many seconds it changed."""
    began_s = since_s = time.monotonic()
    last = size()
    while time.monotonic() - since_s < QUIET_S:
        time.sleep(0.1)
        if (now := size()) != last:
            last, since_s = now, time.monotonic()
    return since_s - began_s
