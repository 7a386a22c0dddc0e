"""The telemetry that the shop's processes recorded, and its batches in the packed format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from vantage.demo.shop import ENVIRONMENT

MEDIA_TYPE: Final = "application/vnd.vantage.v1+msgpack"
BATCH_NBYTES_MAX: Final = 900_000  # unpacked; the server's limit is eight million
_ROWS_MAX: Final = 10_000  # in one column of one batch

_encode: Final = msgspec.msgpack.Encoder().encode


class Origin(NamedTuple):
    """A process of the shop."""

    service: str
    version: str
    instance: int


class SeriesName(NamedTuple):
    """The identity of a series within its origin."""

    metric: str
    kind: str
    unit: str
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Column:
    """The samples of one series; ``links`` are (position, trace id, span id)."""

    times_ms: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    links: list[tuple[int, str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Recorded:
    """The telemetry of one process."""

    columns: dict[SeriesName, Column] = field(default_factory=dict)
    spans: list[dict[str, Any]] = field(default_factory=list)

    def column(self, name: SeriesName) -> Column:
        """Return the column of a series, a new one when there is none."""
        column = self.columns.get(name)
        if column is None:
            column = self.columns[name] = Column()
        return column


class Traffic(dict[Origin, Recorded]):
    """The telemetry of all processes."""

    def of(self, origin: Origin) -> Recorded:
        """Return the telemetry of a process, an empty one when there is none."""
        recorded = self.get(origin)
        if recorded is None:
            recorded = self[origin] = Recorded()
        return recorded

    @property
    def samples(self) -> int:
        return sum(len(column.times_ms) for recorded in self.values() for column in recorded.columns.values())


def bodies(traffic: Traffic, *, new_batch_id: Callable[[], str]) -> Iterator[bytes]:
    """Yield the batches that carry the traffic, each at most ``BATCH_NBYTES_MAX`` bytes."""
    for origin, recorded in traffic.items():
        batch = _Batch(origin, new_batch_id)
        for name, column in recorded.columns.items():
            series = msgspec.Raw(_encode([name.metric, name.kind, name.unit, dict(name.tags)]))
            for start in range(0, len(column.times_ms), _ROWS_MAX):
                yield from batch.add_samples(series, *_slice(column, start))
        for span in recorded.spans:
            yield from batch.add_span(msgspec.Raw(_encode(span)))
        yield from batch.close()


def _slice(column: Column, start: int) -> tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw]:
    end = start + _ROWS_MAX
    links = [(at - start, trace_id, span_id) for at, trace_id, span_id in column.links if start <= at < end]
    parts = (column.times_ms[start:end], column.values[start:end], links)
    times, values, encoded_links = (msgspec.Raw(_encode(part)) for part in parts)
    return times, values, encoded_links


class _Batch:
    """Fills batches of one origin. Parts are encoded when they are added, so that sizes are exact."""

    def __init__(self, origin: Origin, new_batch_id: Callable[[], str]) -> None:
        self._resource = {
            "service_name": origin.service,
            "environment": ENVIRONMENT,
            "service_version": origin.version,
            "instance": f"{origin.service}-{origin.instance}",
        }
        self._new_batch_id = new_batch_id
        self._begin()

    def _begin(self) -> None:
        self._series: list[msgspec.Raw] = []
        self._samples: list[tuple[int, *tuple[msgspec.Raw, ...]]] = []
        self._spans: list[msgspec.Raw] = []
        self._nbytes = 500  # the envelope

    def add_samples(self, series: msgspec.Raw, *columns: msgspec.Raw) -> Iterator[bytes]:
        yield from self._make_room(sum(map(len, map(bytes, (series, *columns)))) + 10)
        self._samples.append((len(self._series), *columns))
        self._series.append(series)

    def add_span(self, span: msgspec.Raw) -> Iterator[bytes]:
        yield from self._make_room(len(bytes(span)))
        self._spans.append(span)

    def close(self) -> Iterator[bytes]:
        if self._series or self._spans:
            yield _encode(
                {
                    "batch": self._new_batch_id(),
                    "resource": self._resource,
                    "series": self._series,
                    "samples": self._samples,
                    "spans": self._spans,
                }
            )
        self._begin()

    def _make_room(self, nbytes: int) -> Iterator[bytes]:
        if self._nbytes + nbytes > BATCH_NBYTES_MAX:
            yield from self.close()
        self._nbytes += nbytes
