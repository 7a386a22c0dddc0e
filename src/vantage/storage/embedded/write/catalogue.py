"""The series catalogue: which slot each series has, and what is held of it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from vantage.core.arrays import I64, U32, Mask
from vantage.core.rollup import HOUR_MS
from vantage.core.sample import Kind
from vantage.core.series import Series, make_series
from vantage.storage.series_overflow import OVERFLOW_SERIES_MAX, OVERFLOWED_COUNTED_MAX, overflow, with_present_name
from vantage.vql.exec.series_table import SeriesColumns

_decode = msgspec.msgpack.Decoder(tuple[str, str, str, Kind, str, tuple[tuple[str, str], ...]]).decode
_NEVER_FIRST = np.iinfo(np.int64).max
_NEVER_LAST = np.iinfo(np.int64).min


def read_identity(identity: bytes) -> Series:
    """The series of a canonical identity. Raises ValueError."""
    service, environment, metric, kind, unit, tags = _decode(identity)
    series = make_series(service=service, environment=environment, metric=metric, kind=kind, unit=unit, tags=dict(tags))
    return with_present_name(series)


class Catalogue:
    """Changed by the writer thread alone; other threads may read: the lists only grow, and arrays are replaced.

    ``samples`` counts what is held of each series as samples; ``first_ms`` and ``last_ms`` tell of samples and rollups
    alike, and ``held`` whether there is anything of it.
    """

    def __init__(self, *, series_max: int) -> None:
        self._series_max = series_max
        self.overflowed: set[int] = set()  # ids of series that were folded, as many as are remembered
        self.columns = SeriesColumns()
        self._slots: dict[int, int] = {}
        self.samples = np.zeros(0, np.int64)
        self.first_ms = np.zeros(0, np.int64)
        self.last_ms = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def series(self) -> Sequence[Series | None]:
        """By slot; None where a series is gone."""
        return self.columns.series

    def load(self, slot: int, identity: bytes) -> None:
        """Put a series back at its slot (slots ascend). Raises ValueError for an identity that cannot be read."""
        one = read_identity(identity)
        self.reserve(slot)
        self.add([(slot, one)])

    def reserve(self, slots: int) -> None:
        """Leave slots without a series, up to a number of them."""
        while len(self.columns) < slots:
            self.columns.append(None)
        self._grow()

    def resolve(self, wanted: Sequence[Series], fresh: dict[int, tuple[int, Series]]) -> list[int]:
        """The slots of ``wanted``. A series not known yet gets the next slot and is noted in ``fresh`` by id: call
        ``add`` with it once it is durable. When there are ``series_max`` already, its samples go to the series of the
        same metric whose only tag is ``__overflow__``. Raises ValueError when two identities share an id."""
        slots = []
        for one in wanted:
            slot = self._slots.get(one.id)
            if slot is None and one.id not in fresh and len(self._slots) + len(fresh) >= self._series_max:
                if len(self.overflowed) < OVERFLOWED_COUNTED_MAX:
                    self.overflowed.add(one.id)
                one = overflow(one, for_all=len(self._slots) + len(fresh) >= self._series_max + OVERFLOW_SERIES_MAX)
                slot = self._slots.get(one.id)
            known = None
            if slot is not None:
                known = self.series[slot]
            elif one.id in fresh:
                slot, known = fresh[one.id]
            else:
                slot = len(self.columns) + len(fresh)
                fresh[one.id] = (slot, one)
            if known is not None and known is not one and known.canonical() != one.canonical():
                raise ValueError(f"two series share the id {one.id:016x}")
            slots.append(slot)
        return slots

    def add(self, fresh: Sequence[tuple[int, Series]]) -> None:
        """Make series known. Slots must follow the last one."""
        for slot, one in fresh:
            if slot == len(self.columns):
                self.columns.append(one)
            else:
                self.columns.set(slot, one)
            self._slots[one.id] = slot
        self._grow()

    def _grow(self) -> None:
        missing = len(self.columns) - len(self.samples)
        if missing > 0:
            more = max(missing, len(self.samples) // 2, 64)
            self.first_ms = np.concatenate([self.first_ms, np.full(more, _NEVER_FIRST)])
            self.last_ms = np.concatenate([self.last_ms, np.full(more, _NEVER_LAST)])
            self.samples = np.concatenate([self.samples, np.zeros(more, np.int64)])

    def count(self, slot: U32, time_ms: I64) -> None:
        """Take samples into the statistics."""
        np.add.at(self.samples, slot, 1)
        self.extend(slot, time_ms, time_ms)

    def count_many(self, slot: U32, samples: I64, first_ms: I64, last_ms: I64) -> None:
        """Take what a part holds of some series into the statistics."""
        np.add.at(self.samples, slot, samples)
        self.extend(slot, first_ms, last_ms)

    def extend(self, slot: U32, first_ms: I64, last_ms: I64) -> None:
        """Something is held of these series at these times."""
        np.minimum.at(self.first_ms, slot, first_ms)
        np.maximum.at(self.last_ms, slot, last_ms)

    def extend_rolled(self, slot: U32, first_ms: I64, last_ms: I64) -> None:
        """Rollups are held of these series, their first and last bucket of an hour or less beginning at these times.
        Samples that are held of the same buckets tell it more exactly."""
        earlier = first_ms < self.first_ms[slot] // HOUR_MS * HOUR_MS
        np.minimum.at(self.first_ms, slot[earlier], first_ms[earlier])
        np.maximum.at(self.last_ms, slot, last_ms)

    def reset_counts(self) -> None:
        """Forget the statistics: what is left is counted again."""
        size = len(self.samples)
        self.first_ms, self.last_ms = np.full(size, _NEVER_FIRST), np.full(size, _NEVER_LAST)
        self.samples = np.zeros(size, np.int64)

    def has_data(self, slot: int) -> bool:
        """Whether anything is kept of a series."""
        return bool(self.last_ms[slot] != _NEVER_LAST)

    def empty(self) -> list[int]:
        """The slots of series of which nothing is held."""
        nothing = self.last_ms[: len(self.columns)] == _NEVER_LAST
        return np.flatnonzero(self.present() & nothing).tolist()

    def present(self) -> Mask:
        """By slot, whether there is a series."""
        return self.columns.present

    def find(self, **names: str) -> list[int]:
        """The slots of series by names of columns, such as ``service_name``; '' means any."""
        hit = self.present().copy()
        for name, text in names.items():
            if text:
                hit &= self.columns.column(name).mask(lambda value, text=text: value == text)  # type: ignore[misc]
        return [slot for slot in np.flatnonzero(hit).tolist() if slot < len(self.samples)]

    def drop(self, slots: Sequence[int]) -> None:
        """Forget series; their slots stay empty for ever."""
        for slot in slots:
            one = self.series[slot]
            if one is not None:
                del self._slots[one.id]
                self.columns.set(slot, None)
                self.samples[slot] = 0
                self.first_ms[slot], self.last_ms[slot] = _NEVER_FIRST, _NEVER_LAST
