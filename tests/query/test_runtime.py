"""The figures of processes: by instance and worker, those that there are."""

from tests.support.context_writes import write_batch
from tests.support.pages import page_context
from tests.support.samples import HOUR_MS, NOW_MS, a_series
from vantage.core.batch import build_batch
from vantage.core.sample import Kind
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.runtime import PROCESSES_MAX, Runtime, read_runtime

LAST_HOUR = TimeRange(NOW_MS - HOUR_MS, NOW_MS)


async def write_process(context: QueryContext, instance: str, worker: str = "", *, cpu: float = 5.0) -> None:
    tags = {"worker": worker} if worker else {}
    rows = []
    for metric, unit, value in (("process.cpu.percent", "%", cpu), ("process.memory.rss", "bytes", 1e6)):
        series = a_series("api", metric, Kind.GAUGE, tags=tags, unit=unit, instance=instance)
        rows += [(series, NOW_MS - 15_000 * number - 1, value + number) for number in range(20)]
    await write_batch(context, build_batch(rows))


async def runtime_of(context: QueryContext, service: str = "api") -> Runtime:
    return await read_runtime(context, LAST_HOUR, service=service)


async def test_each_process_has_its_newest_and_largest_values() -> None:
    async with page_context() as context:
        await write_process(context, "host-1", "1", cpu=50)
        await write_process(context, "host-1", "0")
        await write_process(context, "host-0", "10")
        await write_process(context, "host-0", "9")
        runtime = await runtime_of(context)
        assert [(metric.label, unit) for metric, unit in runtime.metrics] == [("CPU", "%"), ("Memory", "bytes")]
        assert [(process.instance, process.worker) for process in runtime.processes] == [
            ("host-0", "9"), ("host-0", "10"), ("host-1", "0"), ("host-1", "1"),
        ]  # fmt: skip
        busiest = runtime.processes[3]
        latest, largest = busiest.latest("process.cpu.percent"), busiest.largest("process.cpu.percent")
        assert latest is not None
        assert largest is not None
        assert 50 <= latest < largest <= 69
        assert busiest.latest("process.threads") is None


async def test_processes_beyond_the_limit_are_counted() -> None:
    async with page_context() as context:
        for number in range(PROCESSES_MAX + 3):
            await write_process(context, f"host-{number:02d}")
        runtime = await runtime_of(context)
        assert (len(runtime.processes), runtime.omitted) == (PROCESSES_MAX, 3)


async def test_without_such_metrics_there_is_nothing() -> None:
    async with page_context() as context:
        await write_batch(context, build_batch([(a_series("api", "m"), NOW_MS - 1, 1.0)]))
        assert await runtime_of(context) == Runtime((), (), 0)
        assert await runtime_of(context, "nobody") == Runtime((), (), 0)
