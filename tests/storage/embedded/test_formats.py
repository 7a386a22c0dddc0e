"""Folders written by earlier versions are read. ``python -m tests.storage.embedded.test_formats FOLDER`` makes one as
this version writes it; a new format adds a folder beside the others, and none is ever changed."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.samples import NOW_MS, MovedClock, a_batch, a_series, a_span, count_query, of_service
from vantage.core.batch import build_batch
from vantage.core.exemplars import encode_exemplars
from vantage.core.sample import Kind
from vantage.storage.embedded.format import segment
from vantage.storage.embedded.offline.folder_reader import ReadOnlyFolder
from vantage.storage.embedded.offline.verify import verify_segments
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.embedded.write import journal
from vantage.storage.ports import Selector
from vantage.telemetry import Telemetry

FORMATS = Path(__file__).parent / "formats"
FOLDERS = sorted(path.name for path in FORMATS.iterdir())


def opened(folder: Path) -> EmbeddedStore:
    return EmbeddedStore(folder, clock=MovedClock(), telemetry=Telemetry())


async def make(folder: Path) -> None:
    """Samples of a histogram over two weeks with an exemplar and a span, a deleted service, unusual values; where this
    version seals, the odd values alone are not sealed."""
    latency = a_series(tags={"k": "ü"}, kind=Kind.HISTOGRAM, metric="latency", unit="ms")
    links = encode_exemplars(np.array([0], np.uint32), ["t1"], ["s1"])
    async with opened(folder) as store:
        rows = [(latency, NOW_MS - 1000 * i, 0.25 * i) for i in range(100)]
        await store.write(
            build_batch(rows, exemplars=links, spans=(a_span(attributes={"http.route": "/pay"}),), batch_id="b1")
        )
        await store.write(a_batch(1.0, series=a_series("gone")))
        await store.delete(Selector(service="gone"))
        await store.seal()
        await store.write(a_batch(5e-324, -0.0, 1e300, series=a_series("api", "odd")))


@pytest.mark.parametrize("name", FOLDERS)
async def test_a_folder_of_an_earlier_format_is_read_and_written_on(tmp_path: Path, name: str) -> None:
    shutil.copytree(FORMATS / name, tmp_path / "data")
    for _ in range(2):
        async with opened(tmp_path / "data") as store:
            ((count, _),) = (await store.select(count_query(of_service("api")), deadline_s=5)).rows()
            assert count == 103
            assert {info.series.service for info in await store.list_series()} == {"api"}
            trace = await store.trace("t1")
            assert [sample.value for sample in trace.samples] == [0.0]
            assert [span.attributes for span in trace.spans] == [{"http.route": "/pay"}]
            assert await store.write(a_batch(1.0, batch_id="b1")) is False, "its batch ids are remembered"
            await store.seal()
            assert store.damaged_rows == 0
    looker = ReadOnlyFolder(tmp_path / "data")
    assert list(verify_segments(looker, looker.segments())) == []


def test_the_present_formats_have_a_folder() -> None:
    assert f"journal-{journal.FORMAT}-segments-{segment.FORMAT}" in FOLDERS


async def test_overflow_series_of_earlier_versions_take_their_present_name(tmp_path: Path) -> None:
    earlier = [
        a_series("api", "m", tags={"__other__": "true"}),
        a_series("__other__", "__other__", tags={"__other__": "true"}),
    ]
    async with opened(tmp_path / "data") as store:
        for series in earlier:
            await store.write(a_batch(1.0, series=series))
        await store.seal()
    async with opened(tmp_path / "data") as store:
        names = {(info.series.service, info.series.metric, info.series.tags) for info in await store.list_series()}
        tags = (("__overflow__", "true"),)
        assert names == {("api", "m", tags), ("__overflow__", "__overflow__", tags)}
        ((count, _),) = (await store.select(count_query(of_service("__overflow__")), deadline_s=5)).rows()
        assert count == 1


if __name__ == "__main__":
    asyncio.run(make(Path(sys.argv[1])))
