"""Payloads, and commands that start servers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.baselines.key import KEY
from benchmarks.rounds import PYTHON

RATES: Final = {"VANTAGE_INGEST_RATE_LIMIT": "0", "VANTAGE_API_KEY": KEY, "VANTAGE_LOG_LEVEL": "warning"}
PACKED: Final = "application/vnd.vantage.v1+msgpack"


def payload(samples: int) -> bytes:
    """Return the documented payload: ten series, a trace on every sample."""
    now_ms = int(time.time() * 1000)
    metrics = [
        {
            "timestamp": now_ms - samples + i,
            "service_name": "my-api",
            "metric_name": "http.request.duration",
            "metric_type": "histogram",
            "value": 123.45 + i % 7,
            "tags": {"endpoint": f"/api/users/{i % 10}", "method": "GET"},
            "trace_id": f"abc{i // 5:04d}",
            "span_id": f"span{i:03d}",
        }
        for i in range(samples)
    ]
    return json.dumps({"metrics": metrics, "service_name": "my-api", "environment": "production"}).encode()


def packed(samples: int) -> bytes:
    """Return the same samples in the packed format, as the agent sends them: exemplars on one sample in twenty."""
    now_ms = int(time.time() * 1000)
    series = [
        ["http.request.duration", "histogram", "ms", {"endpoint": f"/api/users/{i}", "method": "GET"}]
        for i in range(10)
    ]
    columns = [
        [
            which,
            [now_ms - samples + i for i in range(which, samples, 10)],
            [123.45 + i % 7 for i in range(which, samples, 10)],
            [[0, f"abc{which:04d}", "span001"]] if which % 2 == 0 else [],
        ]
        for which in range(10)
    ]
    resource = {"service_name": "my-api", "environment": "production", "service_version": "1", "instance": "a"}
    return msgspec.msgpack.encode({"resource": resource, "series": series, "samples": columns})


def request(body: bytes, media_type: str) -> bytes:
    head = (
        f"POST /v1/metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {media_type}\r\nX-API-Key: {KEY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def uvicorn(module: str, port: int) -> list[str]:
    return [
        *(PYTHON, "-m", "uvicorn", module, "--port", str(port), "--loop", "uvloop", "--http", "httptools"),
        *("--no-access-log", "--no-proxy-headers", "--log-level", "warning"),
    ]


def vantage(data: Path, port: int) -> list[str]:
    return [PYTHON, "-m", "vantage", "serve", "--port", str(port), "--data", str(data)]
