"""The series of the store, by id."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

from vantage.core.series import Series
from vantage.storage.series_overflow import SeriesLimit


class SeriesRegistry:
    """Series by id. Only the writer's thread resolves; other threads may read and add meanwhile."""

    def __init__(self, limit: SeriesLimit) -> None:
        self.limit = limit
        self._by_id: dict[int, Series] = {}
        self._guard = threading.Lock()

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def by_id(self) -> Mapping[int, Series]:
        return self._by_id

    def resolve(self, series: Sequence[Series], fresh: dict[int, Series]) -> list[Series]:
        """Return the series that take the samples of ``series``.

        New ones are put into ``fresh``: ``add`` them once they are durable. Beyond the limit it is the overflow
        series of the same metric. Raises ValueError when two identities share an id.
        """
        resolved, fresh_nbytes = [], sum(item.nbytes for item in fresh.values())
        for sent in series:
            target = sent
            known = self._by_id.get(target.id) or fresh.get(target.id)
            if known is None:
                target = self.limit.admit(target, count=len(self._by_id) + len(fresh), fresh_nbytes=fresh_nbytes)
                known = self._by_id.get(target.id) or fresh.get(target.id)
            if known is None:
                known = fresh[target.id] = target
                fresh_nbytes += target.nbytes
            elif known is not target and known.canonical() != target.canonical():
                raise ValueError(f"two series share the id {target.id:016x}")
            resolved.append(known)
        return resolved

    def add(self, series: Iterable[Series]) -> None:
        """Add series; those that are known stay as they are."""
        with self._guard:
            for item in series:
                if self._by_id.setdefault(item.id, item) is item:
                    self.limit.nbytes += item.nbytes

    def drop(self, ids: Iterable[int]) -> int:
        """Remove series, and return how many were there."""
        with self._guard:
            dropped = [series for series_id in ids if (series := self._by_id.pop(series_id, None)) is not None]
            self.limit.nbytes -= sum(series.nbytes for series in dropped)
        return len(dropped)

    def names(self) -> set[tuple[str, str]]:
        """Return every pair of service and metric."""
        return {(series.service, series.metric) for series in list(self._by_id.values())}
