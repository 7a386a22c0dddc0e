"""SIGKILL while the store seals, merges, lets go or forgets: nothing acknowledged is lost, nothing is there twice.

A process of its own writes numbered batches and says on a line of its own what it does and what is done; it is killed
some moments after a step began. Then the folder is opened and held against what had been acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vantage.core.clock import SystemClock
from vantage.core.timerange import TimeRange
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.ports import TraceFilter
from vantage.telemetry import Telemetry
from vantage.vql.check import check
from vantage.vql.tree import Call, Column, Compare, Literal, Select, SelectItem

LONG = bool(os.environ.get("VANTAGE_TEST_LONG"))
KILLS = 30 if LONG else 6  # the short variant is done with the first that falls within a step
SAMPLES = 40
ROOT = Path(__file__).resolve().parents[2]
ALWAYS = Compare(">=", Column("timestamp"), Literal(0))

CHILD = """
import asyncio, sys, time
from pathlib import Path
from vantage.core.exemplars import encode_exemplars
from vantage.core.batch import Batch, build_batch
from vantage.core.clock import SystemClock
from vantage.core.retention import RetentionRule
from vantage.core.sample import Kind
from vantage.core.series import make_series
from vantage.core.span import Span
from vantage.storage.embedded.maintain import merge
from vantage.storage.embedded.format import part_writer
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.ports import RetentionPolicy, Selector
from vantage.telemetry import Telemetry
import numpy as np

folder, step, first, samples = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
merge.PARTS_MIN = merge.PARTS_MIN_BUSY = 3 if step == "merge" else 1000
part_writer.SLICE_NBYTES = 2000  # many slices: many moments to be killed at
DAY_MS = 86_400_000

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

def batch(service, n, back_ms=0):
    now_ms = int(time.time() * 1000) - back_ms
    rows = [
        (make_series(service=service, environment="e", metric=f"m{i % 5}", kind=Kind.HISTOGRAM,
                     tags={"i": str(i % 11)}),
         now_ms - i, float(n * samples + i))
        for i in range(samples)
    ]
    links = encode_exemplars(np.arange(0, samples, 7, dtype=np.uint32), [f"{n:032x}"] * len(range(0, samples, 7)),
                  [f"{i:016x}" for i in range(0, samples, 7)])
    span = Span(f"{n:032x}", f"{n:016x}", service, "op", now_ms * 1_000_000, 1000, environment="e")
    return build_batch(rows, exemplars=links, spans=(span,), batch_id=f"{service}-{n}")

async def main():
    async with EmbeddedStore(folder, clock=SystemClock(), telemetry=Telemetry()) as store:
        merger, merges = store._merger, store._merger.merge

        def merging(*parts):
            say("begin")
            merged = merges(*parts)
            say("end")
            return merged

        if step == "merge":
            merger.merge = merging
        n = first
        while True:
            for _ in range(3):
                await store.write(batch("kept", n))
                say("kept", n)
                await store.write(batch("old", n, 400 * DAY_MS))
                await store.write(batch("ruled", n, 20 * DAY_MS))
                await store.write(batch(f"gone-{n // 6}", n))
                n += 1
            if step == "seal":
                say("begin")
            await store.seal()
            if step == "seal":
                say("end")
            if step == "expire":
                say("begin")
                await store.expire(RetentionPolicy(days=300, rules=(RetentionRule(10, "ruled"),)))
                say("end")
            if step == "forget":
                service = f"gone-{(n - 1) // 6 - 1}"  # nothing is written to it any more
                say("begin", service)
                await store.delete(Selector(service=service))
                say("end", service)

asyncio.run(main())
"""


@pytest.fixture
def seed() -> int:
    seed = int(os.environ.get("VANTAGE_TEST_SEED", time.time_ns() % 2**32))
    print(f"VANTAGE_TEST_SEED={seed}")
    return seed


class Acknowledged:
    """What the process said before it died."""

    def __init__(self) -> None:
        self.acknowledged: set[int] = set()
        self.deleted: set[str] = set()
        self.within = False  # a step was under way

    def hear(self, line: str) -> None:
        word, *rest = line.split()
        if word == "kept":
            self.acknowledged.add(int(rest[0]))
        elif word in ("begin", "end"):
            self.within = word == "begin"
            if word == "end":
                self.deleted.update(rest)


def killed(data: Path, step: str, first: int, chance: random.Random) -> Acknowledged:
    """Run until some step is under way for a moment; kill."""
    recorded = Acknowledged()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(data), step, str(first), str(SAMPLES)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    begins = chance.randint(2, 4)
    began_s = took_s = 0.0
    for line in process.stdout:
        if line.startswith(("kept", "begin", "end")):
            recorded.hear(line)
        if line.startswith("begin"):
            began_s = time.monotonic()
            begins -= 1
        if line.startswith("end"):
            took_s = time.monotonic() - began_s
        if not begins:
            break
    else:
        raise AssertionError(f"the process ended by itself: {process.stderr.read()}")
    time.sleep(chance.uniform(0, took_s))  # as long as the step took the last time
    process.kill()
    for line in process.stdout:  # what it said in the meantime, of which the last line may be cut short
        if line.startswith(("kept", "begin", "end")) and line.endswith("\n"):
            recorded.hear(line)
    process.wait()
    process.stdout.close()
    process.stderr.close()
    return recorded


async def contents(data: Path) -> tuple[dict[str, Counter[int]], Counter[str], int]:
    """How often each value is there by service; spans by service; damaged rows."""
    async with EmbeddedStore(data, clock=SystemClock(), telemetry=Telemetry()) as store:
        items = (SelectItem(Column("service_name"), "service"), SelectItem(Column("value"), "value"))
        query = check(Select("metrics", items, where=ALWAYS), now_ms=SystemClock().now_ms(), rows_max=10**7)
        values: dict[str, Counter[int]] = {}
        for service, value in (await store.select(query, deadline_s=30)).rows():
            values.setdefault(service, Counter())[round(value)] += 1
        counting = check(
            Select("metrics", (SelectItem(Call("count"), "n"),), where=ALWAYS), now_ms=SystemClock().now_ms()
        )
        ((count,),) = (await store.select(counting, deadline_s=30)).rows()
        assert count == sum(sum(counter.values()) for counter in values.values())
        wanted = TraceFilter(TimeRange(0, 2**42), limit=10**6)
        spans = Counter(service for trace in await store.traces(wanted) for service in trace.services)
        listed = sum(info.samples for info in await store.list_series())
        assert listed == count, "the catalogue counts otherwise"
        return values, spans, store.damaged_rows


@pytest.mark.parametrize("step", ["seal", "merge", "expire", "forget"])
@pytest.mark.timeout(60 * KILLS)
def test_a_kill_at_any_moment_loses_nothing_and_doubles_nothing(tmp_path: Path, seed: int, step: str) -> None:
    chance = random.Random(f"{seed} {step}")
    data = tmp_path / "data"
    stored: set[int] = set()
    deleted: set[str] = set()
    first = within = 0
    for _ in range(KILLS):
        recorded = killed(data, step, first, chance)
        within += recorded.within
        stored |= recorded.acknowledged
        deleted |= recorded.deleted
        values, spans, damaged = asyncio.run(contents(data))
        assert damaged == 0
        for service, counts in values.items():
            assert set(counts.values()) <= {1}, f"something of {service} is there twice"
            batches = Counter(value // SAMPLES for value in counts)
            assert set(batches.values()) <= {SAMPLES}, f"a batch of {service} is there in part"
        for n in stored:
            missing = [value for value in range(n * SAMPLES, (n + 1) * SAMPLES) if value not in values["kept"]]
            assert not missing, f"batch {n} was acknowledged and is not there"
        assert spans["kept"] >= len(stored)
        assert not deleted & values.keys(), "deleted data is back"
        first = max(stored, default=0) + 10
        if within and not LONG:
            break
    assert within >= KILLS / 10, "the kills came between the steps: they tested nothing"


def test_the_child_is_what_the_test_says(tmp_path: Path) -> None:
    """Without a kill everything is kept, and the old leaves."""
    recorded: Any = killed(tmp_path / "data", "expire", 0, random.Random(1))
    values, _, _ = asyncio.run(contents(tmp_path / "data"))
    assert len(recorded.acknowledged) >= 3
    assert len(values["kept"]) >= 3 * SAMPLES
