"""The seed's design: FastAPI, pydantic, a row a sample. ``SEED_DB`` names a file to store into; without it nothing is
stored.

Rows are inserted in batches, one transaction a request, with the same durability as Vantage's default
(``synchronous=FULL``): the table, its index and the tags as JSON are those of the seed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel, Field

from benchmarks.baselines.seed_key import KEY


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
_writer = ThreadPoolExecutor(1)
_db: sqlite3.Connection | None = None
if path := os.environ.get("SEED_DB"):
    _db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    _db.execute("PRAGMA journal_mode=WAL")
    _db.execute(f"PRAGMA synchronous={os.environ.get('SEED_SYNCHRONOUS', 'FULL')}")
    _db.execute(
        "CREATE TABLE IF NOT EXISTS metrics (timestamp INTEGER, service_name TEXT, environment TEXT, metric_name TEXT,"
        " metric_type TEXT, value REAL, tags TEXT, trace_id TEXT, span_id TEXT)"
    )
    _db.execute("CREATE INDEX IF NOT EXISTS by_service ON metrics (service_name, timestamp)")


def _insert(payload: Payload) -> None:
    assert _db is not None
    rows = [
        (
            one.timestamp,
            one.service_name,
            payload.environment,
            one.metric_name,
            one.metric_type,
            one.value,
            json.dumps(one.tags),
            one.trace_id,
            one.span_id,
        )
        for one in payload.metrics
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
    return {"status": "accepted", "count": len(payload.metrics)}
