"""What a running query keeps in memory of data that was sealed meanwhile, and what a failed one keeps: nothing."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.support.samples import MovedClock
from tests.support.spans import many_spans
from tests.support.wait import until
from vantage.core.batch import Batch
from vantage.core.errors import BusyError, InputError
from vantage.core.record import Record
from vantage.core.sample_columns import concat_samples
from vantage.storage.embedded import malloc
from vantage.storage.embedded.maintain.worker import TRIM_EVERY_S
from vantage.storage.embedded.read.snapshot import Generation, PinnedSnapshot, Snapshot, Snapshots
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.embedded.write.head import Head
from vantage.storage.ports import Trace
from vantage.storage.query_pool import QueryPool
from vantage.telemetry import Telemetry

SPANS = tuple(many_spans(100))
NBYTES = 1_000_000  # of a block, as the tests say


class Filling:
    """A head that is filled and sealed, a generation at a time."""

    def __init__(self, *, retained_nbytes_max: int) -> None:
        self.head = Head()
        self.snapshots = Snapshots(self.head, retained_nbytes_max=retained_nbytes_max)
        self._number = 0

    def fill(self) -> None:
        self.head.append(Record(concat_samples([]), SPANS, NBYTES))

    def seal(self) -> None:
        """Close the generation, and seal it."""
        head = self.head
        self._number += 1
        generation = Generation(self._number, 1, head.samples, head.spans, head.nbytes, 0, len(SPANS))

        def close(snapshot: Snapshot) -> Snapshot:
            head.replace((), ())
            return replace(snapshot, sealing_generations=(*snapshot.sealing_generations, generation))

        self.snapshots.publish(close)
        self.snapshots.publish(lambda snapshot: replace(snapshot, sealing_generations=()))


def block_of(pinned: PinnedSnapshot | Head) -> weakref.ref[object]:
    return weakref.ref(pinned.spans[0])


def test_a_query_on_samples_keeps_no_spans() -> None:
    filling = Filling(retained_nbytes_max=NBYTES)
    filling.fill()
    block = block_of(filling.head)
    with filling.snapshots.pinned(spans=False) as pinned:
        assert not pinned.spans
        filling.seal()
        gc.collect()
        assert block() is None
        pinned.check()


def test_queries_that_keep_too_much_end_the_largest_first() -> None:
    filling = Filling(retained_nbytes_max=3 * NBYTES // 2)
    filling.fill()
    with filling.snapshots.pinned() as small:
        filling.fill()
        with filling.snapshots.pinned() as large:
            small.check()
            large.check()  # the head has it as well
            filling.seal()
            small.check()
            with pytest.raises(BusyError, match="half of head_bytes_max"):
                large.check()
        small.check()


def test_exports_are_not_ended() -> None:
    filling = Filling(retained_nbytes_max=NBYTES // 2)
    filling.fill()
    with filling.snapshots.pinned(may_end=False) as export:
        filling.seal()
        export.check()
        filling.fill()
        with filling.snapshots.pinned() as query:
            query.check()
            filling.seal()
            with pytest.raises(BusyError):
                query.check()


@pytest.mark.parametrize("error", [InputError("too much"), MemoryError()], ids=["refused", "no memory"])
async def test_a_failed_query_keeps_nothing_of_what_it_had_read(error: Exception) -> None:
    class Vector:
        pass

    read_vectors: list[weakref.ref[Vector]] = []

    def query() -> None:
        vector = Vector()
        read_vectors.append(weakref.ref(vector))

        def evaluate() -> Callable[[], Vector]:
            raise error

        [evaluate() for _ in (lambda: vector,)]

    pool = QueryPool(1)
    pool.start()
    gc.disable()
    try:
        with pytest.raises(type(error)) as raised:
            await pool.run(query)
        assert raised.value is error
        assert read_vectors[0]() is None
    finally:
        gc.enable()
        await pool.stop()


async def test_the_memory_of_a_trace_is_counted(tmp_path: Path) -> None:
    spans = tuple(msgspec.structs.replace(span, trace_id="one") for span in many_spans(3000))

    async def trace(query_nbytes_max: int) -> Trace:
        async with EmbeddedStore(
            tmp_path, clock=MovedClock(), telemetry=Telemetry(), query_nbytes_max=query_nbytes_max
        ) as store:
            await store.write(Batch(spans=spans, batch_id="b"))
            await store.seal()
            return await store.trace("one")

    with pytest.raises(InputError, match="query_memory_max"):
        await trace(1 << 20)
    assert len((await trace(1 << 24)).spans) == len(spans)


async def test_memory_is_given_back_after_a_query_has_ended_and_after_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, trims = MovedClock(), list[float]()
    monkeypatch.setattr(malloc, "trim", lambda: trims.append(clock.monotonic_s()))

    async def trimmed_after(moment_s: float) -> None:
        def trimmed() -> bool:
            clock.now += int(1000 * TRIM_EVERY_S)
            return any(at_s > moment_s for at_s in trims)

        await until(trimmed)

    async with EmbeddedStore(tmp_path, clock=clock, telemetry=Telemetry()) as store:
        await store.write(Batch(spans=SPANS, batch_id="b"))
        await trimmed_after(clock.monotonic_s())
        run, began, may_end = store._threads.run, asyncio.Event(), asyncio.Event()

        async def long(work: Callable[[], Trace]) -> Trace:
            began.set()
            await may_end.wait()
            return await run(work)

        monkeypatch.setattr(store._threads, "run", long)
        query = asyncio.create_task(store.trace("one"))
        await began.wait()
        await trimmed_after(clock.monotonic_s())  # while it runs
        may_end.set()
        await query
        await trimmed_after(clock.monotonic_s())
