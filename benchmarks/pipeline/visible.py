"""From a POST to the moment at which a query of the API counts its sample."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.pipeline.processes import Stage
from tests.support.load import NO_RATES
from tests.support.server import Server, serving

LOOK_S: Final = 0.02
PAUSE_S: Final = 0.3
TIMEOUT_S: Final = 60.0
WARM: Final = 2
_QUERY: Final = "/api/metrics/timeseries?service=visible&metric=m&start=now-1h&end=now&step=1h&agg=count"


def seconds_until_visible(ingest: Server, api: Server, posts: int) -> list[float]:
    """Post one sample after the other; return how long each took to be counted."""
    took_s = []
    for number in range(1, WARM + posts + 1):
        began_s = time.perf_counter()
        answer = ingest.send({"service_name": "visible", "metrics": [{"metric_name": "m", "value": number}]})
        assert answer.status == 202, answer
        while _count(api) < number:
            assert time.perf_counter() - began_s < TIMEOUT_S, f"sample {number} is not visible"
            time.sleep(LOOK_S)
        took_s.append(time.perf_counter() - began_s)
        time.sleep(PAUSE_S)
    return took_s[WARM:]


def _count(api: Server) -> int:
    answer = api.get(_QUERY)
    assert answer.status == 200, answer
    return sum(int(point[1] or 0) for series in json.loads(answer.body)["series"] for point in series["points"])


@contextmanager
def split(stage: Stage) -> Iterator[tuple[Server, Server]]:
    """Run ingest, a worker and an api; yield the first and the last."""
    with stage.serving("ingest", "worker", "api") as (ingest, worker, api):
        for server in (ingest, worker, api):
            server.wait_ready()
        yield ingest, api


@contextmanager
def embedded(work: Path) -> Iterator[tuple[Server, Server]]:
    """Run the role ``all`` on the embedded store; yield it as both."""
    with serving(work / "visible", environ={**NO_RATES, "VANTAGE_LOG_LEVEL": "warning"}) as server:
        yield server, server
