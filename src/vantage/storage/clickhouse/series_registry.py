"""The series that the store knows, by id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vantage.core.series import Series
from vantage.storage.series_overflow import OVERFLOW_SERIES_MAX, OVERFLOWED_COUNTED_MAX, overflow


class SeriesRegistry:
    """Changed by the writer's thread alone; others may look series up meanwhile."""

    def __init__(self, *, series_max: int) -> None:
        self._series_max = series_max
        self._by_id: dict[int, Series] = {}
        self.overflowed: set[int] = set()  # ids of series that were folded, as many as are remembered

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def by_id(self) -> Mapping[int, Series]:
        return self._by_id

    def resolve(self, wanted: Sequence[Series], fresh: dict[int, Series]) -> list[Series]:
        """The series that take the samples of ``wanted``; those not known yet are noted in ``fresh``: ``add`` them
        once they are durable. Beyond ``series_max`` it is the one of the same metric whose only tag is ``__overflow__``.
        Raises ValueError when two identities share an id."""
        found = []
        for one in wanted:
            known = self._by_id.get(one.id) or fresh.get(one.id)
            if known is None and len(self._by_id) + len(fresh) >= self._series_max:
                if len(self.overflowed) < OVERFLOWED_COUNTED_MAX:
                    self.overflowed.add(one.id)
                one = overflow(one, whole=len(self._by_id) + len(fresh) >= self._series_max + OVERFLOW_SERIES_MAX)
                known = self._by_id.get(one.id) or fresh.get(one.id)
            if known is None:
                known = fresh[one.id] = one
            elif known is not one and known.canonical() != one.canonical():
                raise ValueError(f"two series share the id {one.id:016x}")
            found.append(known)
        return found

    def add(self, series: Iterable[Series]) -> None:
        """Make series known."""
        self._by_id.update((one.id, one) for one in series)

    def drop(self, ids: Iterable[int]) -> int:
        """Forget series; how many were known."""
        return sum(self._by_id.pop(one, None) is not None for one in ids)

    def names(self) -> set[tuple[str, str]]:
        """Every service and metric."""
        return {(one.service, one.metric) for one in list(self._by_id.values())}
