"""Far more series than a store should have: totals stay right, the catalogue stays bounded, sealing goes on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from tests.support.samples import NOW_MS, MovedClock, a_series, count_query
from vantage.core.batch import Batch
from vantage.storage.embedded.store import EmbeddedStore
from vantage.telemetry import Telemetry
from vantage.vql.tree import TagValue

LONG = bool(os.environ.get("VANTAGE_TEST_LONG"))
OFFERED, SERIES_MAX = (1_000_000, 200_000) if LONG else (60_000, 8_000)
AT_ONCE = 2000


def opened(folder: Path) -> EmbeddedStore:
    return EmbeddedStore(
        folder,
        clock=MovedClock(),
        telemetry=Telemetry(),
        series_max=SERIES_MAX,
        generation_samples_max=OFFERED // 4,
    )


async def test_series_without_end_are_folded_and_everything_is_counted(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for start in range(0, OFFERED, AT_ONCE):
            series = tuple(a_series(tags={"user": str(n)}) for n in range(start, start + AT_ONCE))
            index = np.arange(AT_ONCE, dtype=np.uint32)
            await store.write(Batch(series, index, np.full(AT_ONCE, NOW_MS - start), np.ones(AT_ONCE)))
        await store.seal()
        ((count, total),) = (await store.select(count_query(), deadline_s=30)).rows()
        assert count == total == OFFERED
        grouped = await store.select(count_query(group_by=(TagValue("__overflow__"),)), deadline_s=30)
        assert {tag: samples for tag, samples, _ in grouped.rows()} == {"": SERIES_MAX, "true": OFFERED - SERIES_MAX}
        assert len(await store.list_series()) == SERIES_MAX + 1
        assert len(store._snapshots.now.sealing_generations) == 0
    async with opened(tmp_path) as store:
        ((count, _),) = (await store.select(count_query(), deadline_s=30)).rows()
        assert count == OFFERED
        assert len(await store.list_series()) == SERIES_MAX + 1
