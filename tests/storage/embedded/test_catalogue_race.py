"""The catalogue is read while commits add series."""

from __future__ import annotations

import threading

from tests.support.samples import a_series
from vantage.storage.embedded.write.catalogue import Catalogue
from vantage.storage.series_overflow import SeriesLimit


def test_series_are_found_while_others_are_added() -> None:
    catalogue = Catalogue(SeriesLimit(series_max=100_000, nbytes_max=1 << 30))
    failures: list[Exception] = []
    added = threading.Event()

    def find() -> None:
        while not added.is_set():
            try:
                catalogue.find(service_name="s", metric_name="m")
            except Exception as error:  # noqa: BLE001 - any of them is the failure that this looks for
                failures.append(error)
                return

    readers = [threading.Thread(target=find) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(6000):
        catalogue.add([(number, a_series(tags={"n": str(number)}))])
    added.set()
    for reader in readers:
        reader.join()
    assert failures == []
