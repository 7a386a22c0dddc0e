"""Prometheus, from Debian's package, over remote write."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import cramjam
import numpy as np

from benchmarks.storage.data import Columns, Plan, all_series, windows
from benchmarks.storage.promql import PromqlStore, Server, promql_name
from benchmarks.storage.subject import Loaded, Stopwatch, nbytes
from vantage.core.arrays import F64, I64
from vantage.core.series import Series

COMPACTING_S_MAX: Final = 180
HEAD_S_MAX: Final = 3 * 3600  # Prometheus cuts a block once its head spans one and a half blocks of two hours
_RANGES: Final = {"1m": "59s999ms", "5m": "4m59s999ms", "1h": "59m59s999ms"}  # both ends of a range belong to it
_HEADERS: Final = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}


class Prometheus(PromqlStore):
    """One request per batch. The size is measured once the head is compacted into blocks, including the log."""

    binary = "prometheus"
    ready = "/-/ready"
    ranges = _RANGES

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._labels = [_labels(series) for series in all_series()]

    def command(self, port: int) -> list[str]:
        return [
            self.binary,
            f"--config.file={self._config()}",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--storage.tsdb.path={self._folder}",
            "--storage.tsdb.retention.time=10y",
            "--web.enable-remote-write-receiver",
            "--log.level=warn",
        ]

    def _config(self) -> Path:
        path = self._folder.parent / "prometheus.yml"
        path.write_text("global: {scrape_interval: 1h}\n", encoding="utf-8")
        return path

    def load(self, plan: Plan) -> Loaded:
        server = self.start()
        insert, finish = Stopwatch(server.cpu_s), Stopwatch(server.cpu_s)
        try:
            for window in windows(plan):
                bodies = [bytes(cramjam.snappy.compress_raw(self._body(batch))) for batch in window.batches()]
                with insert:
                    for body in bodies:
                        server.send("POST", "/api/v1/write", body, _HEADERS)
            with finish:
                compacted = _wait(server)
        finally:
            server.stop()
        sizes = {"total": nbytes(self._folder)}
        unsealed = nbytes(self._folder, "wal/**/*") + nbytes(self._folder, "chunks_head/**/*")
        note = f"{unsealed / plan.samples:.2f} bytes a sample are the log and the head of the last hours"
        note += "" if compacted else "; compaction had not finished"
        return Loaded(insert.wall_s, insert.cpu_s, finish.wall_s, finish.cpu_s, sizes, note)

    def _body(self, batch: Columns) -> bytes:
        """A ``WriteRequest``: timeseries=1 {labels=1, samples=2 {value=1 double, timestamp=2 int64}}."""
        order = np.argsort(batch.index, kind="stable")
        samples = _samples(batch.time_ms[order], batch.value[order])
        series, starts = np.unique(batch.index[order], return_index=True)
        parts: list[bytes] = []
        for which, start, end in zip(series.tolist(), starts.tolist(), [*starts[1:].tolist(), len(batch)], strict=True):
            timeseries = self._labels[which] + samples[start * _SAMPLE_NBYTES : end * _SAMPLE_NBYTES]
            parts += (b"\x0a", _varint(len(timeseries)), timeseries)
        return b"".join(parts)


_SAMPLE_NBYTES: Final = 18


def _samples(time_ms: I64, value: F64) -> bytes:
    """Encode samples as messages of 16 bytes: present times take 6 bytes as varints."""
    assert 1 << 35 <= time_ms.min() <= time_ms.max() < 1 << 42
    rows = np.empty((len(time_ms), _SAMPLE_NBYTES), np.uint8)
    rows[:, :3] = (0x12, 16, 0x09)
    rows[:, 3:11] = np.ascontiguousarray(value).view(np.uint8).reshape(-1, 8)
    rows[:, 11] = 0x10
    rows[:, 12:] = time_ms[:, None] >> np.arange(0, 42, 7) & 127 | (128, 128, 128, 128, 128, 0)
    return rows.tobytes()


def _labels(series: Series) -> bytes:
    pairs = {
        "__name__": promql_name(series.metric),
        "service_name": series.service,
        "environment": series.environment,
        **dict(series.tags),
    }
    encoded = b""
    for name, value in sorted(pairs.items()):
        label = _text(0x0A, name) + _text(0x12, value)
        encoded += b"\x0a" + _varint(len(label)) + label
    return encoded


def _text(tag: int, text: str) -> bytes:
    raw = text.encode()
    return bytes((tag,)) + _varint(len(raw)) + raw


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _wait(server: Server) -> bool:
    """Wait until the head is compacted. Return whether that was reached in time."""
    end_s = time.monotonic() + COMPACTING_S_MAX
    while time.monotonic() < end_s:
        metrics = dict(
            line.rsplit(" ", 1) for line in server.send("GET", "/metrics").decode().splitlines() if line[:1] != "#"
        )
        spans_s = float(metrics["prometheus_tsdb_head_max_time_seconds"]) - float(
            metrics["prometheus_tsdb_head_min_time_seconds"]
        )
        if spans_s <= HEAD_S_MAX:
            return True
        time.sleep(0.5)
    return False
