"""One subject in a process of its own: ``python -m benchmarks.storage.process NAME FOLDER``.

Reads orders as JSON lines from standard input and replies to each with a line: ``load``, ``open``, ``query``,
``close``.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.storage.data import Plan
from benchmarks.storage.subject import Query, Store


def _vantage(folder: Path) -> Store:
    from benchmarks.storage.embedded import Embedded

    return Embedded(folder)


def _on_clickhouse(folder: Path) -> Store:
    from benchmarks.storage.embedded import OnClickHouse

    return OnClickHouse(folder)


def _on_server(folder: Path) -> Store:
    from benchmarks.storage.embedded import OnServer

    return OnServer(folder)


def _rows(folder: Path) -> Store:
    from benchmarks.storage.row_sqlite import RowTable

    return RowTable(folder)


def _common(folder: Path) -> Store:
    from benchmarks.storage.clickhouse import CommonTable

    return CommonTable(folder)


def _lean(folder: Path) -> Store:
    from benchmarks.storage.clickhouse import LeanTables

    return LeanTables(folder)


def _victoria(folder: Path) -> Store:
    from benchmarks.storage.victoria import VictoriaMetrics

    return VictoriaMetrics(folder)


def _prometheus(folder: Path) -> Store:
    from benchmarks.storage.prometheus import Prometheus

    return Prometheus(folder)


STORES: Final[dict[str, Callable[[Path], Store]]] = {
    "vantage": _vantage,
    "vantage-chdb": _on_clickhouse,
    "vantage-server": _on_server,
    "rows": _rows,
    "clickhouse": _common,
    "clickhouse-lean": _lean,
    "victoria": _victoria,
    "prometheus": _prometheus,
}


def run_order(store: Store, order: dict[str, Any]) -> dict[str, Any]:
    """Run an order; ``ms`` in the reply is how long it took."""
    if order["do"] == "load":
        loaded = store.load(Plan.of(order["plan"]))
        return {**asdict(loaded), "peak_nbytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if order["do"] == "open":
        started = time.perf_counter()
        store.open(Plan.of(order["plan"]))
        took_ms = (time.perf_counter() - started) * 1000
        gc.collect()
        gc.freeze()  # otherwise collecting before each query visits everything, and clears the processor's caches
        return {"ms": took_ms}
    if order["do"] == "query":
        query = Query(**order["query"])
        gc.collect()
        started = time.perf_counter()
        raw = store.run_query(query)
        took_ms = (time.perf_counter() - started) * 1000
        return {"ms": took_ms, "rows": store.result_rows(query, raw) if order["with_rows"] else None}
    store.close()
    return {}


def main() -> None:
    # Libraries may print to standard output: replies go to a copy of it, made at the start.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    store = STORES[sys.argv[1]](Path(sys.argv[2]))
    is_open = False
    try:
        for line in sys.stdin:
            order = json.loads(line)
            reply = run_order(store, order)
            is_open = {"open": True, "close": False}.get(order["do"], is_open)
            print(json.dumps(reply), file=replies, flush=True)
    finally:
        if is_open:
            store.close()


if __name__ == "__main__":
    main()
