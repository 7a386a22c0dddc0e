"""The catalogue: slots of whole requests, which are remembered."""

from __future__ import annotations

import pytest

from tests.support.samples import a_series
from vantage.core.series import Series
from vantage.storage.embedded.write import catalogue as catalogue_module
from vantage.storage.embedded.write.catalogue import Catalogue
from vantage.storage.series_overflow import SeriesLimit

SERIES = tuple(a_series(tags={"n": str(number)}) for number in range(5))


def opened(series_max: int = 100) -> Catalogue:
    return Catalogue(SeriesLimit(series_max=series_max, nbytes_max=1 << 30))


def commit(catalogue: Catalogue, wanted: tuple[Series, ...]) -> list[int]:
    """Return the slots of a commit's series, which are in the catalogue afterwards."""
    fresh: dict[int, tuple[int, Series]] = {}
    slots: list[int] = catalogue.slots_of(wanted, fresh).tolist()
    catalogue.add(list(fresh.values()))
    return slots


def test_a_request_has_the_slots_of_its_series_each_time() -> None:
    catalogue = opened()
    assert [commit(catalogue, SERIES[1:3]) for _ in range(3)] == [[0, 1]] * 3
    assert [commit(catalogue, SERIES) for _ in range(3)] == [[2, 0, 1, 3, 4]] * 3
    assert commit(catalogue, ()) == []


def test_slots_of_a_commit_that_failed_are_not_remembered() -> None:
    catalogue = opened()
    assert catalogue.slots_of(SERIES[:2], {}).tolist() == [0, 1]
    assert commit(catalogue, SERIES[1:3]) == [0, 1]
    assert commit(catalogue, SERIES[:2]) == [2, 0]


def test_a_series_that_was_deleted_gets_another_slot() -> None:
    catalogue = opened()
    for _ in range(2):
        assert commit(catalogue, SERIES[:3]) == [0, 1, 2]
    catalogue.drop([1])
    assert [commit(catalogue, SERIES[:3]) for _ in range(2)] == [[0, 3, 2]] * 2


def test_a_series_beyond_the_limit_gets_a_slot_of_its_own_when_there_is_room() -> None:
    catalogue = opened(series_max=2)
    commit(catalogue, SERIES[:2])
    overflowed = [commit(catalogue, SERIES[2:3]) for _ in range(2)]
    assert overflowed == [[2]] * 2, "the overflow series"
    catalogue.drop([0, 1])
    assert commit(catalogue, SERIES[2:3]) == [3]


def test_equal_series_from_another_cache_have_the_same_slots() -> None:
    catalogue = opened()
    again = tuple(a_series(tags={"n": str(number)}) for number in range(5))
    assert again[0] is not SERIES[0]
    assert [commit(catalogue, wanted) for wanted in (SERIES, again, again)] == [[0, 1, 2, 3, 4]] * 3


def test_what_is_remembered_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "RESOLVED_MAX", 12)
    catalogue = opened()
    commit(catalogue, SERIES)
    for first in range(5):
        for last in range(first, 5):
            commit(catalogue, SERIES[first:last])
            assert sum(map(len, catalogue._resolved)) == catalogue._resolved_size <= 12
