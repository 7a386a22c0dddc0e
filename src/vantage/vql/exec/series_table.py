"""The series of a source as columns: a condition on names is evaluated once per name, on tags once per series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np

from vantage.core.arrays import I64, Array, Mask
from vantage.core.dict_column import DictColumn
from vantage.core.series import Series
from vantage.vql.exec.budget import QueryBudget
from vantage.vql.exec.frame import Frame
from vantage.vql.tree import Column as ColumnOf
from vantage.vql.tree import Expr, TagValue, children, conjuncts

_GET: Final[dict[str, Callable[[Series], str]]] = {
    "service_name": lambda series: series.service,
    "environment": lambda series: series.environment,
    "metric_name": lambda series: series.metric,
    "metric_type": lambda series: series.kind.value,
    "unit": lambda series: series.unit,
}
NAMES: Final = tuple(_GET)


class SeriesColumns:
    """Series by slot, None where a series was deleted, with the code of each name.

    One thread appends and sets; others may meanwhile read the arrays they were given.
    """

    def __init__(self, series: Iterable[Series | None] = ()) -> None:
        self.series: list[Series | None] = []
        self._codes = {name: np.zeros(0, np.int64) for name in NAMES}
        self._values: dict[str, list[str]] = {name: [] for name in NAMES}
        self._numbers: dict[str, dict[str, int]] = {name: {} for name in NAMES}
        self._present = np.zeros(0, np.bool_)
        for one_series in series:
            self.append(one_series)

    def __len__(self) -> int:
        return len(self.series)

    def append(self, series: Series | None) -> None:
        slot = len(self.series)
        if slot >= len(self._present):
            size = max(256, 2 * slot)
            for name, codes in self._codes.items():
                self._codes[name] = np.concatenate([codes, np.zeros(size - len(codes), np.int64)])
            self._present = np.concatenate([self._present, np.zeros(size - len(self._present), np.bool_)])
        self.series.append(None)
        self.set(slot, series)

    def set(self, slot: int, series: Series | None) -> None:
        """Change the series of a slot.

        Arrays that readers use are not changed under them, but for one bit: whether the series exists.
        """
        if series is not None:
            for name, get in _GET.items():
                text, numbers = get(series), self._numbers[name]
                code = numbers.get(text)
                if code is None:
                    self._values[name].append(text)
                    code = numbers[text] = len(numbers)
                self._codes[name][slot] = code
        self.series[slot] = series
        self._present[slot] = series is not None

    @property
    def present(self) -> Mask:
        return self._present[: len(self.series)]

    @property
    def group(self) -> I64:
        """Return a number by slot, equal for all series of a metric and service; those of a metric are neighbours."""
        size = len(self.series)
        groups: I64 = self._codes["metric_name"][:size] << 32 | self._codes["service_name"][:size]
        return groups

    def column(self, name: str, slots: Array | None = None) -> DictColumn[Any]:
        """Return a name of every slot, or of the given slots."""
        codes = self._codes[name][: len(self.series)]
        return DictColumn(codes if slots is None else codes[slots], self._values[name])

    def matching(self, where: Expr | None) -> Mask:
        """Return which slots have a series that meets the condition."""
        matches = self.present.copy()
        # Names are cheap and leave few series: tags are looked at only in those.
        for part in sorted(conjuncts(where), key=_looks_at_tags):
            slots = np.flatnonzero(matches)
            matches[slots] = self.frame(slots).condition(part)
        return matches

    def frame(self, slots: Array, budget: QueryBudget | None = None) -> Frame:
        """Return a frame of one row per slot."""

        def of(name: str) -> Callable[[], DictColumn[Any]]:
            return lambda: self.column(name, slots)

        columns: dict[str, Callable[[], Any]] = {name: of(name) for name in NAMES}
        columns["tags"] = lambda: DictColumn(np.arange(len(slots)), self.tags(slots))
        return Frame(len(slots), columns, budget=budget)

    def tags(self, slots: Array) -> list[dict[str, str]]:
        return [dict(series.tags) if (series := self.series[slot]) is not None else {} for slot in slots.tolist()]

    def at(self, slots: Array) -> Sequence[Series | None]:
        return [self.series[slot] for slot in slots.tolist()]


def _looks_at_tags(expr: Expr) -> bool:
    return isinstance(expr, TagValue) or expr == ColumnOf("tags") or any(map(_looks_at_tags, children(expr)))
