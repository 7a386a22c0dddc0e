"""The common design: FastAPI, pydantic, one row per sample.

The collector does what such collectors do: rate-limiting middleware by address, a key, pydantic models, Prometheus
counters, and one JSON message per metric for the queue. ``COMMON_BARE=1`` omits all of that but the models.
``COMMON_DB`` names a file: then rows are inserted before the response, one transaction per request, with Vantage's own
durability (``synchronous=FULL``), into a table with an index and tags as JSON. Without it nothing is stored.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from prometheus_client import Counter, Histogram
from pydantic import BaseModel, Field

from benchmarks.baselines.key import KEY

BARE = bool(os.environ.get("COMMON_BARE"))
RATE_PER_MINUTE = 1_000_000_000


class Metric(BaseModel):
    timestamp: int
    service_name: str = Field(min_length=1, max_length=255)
    metric_name: str = Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9_.:/-]+$")
    metric_type: Literal["counter", "gauge", "histogram"]
    value: float = Field(allow_inf_nan=False)
    tags: dict[str, str] = Field(default_factory=dict)
    trace_id: str | None = None
    span_id: str | None = None


class Payload(BaseModel):
    metrics: list[Metric]
    service_name: str
    environment: str = "production"


app = FastAPI()
_requests = Counter("vantage_collector_requests_total", "Requests.", ["status"])
_duration = Histogram("vantage_collector_request_duration_seconds", "Duration.")
_seen: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=10_000))
_writer = ThreadPoolExecutor(1)
_db: sqlite3.Connection | None = None
if path := os.environ.get("COMMON_DB"):
    _db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    _db.execute("PRAGMA journal_mode=WAL")
    _db.execute("PRAGMA synchronous=FULL")
    _db.execute(
        "CREATE TABLE IF NOT EXISTS metrics (timestamp INTEGER, service_name TEXT, environment TEXT, metric_name TEXT,"
        " metric_type TEXT, value REAL, tags TEXT, trace_id TEXT, span_id TEXT)"
    )
    _db.execute("CREATE INDEX IF NOT EXISTS by_service ON metrics (service_name, timestamp)")


if not BARE:

    @app.middleware("http")
    async def limit_rate(request: Request, call_next: Any) -> Any:
        now = time.monotonic()
        seen = _seen[request.client.host if request.client else ""]
        while seen and seen[0] < now - 60:
            seen.popleft()
        if len(seen) > RATE_PER_MINUTE:
            return JSONResponse({"detail": "rate limit exceeded"}, 429)
        seen.append(now)
        return await call_next(request)

    @app.middleware("http")
    async def measure(request: Request, call_next: Any) -> Any:
        started = time.perf_counter()
        response = await call_next(request)
        _duration.observe(time.perf_counter() - started)
        _requests.labels(str(response.status_code)).inc()
        return response


def _publish(payload: Payload) -> list[bytes]:
    """Return the messages for the topic, one per metric, as JSON."""
    return [json.dumps(metric.model_dump()).encode() for metric in payload.metrics]


def _insert(payload: Payload) -> None:
    assert _db is not None
    rows = [
        (
            metric.timestamp,
            metric.service_name,
            payload.environment,
            metric.metric_name,
            metric.metric_type,
            metric.value,
            json.dumps(metric.tags),
            metric.trace_id,
            metric.span_id,
        )
        for metric in payload.metrics
    ]
    _db.execute("BEGIN")
    _db.executemany("INSERT INTO metrics VALUES (?,?,?,?,?,?,?,?,?)", rows)
    _db.execute("COMMIT")


@app.post("/v1/metrics", status_code=202)
async def receive(payload: Payload, x_api_key: str = Header("")) -> dict[str, object]:
    if x_api_key != KEY:
        raise HTTPException(401)
    if _db is not None:
        await asyncio.get_running_loop().run_in_executor(_writer, _insert, payload)
    elif not BARE:
        _publish(payload)
    return {"status": "accepted", "count": len(payload.metrics)}
