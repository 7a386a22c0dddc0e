"""Live updates: what came of each series within a moment, and the bytes of many of them in a broker's message.

A message is the MessagePack array ``[services, updates]``: names of services with new data, and updates as
``[identity, count, sum, min, max, last, last_ms]`` with the canonical identity of the series.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from vantage.core.batch import Batch
from vantage.core.series import Series, series_of

MESSAGE_NBYTES: Final = 256 << 10  # of identities, after which another message begins
_UPDATE_NBYTES: Final = 64  # of an update without its identity


@dataclass(slots=True)
class Update:
    """A moment of a series: count, sum, extremes and the latest sample."""

    series: Series
    count: int
    total: float
    low: float
    high: float
    last: float
    last_ms: int
    encoded: bytes = b""  # what the web sends of it, made once for all subscribers

    def merge(self, later: Update) -> None:
        """Merge a later update into this one."""
        self.count += later.count
        self.total += later.total
        self.low, self.high = min(self.low, later.low), max(self.high, later.high)
        if later.last_ms >= self.last_ms:
            self.last, self.last_ms = later.last, later.last_ms


def updates_of(batches: Sequence[Batch]) -> list[Update]:
    """Return one update for each series that has a sample in the batches."""
    distinct = {series.id: series for batch in batches for series in batch.series}
    index_of = {series_id: index for index, series_id in enumerate(distinct)}
    indexes = [np.array([index_of[series.id] for series in batch.series], np.int64)[batch.index] for batch in batches]
    which = np.concatenate([*indexes, np.empty(0, np.int64)])
    if not len(which):
        return []
    time_ms = np.concatenate([batch.time_ms for batch in batches])
    order = np.lexsort((time_ms, which))  # of equal times the later batch is the later one
    which, time_ms = which[order], time_ms[order]
    value = np.concatenate([batch.value for batch in batches])[order]
    starts = np.flatnonzero(np.diff(which, prepend=-1))
    ends = np.append(starts[1:], len(which)) - 1
    known = list(distinct.values())
    return list(
        map(
            Update,
            [known[index] for index in which[starts].tolist()],
            (ends - starts + 1).tolist(),
            np.add.reduceat(value, starts).tolist(),
            np.minimum.reduceat(value, starts).tolist(),
            np.maximum.reduceat(value, starts).tolist(),
            value[ends].tolist(),
            time_ms[ends].tolist(),
        )
    )


def services_of(batches: Sequence[Batch]) -> set[str]:
    """Return the names of the services that the batches have data of."""
    return {series.service for batch in batches for series in batch.series} | {
        span.service_name for batch in batches for span in batch.spans
    }


class _Message(msgspec.Struct, array_like=True):
    services: list[str]
    updates: list[tuple[bytes, int, float, float, float, float, int]]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Message).decode


def encode_updates(updates: Sequence[Update], services: set[str]) -> Iterator[bytes]:
    """Yield messages that have all of it, each of about MESSAGE_NBYTES at most."""
    message, nbytes = _Message(sorted(services), []), 0
    for update in updates:
        identity = update.series.canonical()
        message.updates.append(
            (identity, update.count, update.total, update.low, update.high, update.last, update.last_ms)
        )
        nbytes += len(identity) + _UPDATE_NBYTES
        if nbytes >= MESSAGE_NBYTES:
            yield _encode(message)
            message, nbytes = _Message([], []), 0
    if message.services or message.updates:
        yield _encode(message)


def decode_updates(value: bytes) -> tuple[list[Update], set[str]]:
    """Return the updates and services of a message. Raises ValueError."""
    message = _decode(value)  # msgspec.DecodeError is a ValueError
    updates = [
        Update(series_of(identity), count, total, low, high, last, last_ms)
        for identity, count, total, low, high, last, last_ms in message.updates
    ]
    return updates, set(message.services)
