"""Edges in segments: sealed, merged, late, deleted, expired, and filled in after an upgrade."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import SERVICES, figures, random_calls
from tests.support.samples import HOUR_MS, NOW_MS, MovedClock, a_span
from tests.support.wait import until
from vantage.core.batch import Batch
from vantage.core.retention import parse_rule
from vantage.core.span import Span
from vantage.core.timerange import TimeRange
from vantage.storage.embedded import queries
from vantage.storage.embedded.maintain import edge_rollups, merge, seal
from vantage.storage.embedded.offline.folder_reader import ReadOnlyFolder
from vantage.storage.embedded.offline.verify import verify_segments
from vantage.storage.embedded.read import earlier_spans
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.memory import MemoryStore
from vantage.storage.ports import RetentionPolicy, Selector

DAY_MS = 24 * HOUR_MS
Open = Callable[..., Any]
RANGES = (TimeRange(NOW_MS - HOUR_MS, NOW_MS), TimeRange(NOW_MS - 900_000, NOW_MS),
          TimeRange(NOW_MS - 7 * DAY_MS, NOW_MS))  # fmt: skip


@pytest.fixture(autouse=True)
def from_rollups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be computed from the spans of a range, unless a test undoes it."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("edges were computed from spans")

    monkeypatch.setattr(queries, "service_edges", refuse)


async def write_both(store: EmbeddedStore, expected: MemoryStore, spans: list[Span]) -> None:
    for target in (store, expected):
        await target.write(Batch(spans=tuple(spans)))


async def assert_same(store: EmbeddedStore, expected: MemoryStore, **how: bool) -> None:
    for time_range in RANGES:
        ours, wanted = [await target.edges(time_range) for target in (store, expected)]
        assert ours.time_range == wanted.time_range
        assert figures(ours, longest=False, **how) == figures(wanted, longest=False, **how)


async def test_the_longest_call_is_exact_unless_it_was_corrected(opened: Open, clock: MovedClock) -> None:
    expected = MemoryStore(clock=clock)
    async with opened() as store:
        for spans in random_calls(1, late=0):
            await write_both(store, expected, spans)
            await store.seal()
            for time_range in RANGES:
                ours, wanted = [await target.edges(time_range) for target in (store, expected)]
                assert figures(ours) == figures(wanted)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_edges_are_those_of_the_spans(
    opened: Open, clock: MovedClock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(merge, "PARTS_MIN", 2)
    expected = MemoryStore(clock=clock)
    pieces = list(random_calls(seed))
    async with opened() as store:
        for number, spans in enumerate(pieces[:7]):
            await write_both(store, expected, spans)
            if number % 3 != seed % 3:
                await assert_same(store, expected)
            if number % 3 != 1:
                await store.seal()
                await assert_same(store, expected)
        await store.merge()
        await assert_same(store, expected)
    async with opened() as store:
        await write_both(store, expected, pieces[7])
        await assert_same(store, expected)
        for target in (store, expected):
            await target.delete(Selector(service=SERVICES[seed % 5]))
        # The callers of what is deleted are no calls to external services: their spans may have been counted as calls.
        await assert_same(store, expected, external=False)
        await write_both(store, expected, pieces[8])
        for target in (store, expected):
            await target.delete(Selector(environment="test"))
        await assert_same(store, expected, external=False)
        await store.seal()
        await write_both(store, expected, pieces[9])
        await assert_same(store, expected, external=False)
    async with opened() as store:
        await assert_same(store, expected, external=False)
        await store.seal()
        await store.merge()
        await assert_same(store, expected, external=False)
        folder = ReadOnlyFolder(store.folder)
    assert list(verify_segments(folder, folder.segments())) == []


async def test_a_trace_over_the_end_of_a_week_is_joined(opened: Open, clock: MovedClock) -> None:
    week_ms = 7 * DAY_MS
    monday_ms = (NOW_MS + 3 * DAY_MS) // week_ms * week_ms - 3 * DAY_MS  # 1970 began on a Thursday
    child = a_span("t1", "b", "a", service="api", start_ms=monday_ms - 1000)
    parent = a_span("t1", "a", service="web", start_ms=monday_ms + 1000)  # by another clock
    expected = MemoryStore(clock=clock)
    async with opened() as store:
        for span in (child, parent):
            await write_both(store, expected, [span])
            await store.seal()
        around = TimeRange(monday_ms - HOUR_MS, monday_ms + HOUR_MS)
        assert figures(await store.edges(around)) == figures(await expected.edges(around))
        assert len((await store.edges(around)).edges) == 1


@pytest.mark.parametrize("stop_at", ["write_edges", "write_red"])
async def test_a_seal_that_is_interrupted_counts_nothing_twice(
    opened: Open, clock: MovedClock, monkeypatch: pytest.MonkeyPatch, stop_at: str
) -> None:
    expected = MemoryStore(clock=clock)
    pieces = list(random_calls(3))
    write = getattr(seal, stop_at)

    def write_and_fail(*arguments: Any) -> None:
        write(*arguments)
        raise OSError("the disk is gone")

    async with opened() as store:
        await write_both(store, expected, pieces[0])
        await store.seal()
        await write_both(store, expected, pieces[1])
        monkeypatch.setattr(seal, stop_at, write_and_fail)
        with pytest.raises(Exception, match="the disk is gone"):
            await store.seal()
        await assert_same(store, expected)
    monkeypatch.setattr(seal, stop_at, write)
    async with opened() as store:
        await assert_same(store, expected)
        await store.seal()
        await write_both(store, expected, pieces[2])
        await assert_same(store, expected)


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path

from tests.support.calls import random_calls
from tests.support.samples import MovedClock
from vantage.core.batch import Batch
from vantage.storage.embedded.format.segment import SegmentWriter
from vantage.storage.embedded.store import EmbeddedStore
from vantage.telemetry import Telemetry

folder, slices = Path(sys.argv[1]), int(sys.argv[2])
begin, begun = SegmentWriter.slice, 0


def counted(self):
    global begun
    begun += 1
    if begun > slices:
        os.kill(os.getpid(), signal.SIGKILL)
    return begin(self)


async def main():
    async with EmbeddedStore(folder, clock=MovedClock(), telemetry=Telemetry()) as store:
        first, second, *_ = random_calls(8)
        await store.write(Batch(spans=tuple(first)))
        await store.seal()
        await store.write(Batch(spans=tuple(second)))
        SegmentWriter.slice = counted
        await store.seal()
        os.kill(os.getpid(), signal.SIGKILL)


asyncio.run(main())
"""


@pytest.mark.parametrize("slices", range(5))
async def test_a_process_that_is_killed_while_it_seals_counts_nothing_twice(
    opened: Open, clock: MovedClock, tmp_path: Path, slices: int
) -> None:
    """It dies before a transaction of the seal, or after the last."""
    root = Path(__file__).resolve().parents[3]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(tmp_path / "data"), str(slices), cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}"}, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.wait() == -signal.SIGKILL
    expected = MemoryStore(clock=clock)
    first, second, third, *_ = random_calls(8)
    for spans in (first, second):
        await expected.write(Batch(spans=tuple(spans)))
    async with opened() as store:
        await assert_same(store, expected)
        await store.seal()
        await assert_same(store, expected)
        await write_both(store, expected, third)
        await store.seal()
        await assert_same(store, expected)


async def test_five_minutes_are_kept_for_two_days_and_hours_with_their_week(opened: Open, clock: MovedClock) -> None:
    expected = MemoryStore(clock=clock)
    async with opened() as store:
        for spans in random_calls(1):
            await write_both(store, expected, spans)
        await store.seal()
        clock.now += 3 * DAY_MS
        path = next((store.folder / "segments").glob("*.rollups.db"))

        def left() -> set[int]:
            with closing(sqlite3.connect(path)) as db:
                return {row[0] for row in db.execute("SELECT DISTINCT width_ms FROM edge")}

        await until(lambda: left() == {HOUR_MS})
        await assert_same(store, expected)
        folder = ReadOnlyFolder(store.folder)
    assert list(verify_segments(folder, folder.segments())) == []


async def test_a_rule_of_retention_is_one_of_edges_too(opened: Open) -> None:
    async with opened() as store:
        for trace_id, days in (("t1", 5), ("t2", 1)):
            start_ms = NOW_MS - days * DAY_MS
            spans = (a_span(trace_id, "a", service="web", start_ms=start_ms),
                     a_span(trace_id, "b", "a", service="api", start_ms=start_ms),
                     a_span(trace_id, "c", "b", service="db", start_ms=start_ms))  # fmt: skip
            await store.write(Batch(spans=spans))
        await store.seal()
        await store.expire(RetentionPolicy(rules=(parse_rule("web/*=2"),)))
        result = figures(await store.edges(TimeRange(NOW_MS - 7 * DAY_MS, NOW_MS)))
        assert {key[:2]: values[0] for key, values in result.items()} == {("web", "api"): 1, ("api", "db"): 2}


async def test_edges_outlive_their_spans(opened: Open, clock: MovedClock) -> None:
    expected = MemoryStore(clock=clock)
    async with opened() as store:
        for spans in random_calls(1):
            await write_both(store, expected, spans)
        await store.seal()
        await store.write(Batch(spans=(a_span(start_ms=NOW_MS - 20 * DAY_MS),)))
        await store.seal()
        clock.now += 7 * DAY_MS
        for path in (store.folder / "segments").glob("*.samples.db"):
            assert path.stat().st_size
        await store.write(Batch(spans=(a_span("t9", start_ms=clock.now),)))
        await store.seal()
        size = sum(path.stat().st_size for path in (store.folder / "segments").glob("*.rollups.db*"))
        await store.expire(RetentionPolicy(budget_bytes=size + 150_000))
        assert len(list((store.folder / "segments").glob("*.samples.db"))) < 3
        await assert_same(store, expected)


async def test_halves_that_would_take_too_long_to_find_are_counted(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier_spans, "BLOCKS_MAX", 0)
    async with opened() as store:
        await store.write(Batch(spans=(a_span(service="web"),)))
        await store.seal()
        await store.write(Batch(spans=(a_span(span_id="s2", parent="s1", service="api"),)))
        await store.seal()
        assert (await store.edges(RANGES[0])).edges == ()
        assert store._telemetry.lost.labels("edges_not_joined")._value.get() == 1


def forget_edges(folder: Path) -> None:
    """Make a folder what an earlier version would have left."""
    for path in (folder / "segments").glob("*.db"):
        with closing(sqlite3.connect(path)) as db:
            if ".samples." in path.name:
                db.execute("INSERT OR REPLACE INTO edge_since SELECT max(id) + 1 FROM part")
            else:
                db.execute("DELETE FROM edge")
            db.commit()


async def test_what_an_earlier_version_wrote_is_filled_in(
    opened: Open, clock: MovedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = MemoryStore(clock=clock)
    pieces = list(random_calls(4))
    async with opened() as store:
        for spans in pieces[:4]:
            await write_both(store, expected, spans)
            await store.seal()
    forget_edges(tmp_path / "data")
    fill = edge_rollups.EdgeFiller.fill_next
    with monkeypatch.context() as before:
        before.setattr(edge_rollups.EdgeFiller, "fill_next", lambda _: False)
        async with opened() as store:
            await write_both(store, expected, pieces[4])
            await store.seal()
            with pytest.raises(AssertionError, match="from spans"):
                await store.edges(RANGES[0])
    assert edge_rollups.EdgeFiller.fill_next is fill
    async with opened() as store:
        await until(lambda: not store._snapshots.now.without_edges)
        await assert_same(store, expected)
        await write_both(store, expected, pieces[5])
        await assert_same(store, expected)
    async with opened() as store:
        assert not store._snapshots.now.without_edges
        await assert_same(store, expected)


async def test_until_it_is_filled_in_edges_are_computed_from_spans(
    opened: Open, clock: MovedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = MemoryStore(clock=clock)
    async with opened() as store:
        for spans in random_calls(5):
            await write_both(store, expected, spans)
        await store.seal()
    forget_edges(tmp_path / "data")
    monkeypatch.undo()
    monkeypatch.setattr(edge_rollups.EdgeFiller, "fill_next", lambda _: False)
    async with opened() as store:
        await assert_same(store, expected)
        await store.delete(Selector(service="web"))  # rewrites the part, which is filled in before
        await expected.delete(Selector(service="web"))
        assert not store._snapshots.now.without_edges
        await assert_same(store, expected, external=False)


@pytest.mark.parametrize("stop_at", [0, 1, 2])
async def test_filling_in_that_is_interrupted_counts_nothing_twice(
    opened: Open, clock: MovedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    expected = MemoryStore(clock=clock)
    async with opened() as store:
        for spans in list(random_calls(6))[:3]:
            await write_both(store, expected, spans)
            await store.seal()
    forget_edges(tmp_path / "data")
    write, written = edge_rollups.write_edges, 0

    def write_some(*arguments: Any) -> None:
        nonlocal written
        write(*arguments)
        if written == stop_at:
            raise OSError("the disk is gone")
        written += 1

    monkeypatch.setattr(edge_rollups, "write_edges", write_some)
    async with opened() as store:
        await until(lambda: bool(store._maintenance.failing))
    monkeypatch.setattr(edge_rollups, "write_edges", write)
    async with opened() as store:
        await until(lambda: not store._snapshots.now.without_edges)
        await assert_same(store, expected)
