"""The data of a plan as agents send it: packed requests of 1000 samples, from a process on the second core.

``python -m benchmarks.storage.stream PLAN`` reads orders as JSON lines (host, port, connections, requests, and a rate
or null), sends that many of the next requests, and writes the result to a file.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import uvloop

from benchmarks.load import connect, disconnect, take_second_core
from benchmarks.payloads import PACKED, request
from benchmarks.storage.data import SERIES, SERVICES, WINDOW_MS, Columns, Plan, all_series, windows
from vantage.core.series import Series

PARTS: Final = 5  # of a window: 200 seconds of one service are a request
REQUEST_SAMPLES: Final = 1000
TIMEOUT_S: Final = 600.0
_PER_SERVICE: Final = SERIES // SERVICES


def bodies(plan: Plan) -> Iterator[tuple[int, bytes]]:
    """Yield the end time and body of each request."""
    series = all_series()
    for number, window in enumerate(windows(plan)):
        start_ms = plan.start_ms + number * WINDOW_MS
        cuts_ms = [start_ms + WINDOW_MS * part // PARTS for part in range(1, PARTS)]
        cuts = [0, *np.searchsorted(window.time_ms, cuts_ms).tolist(), len(window)]
        traces = dict(zip(window.linked.tolist(), zip(window.trace_id, window.span_id, strict=True), strict=True))
        for part in range(PARTS):
            rows = np.arange(cuts[part], cuts[part + 1])
            end_ms = start_ms + WINDOW_MS * (part + 1) // PARTS
            for service in range(SERVICES):
                own_rows = rows[window.index[rows] // _PER_SERVICE == service]
                which = series[service * _PER_SERVICE : (service + 1) * _PER_SERVICE]
                yield (
                    end_ms,
                    request(_body(f"{number}.{part}.{service}", which, window, own_rows, traces), PACKED),
                )


def _body(
    batch: str,
    series: tuple[Series, ...],
    window: Columns,
    rows: np.ndarray[Any, np.dtype[np.int64]],
    traces: dict[int, tuple[str, str]],
) -> bytes:
    rows = rows[np.argsort(window.index[rows], kind="stable")]
    numbers = window.index[rows] % _PER_SERVICE
    starts = np.searchsorted(numbers, np.arange(len(series) + 1)).tolist()
    times, values, numbers_of_rows = window.time_ms[rows].tolist(), window.value[rows].tolist(), rows.tolist()
    samples = []
    for which, (start, end) in enumerate(pairwise(starts)):
        exemplars = [(i, *traces[row]) for i, row in enumerate(numbers_of_rows[start:end]) if row in traces]
        samples.append((which, times[start:end], values[start:end], exemplars))
    return msgspec.msgpack.encode(
        {
            "batch": batch,
            "resource": {"service_name": series[0].service, "environment": series[0].environment},
            "series": [(item.metric, item.kind.value, item.unit, dict(item.tags)) for item in series],
            "samples": samples,
        }
    )


async def send(order: dict[str, Any], prepared: list[tuple[int, bytes]]) -> dict[str, Any]:
    """Send requests. The result has ``sent_s`` and ``latencies_s`` of every request, by the monotonic clock."""
    pending = iter([body for _, body in prepared])
    started, connections = await connect(order, lambda: next(pending, None))
    async with asyncio.timeout(TIMEOUT_S):
        for connection in connections:
            await connection.done
    result = disconnect(started, connections)
    return {
        **result,
        "end_ms": prepared[-1][0],
        "sent_s": [at_s for connection in connections for at_s in connection.sent_s],
        "latencies_s": [took_s for connection in connections for took_s in connection.latencies_s],
    }


def main() -> None:
    take_second_core()
    requests = bodies(Plan.of(sys.argv[1]))
    for line in sys.stdin:
        order = json.loads(line)
        prepared = list(islice(requests, order["requests"]))
        gc.collect()
        # Through a file: the result of thousands of requests is larger than a pipe.
        Path(order["result"]).write_text(json.dumps(uvloop.run(send(order, prepared))))
        print("sent", flush=True)


if __name__ == "__main__":
    main()
