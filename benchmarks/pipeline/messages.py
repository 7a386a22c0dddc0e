"""The data of a plan as messages of the broker, published as ingest does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from benchmarks.storage.data import SERIES, SERVICES, Columns, Plan, all_series, windows
from vantage.core.arrays import I64
from vantage.core.batch import Batch
from vantage.core.exemplars import encode_exemplars
from vantage.core.series import Series
from vantage.stream.kafka.client import parse_url
from vantage.stream.kafka.sink import KafkaSink
from vantage.stream.kafka.topic_settings import TopicSettings

AT_ONCE: Final = 200  # messages that wait for the broker together
_PER_SERVICE: Final = SERIES // SERVICES


def batches(plan: Plan, samples: int) -> Iterator[Batch]:
    """Yield the data as batches of one service each, of at most ``samples``, in the order of time."""
    series = all_series()
    for window in windows(plan):
        link_of = np.full(len(window), -1, np.int64)
        link_of[window.linked] = np.arange(len(window.linked))
        owner = window.index // _PER_SERVICE
        rows_of = [np.flatnonzero(owner == service) for service in range(SERVICES)]
        for start in range(0, max(map(len, rows_of)), samples):
            for rows in rows_of:
                if len(own := rows[start : start + samples]):
                    yield _batch(window, own, link_of[own], series)


def _batch(window: Columns, rows: I64, links: I64, series: Sequence[Series]) -> Batch:
    present, index = np.unique(window.index[rows], return_inverse=True)
    position = np.flatnonzero(links >= 0)
    linked = links[position].tolist()
    return Batch(
        series=tuple(series[i] for i in present.tolist()),
        index=index.astype(np.uint32),
        time_ms=window.time_ms[rows],
        value=window.value[rows],
        exemplars=encode_exemplars(position, [window.trace_id[i] for i in linked], [window.span_id[i] for i in linked]),
    )


async def publish(url: str, plan: Plan, samples: int, *, partitions: int) -> None:
    """Create the topic, and publish the data in messages of at most ``samples``."""
    topics = TopicSettings(partitions=partitions)
    sink = KafkaSink(parse_url(url), topics, acks="all", compression="lz4", nbytes_max=256 << 20)
    async with sink:
        waiting: list[Batch] = []
        for batch in batches(plan, samples):
            waiting.append(batch)
            if len(waiting) == AT_ONCE:
                await asyncio.gather(*map(sink.publish, waiting))
                waiting.clear()
        await asyncio.gather(*map(sink.publish, waiting))
