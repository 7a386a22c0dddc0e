"""What the processes of a pipeline report about themselves comes back as lag, rates, durations and dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.samples import NOW_MS, MovedClock
from vantage.core.batch import Batch, build_batch
from vantage.core.timerange import TimeRange
from vantage.ingest.self_telemetry import SelfTelemetry
from vantage.query.context import QueryContext
from vantage.query.http_semconv import split_buckets
from vantage.query.pipeline import ErrorRow, Pipeline, read_pipeline
from vantage.recent_errors import TEXTS_MAX, RecentErrors
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry


class Discarding:
    """A sink for processes that are measured by hand."""

    async def publish(self, batch: Batch) -> None:
        del batch


class Process:
    """A process that reports into the store on request."""

    def __init__(self, context: QueryContext, role: str, instance: str) -> None:
        self.telemetry = Telemetry()
        self.problem = ""
        self._context = context
        self._self = SelfTelemetry(
            Discarding(),
            clock=context.clock,
            telemetry=self.telemetry,
            requests=dict,
            queued_nbytes=int,
            broker=True,
            failing=(lambda: self.problem) if role == "worker" else None,
            role=role,
            version="1",
            instance=instance,
        )

    async def report(self) -> None:
        """Store one round of samples."""
        store = self._context.store
        assert isinstance(store, MemoryStore)
        await store.write(build_batch(self._self.measure()))


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    clock = MovedClock()
    async with MemoryMetadataStore(clock) as metadata:
        yield QueryContext(MemoryStore(clock=clock), metadata, clock, Telemetry())


async def read(context: QueryContext) -> Pipeline:
    now_ms = context.clock.now_ms()
    return await read_pipeline(
        context, split_buckets(TimeRange(now_ms - 900_000, now_ms + 1), points=60, now_ms=now_ms)
    )


async def test_each_process_is_shown_with_what_it_did(context: QueryContext) -> None:
    ingest, worker = Process(context, "ingest", "a"), Process(context, "worker", "b")
    ingest.telemetry.samples_accepted.inc(1500)
    ingest.telemetry.publish_duration.observe(0.25)
    worker.telemetry.message_processed(3)
    worker.telemetry.range_rows.observe(900)
    worker.telemetry.range_rows.observe(300)
    worker.telemetry.write_duration.observe(0.5)
    worker.telemetry.rebalances.inc()
    worker.telemetry.dead_letters.labels("unreadable").inc(2)
    worker.telemetry.kafka_lag.labels("0").set(7)
    worker.telemetry.kafka_lag.labels("1").set(5)
    for process in (ingest, worker):
        await process.report()
    pipeline = await read(context)
    first, second = pipeline.processes
    assert (first.instance, first.role, first.is_worker, first.received_per_s) == ("a", "ingest", False, 100.0)
    assert first.publish_ms == pytest.approx(250)
    assert (second.instance, second.role, second.is_worker, second.received_per_s) == ("b", "worker", True, None)
    assert (second.stored_per_s, second.range_rows) == (80.0, 600.0)
    assert (second.write_ms, second.rebalances, second.dead_letters) == (500.0, 1, 2)
    assert pipeline.dead_letters == {"unreadable": 2}
    assert pipeline.lag == 12
    assert pipeline.lags[-1] == 12.0


async def test_a_partition_is_that_of_the_worker_that_measured_it_last(context: QueryContext) -> None:
    before, after = Process(context, "worker", "z"), Process(context, "worker", "a")
    before.telemetry.kafka_lag.labels("0").set(90)
    after.telemetry.kafka_lag.labels("0").set(4)
    await before.report()
    await context.clock.sleep(70)
    await after.report()
    pipeline = await read(context)
    ((part),) = pipeline.partitions
    assert (part.number, part.lag, part.instance, part.at_ms) == (0, 4, "a", NOW_MS + 70_000)
    assert [value for value in pipeline.lags if value is not None] == [90.0, 90.0, 4.0]
    assert {row.instance: row.is_silent for row in pipeline.workers} == {"a": False, "z": True}


async def test_a_worker_that_cannot_store_says_so(context: QueryContext) -> None:
    worker = Process(context, "worker", "b")
    worker.problem = "the store does not answer"
    await worker.report()
    assert (await read(context)).workers[0].is_failing
    worker.problem = ""
    await context.clock.sleep(15)
    await worker.report()
    assert not (await read(context)).workers[0].is_failing


async def test_the_latest_errors_of_all_processes_are_shown_with_their_text(context: QueryContext) -> None:
    worker, now_ms = Process(context, "worker", "b"), context.clock.now_ms()
    worker.telemetry.errors = RecentErrors(context.clock.now_ms)
    context.telemetry.errors = RecentErrors(context.clock.now_ms)
    for _ in range(3):
        worker.telemetry.errors.note("consumer", "the store\ndoes not answer")
    await worker.report()
    await worker.report()
    await context.clock.sleep(10)
    worker.telemetry.errors.note("dead letters", "the message is damaged")
    context.telemetry.errors.note("self telemetry", "the broker does not answer")
    await worker.report()
    assert set((await read(context)).errors) == {
        ErrorRow("b", "worker", "dead letters", "the message is damaged", 1, now_ms + 10_000),
        ErrorRow("this process", "", "self telemetry", "the broker does not answer", 1, now_ms + 10_000),
        ErrorRow("b", "worker", "consumer", "the store does not answer", 3, now_ms),
    }
    assert (await read(context)).errors[-1].part == "consumer"


def test_errors_have_a_limit_and_what_could_not_be_reported_is_reported_later() -> None:
    errors = RecentErrors(lambda: 1)
    for number in range(TEXTS_MAX + 10):
        errors.note("part", f"{number} {'x' * 1000}")
    assert len(errors.latest()) == TEXTS_MAX
    unreported = errors.take_unreported()
    assert [len(error.text) for error in unreported] == [200] * TEXTS_MAX
    assert errors.take_unreported() == []
    errors.give_back(unreported)
    errors.note("part", unreported[0].text)
    assert sum(error.count for error in errors.take_unreported()) == TEXTS_MAX + 1


async def test_without_reports_there_is_nothing(context: QueryContext) -> None:
    pipeline = await read(context)
    assert (pipeline.processes, pipeline.partitions, pipeline.lag) == ((), (), None)
