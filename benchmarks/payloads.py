"""Payloads, and commands that start servers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from benchmarks.baselines.key import KEY
from benchmarks.rounds import PYTHON

RATES: Final = {"VANTAGE_INGEST_RATE_LIMIT": "0", "VANTAGE_API_KEY": KEY, "VANTAGE_LOG_LEVEL": "warning"}
PACKED: Final = "application/vnd.vantage.v1+msgpack"


SERVICES: Final = 20  # in the load that pages are looked at beside
REQUESTS: Final = 60  # that are sent in turn, so that no id and no value comes again too soon


def payloads(samples: int, *, traced: bool = True, services: int = 1) -> list[bytes]:
    """Return bodies in the documented format: ten series of a service each, a trace of its own and a span on every
    sample, or none at all. ``services`` take turns."""
    random, now_ms = Random(1), int(time.time() * 1000)
    return [
        json.dumps(
            {
                "metrics": [
                    {
                        "timestamp": now_ms - samples + i,
                        "service_name": f"my-api-{number % services}",
                        "metric_name": "http.request.duration",
                        "metric_type": "histogram",
                        "value": round(random.lognormvariate(4, 1), 2),
                        "tags": {"endpoint": f"/api/users/{i % 10}", "method": "GET"},
                        **(_ids(random) if traced else {}),
                    }
                    for i in range(samples)
                ],
                "service_name": f"my-api-{number % services}",
                "environment": "production",
            }
        ).encode()
        for number in range(REQUESTS)
    ]


def _ids(random: Random) -> dict[str, str]:
    return {"trace_id": f"{random.getrandbits(128):032x}", "span_id": f"{random.getrandbits(64):016x}"}


def json_requests(samples: int, *, traced: bool = True, services: int = 1) -> list[bytes]:
    """Return requests with those bodies."""
    return [request(body, "application/json") for body in payloads(samples, traced=traced, services=services)]


def packed(samples: int) -> bytes:
    """Return as many samples of ten series in the packed format, as the agent sends them: an exemplar on one in
    twenty."""
    random, now_ms = Random(1), int(time.time() * 1000)
    series = [
        ["http.request.duration", "histogram", "ms", {"endpoint": f"/api/users/{i}", "method": "GET"}]
        for i in range(10)
    ]
    columns = [
        [
            which,
            [now_ms - samples + i for i in range(which, samples, 10)],
            [123.45 + i % 7 for i in range(which, samples, 10)],
            [[i, *_ids(random).values()] for i in range(10 * (which % 2), samples // 10, 20)],
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
