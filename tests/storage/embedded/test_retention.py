"""What expires from the embedded store, in which order, and that disk space is freed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.samples import HOUR_MS, NOW_MS, MovedClock, a_batch, a_series, a_span, count_query, of_service
from tests.support.wait import until
from vantage.core.batch import Batch, build_batch
from vantage.core.errors import BusyError, InputError
from vantage.core.retention import RetentionRule, parse_rule
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext
from vantage.query.timeseries import timeseries
from vantage.query.timeseries_query import TimeseriesQuery
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.lock import MAINTENANCE, FileLock
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.storage.ports import RetentionPolicy, Selector, TraceFilter
from vantage.telemetry import Telemetry

DAY_MS = 24 * HOUR_MS
Open = Callable[..., Any]


async def total(store: EmbeddedStore, *conditions: Any) -> int:
    ((count, _),) = (await store.select(count_query(*conditions), deadline_s=5)).rows()
    return int(count)


def noise(days_back: float, count: int = 5000, service: str = "api", metric: str = "m") -> Batch:
    """Samples that no codec makes small."""
    values = np.random.default_rng(int(days_back * 100)).random(count)
    series, at_ms = a_series(service, metric), NOW_MS - int(days_back * DAY_MS)
    return build_batch([(series, at_ms - i, float(value)) for i, value in enumerate(values)])


def on_disk(folder: Path) -> int:
    """Return the bytes that segments occupy in the file system, including deleted files that are still open."""
    result = []
    for path in (folder / "segments").glob("*.db*"):
        with suppress(FileNotFoundError):  # a log that the maintenance thread has closed
            result += [path.stat()] if not path.name.endswith("-shm") else []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = str(fd.readlink())
            if target.startswith(str(folder)) and target.endswith("(deleted)") and "-shm" not in target:
                result.append(fd.stat())
    return sum(series.st_blocks * 512 for series in result)


def budget_of(segments_nbytes: int) -> RetentionPolicy:
    """Return a budget with that much for segments: the journal, which is larger here, takes the other half."""
    return RetentionPolicy(budget_bytes=2 * segments_nbytes)


def segments(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "segments").glob("*.db"))


async def test_weeks_older_than_the_days_are_unlinked_and_their_space_is_free(
    opened: Open, clock: MovedClock, tmp_path: Path
) -> None:
    async with opened() as store:
        for days in (60, 50, 40, 3):
            await store.write(noise(days, 20_000))
            await store.write(Batch(spans=(a_span(f"t{days}", start_ms=NOW_MS - days * DAY_MS),)))
        await store.seal()
        assert await total(store) == 80_000
        before = on_disk(tmp_path / "data")
        deleted = await store.expire(RetentionPolicy(days=30))
        assert (deleted.samples, deleted.spans, deleted.series) == (60_000, 3, 0)
        assert deleted.nbytes > 60_000 * 6
        assert on_disk(tmp_path / "data") <= before - deleted.nbytes + 8192
        assert await total(store) == 20_000
        assert len(segments(tmp_path / "data")) == 2
        assert (await store.trace("t60")).spans == ()
    async with opened() as store:
        assert await total(store) == 20_000


async def test_expired_data_is_hidden_even_while_its_file_exists(opened: Open, clock: MovedClock) -> None:
    async with opened() as store:
        await store.write(a_batch(1.0, at_ms=NOW_MS - 8 * DAY_MS))
        await store.write(a_batch(2.0, at_ms=NOW_MS - 6 * DAY_MS))
        await store.write(Batch(spans=(a_span("old", start_ms=NOW_MS - 8 * DAY_MS), a_span("new", "s2"))))
        await store.seal()
        await store.write(a_batch(4.0, at_ms=NOW_MS - 8 * DAY_MS))
        await store.expire(RetentionPolicy(days=7))
        assert await total(store) == 1
        assert (await store.trace("old")).spans == ()
        result = await store.traces(TraceFilter(TimeRange(0, NOW_MS + HOUR_MS)))
        assert [series.trace_id for series in result] == ["new"]


async def test_series_without_data_are_removed_from_the_catalogue(opened: Open) -> None:
    async with opened() as store:
        await store.write(a_batch(1.0, series=a_series(tags={"k": "old"}), at_ms=NOW_MS - 40 * DAY_MS))
        await store.write(a_batch(2.0, series=a_series(tags={"k": "new"})))
        await store.seal()
        assert (await store.expire(RetentionPolicy(days=30))).series == 1
        await store.write(a_batch(4.0, series=a_series(tags={"k": "old"})))
        assert len(store._catalogue) == 2
    async with opened() as store:
        assert await total(store) == 2
        assert {info.series.tag("k") for info in await store.list_series()} == {"old", "new"}


async def test_beyond_the_budget_the_oldest_samples_expire_before_any_rollup(opened: Open, tmp_path: Path) -> None:
    async with opened() as store:
        for days in (70, 60, 50, 40, 30, 20, 10, 0):
            await store.write(noise(days, 20_000))
            await store.seal()
        before = on_disk(tmp_path / "data")
        deleted = await store.expire(budget_of(before // 2))
        assert on_disk(tmp_path / "data") <= before // 2 + 8192
        assert deleted.samples > 0
        assert await total(store) == 160_000 - deleted.samples
        names = segments(tmp_path / "data")
        assert sum(name.endswith("rollups.db") for name in names) >= 8, "rollups outlive samples"
        stored = [name for name in names if name.endswith("samples.db")]
        assert stored == sorted(stored)[-len(stored) :]
        assert await store.raw_since_ms() > NOW_MS - 70 * DAY_MS
        assert len(await store.list_series()) == 1, "a series of which there are rollups is still known"


async def test_with_only_rollups_a_coarse_step_reads_them_and_a_fine_one_warns(
    opened: Open, clock: MovedClock, tmp_path: Path
) -> None:
    async with opened() as store:
        for days in (30, 20, 0):
            await store.write(noise(days, 20_000))
            await store.seal()
        await store.expire(budget_of(on_disk(tmp_path / "data") * 6 // 10))
        context = QueryContext(store, MemoryMetadataStore(clock), clock, Telemetry())
        old = TimeRange(NOW_MS - 30 * DAY_MS - HOUR_MS, NOW_MS - 30 * DAY_MS + HOUR_MS)
        coarse = await timeseries(context, TimeseriesQuery("api", "m", old, agg="count", step_ms=300_000))
        assert (coarse.source, coarse.approximate) == ("5m", False)
        assert sum(point or 0 for point in coarse.groups[0].points) == 20_000
        fine = await timeseries(context, TimeseriesQuery("api", "m", old, agg="count", step_ms=60_000))
        assert fine.groups == []
        assert "5 minutes" in fine.warnings[0]
        auto = await timeseries(context, TimeseriesQuery("api", "m", old, agg="count"))
        assert auto.step_ms == 300_000
        assert sum(point or 0 for point in auto.groups[0].points) == 20_000


async def test_a_budget_too_small_for_one_week_drops_its_oldest_parts(opened: Open, tmp_path: Path) -> None:
    async with opened() as store:
        for n in range(6):
            await store.write(noise(0.5 - n * 0.05, 20_000))
            await store.seal()
        before = on_disk(tmp_path / "data")
        deleted = await store.expire(budget_of(before // 2))
        assert 40_000 <= deleted.samples < 120_000
        assert await total(store) == 120_000 - deleted.samples
        assert on_disk(tmp_path / "data") < 0.7 * before


async def test_rules_expire_only_what_they_name(opened: Open, clock: MovedClock) -> None:
    async with opened() as store:
        for days in (20, 1):
            for service, metric in (("api", "m"), ("api", "debug.x"), ("batch", "m")):
                await store.write(noise(days, 100, service, metric))
            spans = (a_span(f"a{days}", start_ms=NOW_MS - days * DAY_MS),
                     a_span(f"b{days}", service="batch", start_ms=NOW_MS - days * DAY_MS))  # fmt: skip
            await store.write(Batch(spans=spans))
        await store.seal()
        rules = (parse_rule("*/debug.*=7"), parse_rule("batch/*=10"))
        deleted = await store.expire(RetentionPolicy(rules=rules))
        assert (deleted.samples, deleted.spans) == (200, 1)
        assert await total(store, of_service("api")) == 300
        assert await total(store, of_service("batch")) == 100
        assert (await store.trace("b20")).spans == ()
        assert len((await store.trace("a20")).spans) == 1
        assert (await store.expire(RetentionPolicy(rules=rules))).samples == 0
    async with opened() as store:
        assert await total(store) == 400


@pytest.mark.parametrize(
    "text", ["", "checkout", "checkout=3", "a/b=0", "a/b=x", "a/b=-1", "*/*=3", "a/b=99999", "/m=3"]
)
def test_a_rule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_rule(text)


def test_a_rule_is_read_as_written() -> None:
    assert parse_rule("my = api/http.*=30") == RetentionRule(30, "my = api", "http.*")
    assert parse_rule("*/a/b=1") == RetentionRule(1, "", "a/b")


async def test_forgetting_frees_the_space_of_what_was_sealed(opened: Open, tmp_path: Path) -> None:
    async with opened() as store:
        await store.write(noise(0, 40_000, "gone"))
        await store.write(noise(0, 1000, "kept"))
        await store.seal()
        before = on_disk(tmp_path / "data")
        deleted = await store.delete(Selector(service="gone"))
        assert deleted.samples == 40_000
        assert deleted.nbytes > 40_000 * 6
        assert on_disk(tmp_path / "data") <= before - deleted.nbytes + 8192
        assert await total(store) == 1000


async def test_a_deletion_while_a_generation_waits_applies_to_it_too(opened: Open) -> None:
    async with opened() as store:
        await store.write(a_batch(1.0, series=a_series("gone")))
        await store._commits.run(store._seal_queue.close_generation)
        await store.write(a_batch(2.0, series=a_series("gone")))
        await store.write(a_batch(4.0))
        assert (await store.delete(Selector(service="gone"))).samples == 2
        await store.seal()
        assert await total(store) == 1
    async with opened() as store:
        assert await total(store) == 1


async def test_while_sealing_lags_behind_writes_are_busy_and_nothing_is_dropped(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = 0
    async with opened(head_nbytes_max=1 << 20) as store:
        sealing = store._seal_queue._sealer.write
        monkeypatch.setattr(store._seal_queue._sealer, "write", _fails)
        with pytest.raises(BusyError) as refused:
            for _ in range(100):
                await store.write(a_batch(*[1.0] * 5000))
                stored += 5000
        assert refused.value.retry_after_s >= 1
        assert await total(store) == stored
        monkeypatch.setattr(store._seal_queue._sealer, "write", sealing)

        def sealed() -> bool:
            store._seal_queue._retry_at_s = 0.0
            return store.unsealed_nbytes < 1 << 20

        await until(sealed)
        await store.write(a_batch(1.0))
        assert await total(store) == stored + 1
    async with opened() as store:
        assert await total(store) == stored + 1


def _fails(generation: Any) -> Any:
    raise OSError(28, "No space left on device")


async def test_data_deleted_during_a_backup_is_hidden_at_once_and_removed_afterwards(
    opened: Open, tmp_path: Path
) -> None:
    async with opened() as store:
        await store.write(noise(0, 40_000, "gone"))
        await store.write(Batch(spans=(a_span("t", service="gone"),)))
        await store.write(noise(0, 1000, "kept"))
        await store.seal()
        before = on_disk(tmp_path / "data")
        backup = FileLock(tmp_path / "data", MAINTENANCE)
        assert backup.take(wait=True)
        await store.delete(Selector(service="gone"))
        assert await total(store) == 1000
        assert (await store.trace("t")).spans == ()
        assert on_disk(tmp_path / "data") >= before
        backup.release()
        await until(lambda: not store._snapshots.now.hidden)
        assert on_disk(tmp_path / "data") < before / 2
        assert await total(store) == 1000
