"""Memory: what a full buffer takes, and that it grows no further however long the server is away."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import vantage_agent
from tests.agent.receiver import answer, misbehaving, read_request

HOME = str(Path(vantage_agent.__file__).parents[1])
FULL_MB_MAX = 15
LONG = bool(os.environ.get("VANTAGE_TEST_LONG"))
SOAK_S = 600 if LONG else 10
# Ten seconds are too short for a slope of one. Five are still no more than six bytes for each of what is recorded.
SLOPE_MB_A_MINUTE_MAX = 1.0 if LONG else 5.0

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")

PREPARED = """
    import gc, json, logging, os, sys, time
    import vantage_agent as v

    def rss_mb():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def application(environ, start_response):
        v.set_tags({"tenant": f"t{environ['n']}"})
        start_response("200 OK", [])
        return []

    application = v.instrument_wsgi(application)
    log = logging.getLogger("application")
    log.addHandler(logging.NullHandler())
    log.propagate = False

    def sample(i):
        v.gauge(f"metric.{i % 100}", i, tags={"shop": f"shop {i % 1000}", "text": f"text {i}"})

    def long_tags(i):
        v.gauge("m", i, tags={f"k{j}": "v" * 500 + str(i) for j in range(32)})

    def span(i):
        with v.span(f"operation {i % 50}", attributes={"customer": f"customer {i}", "text": f"y{i}" * 10}):
            with v.span("child"):
                pass

    def finished(i):
        v.record_span("s", trace_id=f"{i + 1:032x}", span_id=f"{i + 1:016x}", start_ns=i, duration_ns=1,
                      attributes={"customer": f"customer {i}"})

    def request(i):
        application({"REQUEST_METHOD": "GET", "n": i}, lambda *_: None)

    def logged(i):
        log.warning("something %d", i)

    v.init_agent("soak", sys.argv[1], auto_instrument=["logging"], flush_interval_s=float(sys.argv[2]),
                 trace_sample_rate=float(sys.argv[3]))
"""


def program(code: str, *arguments: object, timeout_s: float = 60) -> Any:
    """What it printed, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PREPARED) + textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": HOME},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def busy(connection: socket.socket, nth: int) -> None:
    while read_request(connection):
        answer(connection, "503 Service Unavailable")


FILL = """
    record = globals()[sys.argv[4]]
    for i in range(100):
        record(i)
    gc.collect()
    before = rss_mb()
    for i in range(40_000 if record is not long_tags else 2000):
        record(i)
    v.flush(0.5)
    losses = dict(v._running._buffer._losses)
    print(json.dumps([rss_mb() - before, len(v._running._buffer), losses]))
    v.shutdown(0)
"""


@pytest.mark.parametrize(
    ("kind", "rate"),
    [("sample", 1), ("long_tags", 1), ("span", 1), ("span", 0), ("finished", 1), ("request", 1), ("request", 0)],
)
def test_a_full_buffer_and_a_batch_in_flight_take_less_than_15_megabytes(kind: str, rate: int) -> None:
    with misbehaving(busy) as server:
        grown_mb, stored, losses = program(FILL, server.url, 3600, rate, kind)
    if not (kind == "span" and rate == 0):  # of which almost nothing is recorded
        assert stored > 200
        assert losses["buffer_full"] > 1000
    assert grown_mb < FULL_MB_MAX


SOAK = """
    end_s = time.monotonic() + float(sys.argv[4])
    taken, i = [], 0
    while time.monotonic() < end_s:
        for _ in range(150):
            for record in (sample, span, finished, request, logged):
                record(i)
            i += 1
        taken.append((time.monotonic(), rss_mb()))
        time.sleep(0.04)
    losses = dict(v._running._buffer._losses)
    print(json.dumps([taken, i, losses]))
    v.shutdown(0)
"""


def slope_mb_a_minute(used: list[tuple[float, float]]) -> float:
    """By the least memory of each of 30 stretches: what is allocated for a moment, or for longer on a busy machine,
    only adds to it. The median of the slopes between them, so that no single step decides."""
    size = max(1, len(used) // 30)
    stretches = [min(used[at : at + size], key=lambda reading: reading[1]) for at in range(0, len(used), size)]
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0]) * 60
        for index, earlier in enumerate(stretches)
        for later in stretches[index + 1 :]
        if later[0] - earlier[0] > 1
    ]
    return statistics.median(slopes)


@pytest.mark.timeout(SOAK_S + 120)
def test_memory_does_not_grow_while_the_buffer_drops() -> None:
    with misbehaving(busy) as server:
        used, count, losses = program(SOAK, server.url, 1, 0.5, SOAK_S, timeout_s=SOAK_S + 60)
    slope = slope_mb_a_minute(used[len(used) // 2 :])
    print(f"slope {slope:.3f} MB/min, from {used[0][1]:.1f} to {used[-1][1]:.1f} MB, {count} rounds, lost {losses}")
    assert losses["buffer_full"] > 10_000
    assert slope <= SLOPE_MB_A_MINUTE_MAX


def test_a_leak_would_be_seen() -> None:
    """The measure itself: a leak of 2 MB a minute among noise is found, noise alone is none."""
    import random

    chance = random.Random(1)

    def run(leak_mb_a_minute: float) -> float:
        at_s = [i * 0.05 for i in range(300)]
        return slope_mb_a_minute([(t, 50 + t / 60 * leak_mb_a_minute + max(0.0, chance.gauss(0, 0.3))) for t in at_s])

    assert run(2) > 1.5
    assert abs(run(0)) < 0.5
