"""The series catalogue: the slot of each series, and statistics of its data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from vantage.core.arrays import I64, U32, Mask
from vantage.core.red import RedKeys, RedSlots
from vantage.core.rollup import HOUR_MS
from vantage.core.series import Series, series_of
from vantage.storage.edge_join import EdgeKeys
from vantage.storage.ports import ServiceInfo
from vantage.storage.series_overflow import SeriesLimit, with_present_name
from vantage.vql.exec.series_table import SeriesColumns

RESOLVED_MAX: Final = 1 << 16
_NEVER_FIRST = np.iinfo(np.int64).max
_NEVER_LAST = np.iinfo(np.int64).min


def read_identity(identity: bytes) -> Series:
    """Return the series of a canonical identity, under its present name. Raises ValueError."""
    return with_present_name(series_of(identity))


class Catalogue:
    """Changed by the commit thread alone; other threads may read: the lists only grow, and arrays are replaced.

    ``samples`` counts the samples of each series; ``first_ms`` and ``last_ms`` cover samples and rollups alike.
    """

    def __init__(self, limit: SeriesLimit) -> None:
        self.limit = limit
        self.columns = SeriesColumns()
        self.red = RedSlots(RedKeys(), self.columns.series)
        self.edges = EdgeKeys()
        self._slots: dict[int, int] = {}
        self._resolved: dict[tuple[Series, ...], U32] = {}  # the slots of whole requests
        self._resolved_size = 0
        self.samples = np.zeros(0, np.int64)
        self.first_ms = np.zeros(0, np.int64)
        self.last_ms = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def series(self) -> Sequence[Series | None]:
        """Return series by slot; None where a series was deleted."""
        return self.columns.series

    def load(self, slot: int, identity: bytes) -> None:
        """Restore a series at its slot (slots ascend). Raises ValueError for an identity that cannot be read."""
        series = read_identity(identity)
        self.reserve(slot)
        self.add([(slot, series)])

    def reserve(self, slots: int) -> None:
        """Leave slots without a series, up to the number ``slots``."""
        while len(self.columns) < slots:
            self.columns.append(None)
        self._grow()

    def slots_of(self, wanted: tuple[Series, ...], fresh: dict[int, tuple[int, Series]]) -> U32:
        """Return what ``resolve`` does, as an array that must not be changed. Senders repeat themselves: the slots of
        the same series are remembered, up to RESOLVED_MAX of them."""
        slots = self._resolved.get(wanted)
        if slots is None:
            numbers = self.resolve(wanted, fresh)
            slots = np.array(numbers, np.uint32)
            own = [self._slots.get(series.id) for series in wanted]  # None of a new one, and of one beyond the limit
            if own == numbers:
                if self._resolved_size + len(wanted) > RESOLVED_MAX:
                    self._clear_resolved()
                self._resolved[wanted] = slots
                self._resolved_size += len(wanted)
        return slots

    def _clear_resolved(self) -> None:
        self._resolved, self._resolved_size = {}, 0

    def resolve(self, wanted: Sequence[Series], fresh: dict[int, tuple[int, Series]]) -> list[int]:
        """Return the slots of ``wanted``.

        A new series gets the next slot and is put into ``fresh`` by id: call ``add`` with it once it is durable. Beyond
        the limit its samples go to the overflow series of the same metric. Raises ValueError when two identities share
        an id.
        """
        slots, fresh_nbytes = [], sum(series.nbytes for _, series in fresh.values())
        slot_of, series_of = self._slots.get, self.series
        for series in wanted:
            slot = slot_of(series.id)
            if slot is not None and series_of[slot] is series:
                slots.append(slot)
                continue
            if slot is None and series.id not in fresh:
                series = self.limit.admit(series, count=len(self._slots) + len(fresh), fresh_nbytes=fresh_nbytes)
                slot = self._slots.get(series.id)
            known = None
            if slot is not None:
                known = series_of[slot]
            elif series.id in fresh:
                slot, known = fresh[series.id]
            else:
                slot = len(self.columns) + len(fresh)
                fresh[series.id] = (slot, series)
                fresh_nbytes += series.nbytes
            if known is not None and known is not series and known.canonical() != series.canonical():
                raise ValueError(f"two series share the id {series.id:016x}")
            slots.append(slot)
        return slots

    def add(self, fresh: Sequence[tuple[int, Series]]) -> None:
        """Add series. Slots must follow the last one."""
        for slot, series in fresh:
            if slot == len(self.columns):
                self.columns.append(series)
            else:
                self.columns.set(slot, series)
            self._slots[series.id] = slot
            self.limit.nbytes += series.nbytes
        self._grow()

    def _grow(self) -> None:
        missing = len(self.columns) - len(self.samples)
        if missing > 0:
            more = max(missing, len(self.samples) // 2, 64)
            self.first_ms = np.concatenate([self.first_ms, np.full(more, _NEVER_FIRST)])
            self.last_ms = np.concatenate([self.last_ms, np.full(more, _NEVER_LAST)])
            self.samples = np.concatenate([self.samples, np.zeros(more, np.int64)])

    def count(self, slot: U32, time_ms: I64) -> None:
        """Add samples to the statistics."""
        rows = slot.astype(np.intp)  # which numpy would do for each of the three
        np.add.at(self.samples, rows, 1)
        np.minimum.at(self.first_ms, rows, time_ms)
        np.maximum.at(self.last_ms, rows, time_ms)

    def count_many(self, slot: U32, samples: I64, first_ms: I64, last_ms: I64) -> None:
        """Add what a part has of its series to the statistics."""
        np.add.at(self.samples, slot, samples)
        self.extend(slot, first_ms, last_ms)

    def extend(self, slot: U32, first_ms: I64, last_ms: I64) -> None:
        """Note that these series have data at these times."""
        np.minimum.at(self.first_ms, slot, first_ms)
        np.maximum.at(self.last_ms, slot, last_ms)

    def extend_rolled(self, slot: U32, first_ms: I64, last_ms: I64) -> None:
        """Note that these series have rollups, whose first and last bucket of an hour or less begin at these times.

        Samples of the same buckets are more exact.
        """
        earlier = first_ms < self.first_ms[slot] // HOUR_MS * HOUR_MS
        np.minimum.at(self.first_ms, slot[earlier], first_ms[earlier])
        np.maximum.at(self.last_ms, slot, last_ms)

    def reset_counts(self) -> None:
        """Clear the statistics, before they are counted again."""
        size = len(self.samples)
        self.first_ms, self.last_ms = np.full(size, _NEVER_FIRST), np.full(size, _NEVER_LAST)
        self.samples = np.zeros(size, np.int64)

    def has_data(self, slot: int) -> bool:
        """Return whether a series has any data."""
        return bool(self.last_ms[slot] != _NEVER_LAST)

    def empty(self) -> list[int]:
        """Return the slots of series without data."""
        nothing = self.last_ms[: len(self.columns)] == _NEVER_LAST
        return np.flatnonzero(self.present() & nothing).tolist()

    def present(self) -> Mask:
        """Return by slot whether there is a series."""
        return self.columns.present

    def find(self, **names: str) -> list[int]:
        """Return the slots of series by names of columns, such as ``service_name``; '' means any."""
        hit = self.present()
        for name, text in names.items():
            if text:
                matches = self.columns.column(name).mask(lambda value, text=text: value == text)  # type: ignore[misc]
                size = min(len(hit), len(matches))  # a commit may have added series in between
                hit = hit[:size] & matches[:size]
        return [slot for slot in np.flatnonzero(hit).tolist() if slot < len(self.samples)]

    def services(self, service: str = "") -> list[ServiceInfo]:
        """Return the samples of each service, environment and version; '' means any service."""
        size = min(len(self.present()), len(self.last_ms))
        slots = np.flatnonzero(self.present()[:size] & (self.last_ms[:size] != _NEVER_LAST))
        if service:
            named = self.columns.column("service_name", slots).mask(lambda name: name == service)
            slots = slots[named]
        codes, owners = self.red.owners(slots)
        samples = np.bincount(codes, self.samples[slots], len(owners)).astype(np.int64)
        first_ms, last_ms = np.full(len(owners), _NEVER_FIRST), np.full(len(owners), _NEVER_LAST)
        np.minimum.at(first_ms, codes, self.first_ms[slots])
        np.maximum.at(last_ms, codes, self.last_ms[slots])
        return [
            ServiceInfo(*owner, count, 0, first, last)
            for owner, count, first, last in zip(
                owners, samples.tolist(), first_ms.tolist(), last_ms.tolist(), strict=True
            )
        ]

    def drop(self, slots: Sequence[int]) -> None:
        """Remove series; their slots are never used again."""
        self._clear_resolved()
        for slot in slots:
            series = self.series[slot]
            if series is not None:
                del self._slots[series.id]
                self.limit.nbytes -= series.nbytes
                self.columns.set(slot, None)
                self.samples[slot] = 0
                self.first_ms[slot], self.last_ms[slot] = _NEVER_FIRST, _NEVER_LAST
