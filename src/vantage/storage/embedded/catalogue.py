"""The series catalogue: which slot each series has, and what is held of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from vantage.core.batch import I64, U32
from vantage.core.sample import Kind
from vantage.core.series import Series, make_series

_decode = msgspec.msgpack.Decoder(tuple[str, str, str, Kind, str, tuple[tuple[str, str], ...]]).decode
_NEVER_FIRST = np.iinfo(np.int64).max
_NEVER_LAST = np.iinfo(np.int64).min


OTHER_TAG: Final = "__other__"
FOLDED_SERIES_MAX: Final = 10_000
FOLDED_REMEMBERED_MAX: Final = 100_000


def _folded(one: Series, *, whole: bool) -> Series:
    """The series that takes the samples of those beyond the limit: one a metric, and when there are too many of those
    (``whole``) a single one for all."""
    return make_series(
        service=OTHER_TAG if whole else one.service,
        environment=OTHER_TAG if whole else one.environment,
        metric=OTHER_TAG if whole else one.metric,
        kind=one.kind,
        unit="" if whole else one.unit,
        tags={OTHER_TAG: "true"},
    )


class Catalogue:
    """Changed by the writer thread alone; other threads may read: the list only grows, and arrays are replaced."""

    def __init__(self, *, series_max: int) -> None:
        self._series_max = series_max
        self.folded: set[int] = set()  # ids of series that were folded, as many as are remembered
        self.series: list[Series | None] = []
        self._slots: dict[int, int] = {}
        self.samples = np.zeros(0, np.int64)
        self.first_ms = np.zeros(0, np.int64)
        self.last_ms = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._slots)

    def load(self, slot: int, identity: bytes) -> None:
        """Put a series back at its slot (slots ascend). Raises ValueError for an identity that cannot be read."""
        service, environment, metric, kind, unit, tags = _decode(identity)
        one = make_series(
            service=service, environment=environment, metric=metric, kind=kind, unit=unit, tags=dict(tags)
        )
        self.series.extend([None] * (slot + 1 - len(self.series)))
        self.add([(slot, one)])

    def resolve(self, wanted: Sequence[Series], fresh: dict[int, tuple[int, Series]]) -> list[int]:
        """The slots of ``wanted``. A series not known yet gets the next slot and is noted in ``fresh`` by id: call
        ``add`` with it once it is durable. When there are ``series_max`` already, its samples go to the series of the
        same metric whose only tag is ``__other__``. Raises ValueError when two identities share an id."""
        slots = []
        for one in wanted:
            slot = self._slots.get(one.id)
            if slot is None and one.id not in fresh and len(self._slots) + len(fresh) >= self._series_max:
                if len(self.folded) < FOLDED_REMEMBERED_MAX:
                    self.folded.add(one.id)
                one = _folded(one, whole=len(self._slots) + len(fresh) >= self._series_max + FOLDED_SERIES_MAX)
                slot = self._slots.get(one.id)
            known = None
            if slot is not None:
                known = self.series[slot]
            elif one.id in fresh:
                slot, known = fresh[one.id]
            else:
                slot = len(self.series) + len(fresh)
                fresh[one.id] = (slot, one)
            if known is not None and known is not one and known.canonical() != one.canonical():
                raise ValueError(f"two series share the id {one.id:016x}")
            slots.append(slot)
        return slots

    def add(self, fresh: Sequence[tuple[int, Series]]) -> None:
        """Make series known. Slots must follow the last one."""
        for slot, one in fresh:
            if slot == len(self.series):
                self.series.append(one)
            else:
                self.series[slot] = one
            self._slots[one.id] = slot
        missing = len(self.series) - len(self.samples)
        if missing > 0:
            more = max(missing, len(self.samples) // 2, 64)
            self.samples = np.concatenate([self.samples, np.zeros(more, np.int64)])
            self.first_ms = np.concatenate([self.first_ms, np.full(more, _NEVER_FIRST)])
            self.last_ms = np.concatenate([self.last_ms, np.full(more, _NEVER_LAST)])

    def count(self, slot: U32, time_ms: I64) -> None:
        """Take samples into the statistics."""
        np.add.at(self.samples, slot, 1)
        np.minimum.at(self.first_ms, slot, time_ms)
        np.maximum.at(self.last_ms, slot, time_ms)

    def reset_counts(self) -> None:
        """Forget the statistics: what is left is counted again."""
        self.samples = np.zeros(len(self.series), np.int64)
        self.first_ms = np.full(len(self.series), _NEVER_FIRST)
        self.last_ms = np.full(len(self.series), _NEVER_LAST)

    def matching(self, *, service: str, environment: str) -> list[int]:
        """The slots of a service, an environment, or both ('' means any)."""
        return [
            slot
            for slot, one in enumerate(self.series)
            if one is not None
            and (not service or one.service == service)
            and (not environment or one.environment == environment)
        ]

    def drop(self, slots: Sequence[int]) -> None:
        """Forget series; their slots stay empty for ever."""
        for slot in slots:
            one = self.series[slot]
            if one is not None:
                del self._slots[one.id]
                self.series[slot] = None
                self.samples[slot] = 0
