"""The series of the store, by id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vantage.core.series import Series
from vantage.storage.series_overflow import OVERFLOW_SERIES_MAX, OVERFLOWED_COUNTED_MAX, overflow


class SeriesRegistry:
    """Series by id. Only the writer's thread changes it; other threads may read it meanwhile."""

    def __init__(self, *, series_max: int) -> None:
        self._series_max = series_max
        self._by_id: dict[int, Series] = {}
        self.overflowed: set[int] = set()  # ids of series beyond the limit, up to OVERFLOWED_COUNTED_MAX

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def by_id(self) -> Mapping[int, Series]:
        return self._by_id

    def resolve(self, series: Sequence[Series], fresh: dict[int, Series]) -> list[Series]:
        """Return the series that take the samples of ``series``.

        New ones are put into ``fresh``: ``add`` them once they are durable. Beyond ``series_max`` it is the overflow
        series of the same metric. Raises ValueError when two identities share an id.
        """
        resolved = []
        for sent in series:
            target = sent
            known = self._by_id.get(target.id) or fresh.get(target.id)
            count = len(self._by_id) + len(fresh)
            if known is None and count >= self._series_max:
                if len(self.overflowed) < OVERFLOWED_COUNTED_MAX:
                    self.overflowed.add(target.id)
                target = overflow(target, for_all=count >= self._series_max + OVERFLOW_SERIES_MAX)
                known = self._by_id.get(target.id) or fresh.get(target.id)
            if known is None:
                known = fresh[target.id] = target
            elif known is not target and known.canonical() != target.canonical():
                raise ValueError(f"two series share the id {target.id:016x}")
            resolved.append(known)
        return resolved

    def add(self, series: Iterable[Series]) -> None:
        """Add series."""
        self._by_id.update((item.id, item) for item in series)

    def drop(self, ids: Iterable[int]) -> int:
        """Remove series, and return how many were there."""
        return sum(self._by_id.pop(series_id, None) is not None for series_id in ids)

    def names(self) -> set[tuple[str, str]]:
        """Return every pair of service and metric."""
        return {(series.service, series.metric) for series in list(self._by_id.values())}
