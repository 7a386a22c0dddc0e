"""The table of series, and what this process knows of it.

Other processes may add and delete series. Unknown ones are looked up as they are met, and every REFRESH_S seconds the
registry is compared with the table: a series that was deleted elsewhere is written again with its next sample.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import structlog

from vantage.core.series import Series
from vantage.storage.clickhouse.engine import Engine, Statement
from vantage.storage.clickhouse.rows import SERIES_SELECTED, read_series
from vantage.storage.clickhouse.series_registry import SeriesRegistry
from vantage.storage.series_overflow import OVERFLOW_SERIES_MAX

REFRESH_S: Final = 60.0
IDS_MAX: Final = 2000  # looked up by one statement
# Several processes may each have the most series that one may write. Further ones are not listed.
LOADED_FACTOR: Final = 2

_log = structlog.get_logger("vantage.storage.clickhouse")


class SeriesTable:
    """Loads series into the registry. Its methods block; any thread may call ``known``."""

    def __init__(self, engine: Engine, registry: SeriesRegistry) -> None:
        self._engine = engine
        self._registry = registry
        self._guard = threading.Lock()
        self._absent: set[int] = set()  # looked up without a result since the last refresh

    def load(self) -> None:
        """Load every series."""
        limit = f" LIMIT {self._loaded_max}" if self._engine.shared else ""
        text = f"SELECT {SERIES_SELECTED} FROM series FINAL{limit}"
        self._registry.add(read_series(self._engine.run(Statement(text))))

    def known(self, ids: Iterable[int]) -> Mapping[int, Series]:
        """Return the series by id, with those of ``ids`` that another process has written."""
        by_id = self._registry.by_id
        if self._engine.shared:
            unknown = [series_id for series_id in dict.fromkeys(ids) if series_id not in by_id]
            if unknown:
                self._look_up(unknown)
        return by_id

    def _look_up(self, ids: list[int]) -> None:
        with self._guard:
            ids = [series_id for series_id in ids if series_id not in self._absent]
            for start in range(0, len(ids), IDS_MAX):
                chunk = ids[start : start + IDS_MAX]
                if len(self._registry) + len(chunk) > self._loaded_max:
                    _log.warning("the tables have more series than are loaded", loaded=len(self._registry))
                    return
                names = ", ".join(map(str, chunk))
                text = f"SELECT {SERIES_SELECTED} FROM series FINAL WHERE series_id IN ({names})"
                self._registry.add(read_series(self._engine.run(Statement(text))))
                self._absent.update(series_id for series_id in chunk if series_id not in self._registry.by_id)

    def refresh(self) -> None:
        """Compare the registry with the table. Must not run beside a commit of this process."""
        with self._guard:
            self._absent.clear()
        result = self._engine.run(Statement("SELECT DISTINCT series_id FROM series"))
        stored = set(np.array(result.to_list("series_id"), np.uint64).tolist())
        self._registry.drop([series_id for series_id in list(self._registry.by_id) if series_id not in stored])
        self.known(stored)

    @property
    def _loaded_max(self) -> int:
        return LOADED_FACTOR * (self._registry.limit.series_max + OVERFLOW_SERIES_MAX)
