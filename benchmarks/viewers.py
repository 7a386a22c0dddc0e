"""People who look at pages, and a long query, beside a load: ``python -m benchmarks.viewers PORT``.

Prints a line when all have begun. Each viewer opens a page, and the next a second after that was complete; each second
is how often a page of a busy service is rendered again. One more client runs a query over a day, again and again. Ends
when standard input does, and prints how much was done as a JSON line.
"""

from __future__ import annotations

import http.client
import itertools
import json
import statistics
import sys
import threading
import time
from typing import Final

from benchmarks.baselines.key import KEY
from benchmarks.load import take_second_core

VIEWERS: Final = 20
EVERY_S: Final = 1.0
PAGES: Final = ("/", "/services/my-api-0", "/?range=24h", "/services/my-api-1", "/services/my-api-2?range=24h")
LONG_QUERY: Final = """SELECT service_name, toStartOfMinute(timestamp) AS minute, quantile(0.95)(value) AS p95
FROM metrics WHERE timestamp >= now() - INTERVAL 1 DAY GROUP BY service_name, minute"""


class Client:
    """One connection, and what it did. Raises RuntimeError for any answer but 200."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.took_ms: list[float] = []

    def send(self, method: str, path: str, body: str | None = None) -> None:
        started_s = time.perf_counter()
        headers = {"X-API-Key": KEY, **({"Content-Type": "application/json"} if body else {})}
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {data[:300]!r}")
        self.took_ms.append((time.perf_counter() - started_s) * 1000)


def main() -> None:
    take_second_core()
    port, over = int(sys.argv[1]), threading.Event()
    viewers, analyst = [Client(port) for _ in range(VIEWERS)], Client(port)
    failed: list[str] = []

    def look(number: int) -> None:
        over.wait(EVERY_S * number / VIEWERS)
        for path in itertools.islice(itertools.cycle(PAGES), number, None):
            if over.wait(EVERY_S):
                return
            viewers[number].send("GET", path)

    def ask() -> None:
        while not over.is_set():
            analyst.send("POST", "/vql/execute", json.dumps({"query": LONG_QUERY}))

    def guarded(number: int) -> None:
        try:
            look(number) if number < VIEWERS else ask()
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            failed.append(repr(error))

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(VIEWERS + 1)]
    for thread in threads:
        thread.start()
    print("began", flush=True)
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    pages_ms = [ms for viewer in viewers for ms in viewer.took_ms]
    done = {"pages": len(pages_ms), "queries": len(analyst.took_ms), "failed": failed}
    done |= {"page_ms": statistics.median(pages_ms or [0.0]), "query_ms": statistics.median(analyst.took_ms or [0.0])}
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
