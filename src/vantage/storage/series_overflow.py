"""Series beyond a store's limit: their samples go to a few overflow series.

OpenTelemetry does the same with its cardinality limit:
https://opentelemetry.io/docs/specs/otel/metrics/sdk/#cardinality-limits
"""

from __future__ import annotations

from typing import Final

from vantage.core.sample import OVERFLOW
from vantage.core.series import Series, make_series

OVERFLOW_SERIES_MAX: Final = 10_000
OVERFLOW_NBYTES_MAX: Final = 16 << 20
OVERFLOWED_COUNTED_MAX: Final = 20_000
_EARLIER: Final = "__other__"  # what OVERFLOW was called before 0.1.0


class SeriesLimit:
    """Decides which new series a store takes: ``series_max`` of them, and ``nbytes_max`` bytes of memory."""

    def __init__(self, *, series_max: int, nbytes_max: int) -> None:
        self.series_max = series_max
        self._nbytes_max = nbytes_max
        self.overflowed: set[int] = set()  # ids of series beyond the limit, up to OVERFLOWED_COUNTED_MAX
        self.nbytes = 0  # of the series that the store has

    def admit(self, series: Series, *, count: int, fresh_nbytes: int) -> Series:
        """Return the series itself, or the overflow series that takes its samples.

        ``count`` series are known, and ``fresh_nbytes`` bytes of them are not in ``nbytes`` yet.
        """
        if count < self.series_max and self.nbytes + fresh_nbytes < self._nbytes_max:
            return series
        if len(self.overflowed) < OVERFLOWED_COUNTED_MAX:
            self.overflowed.add(series.id)
        # Overflow series have room of their own, beyond both limits.
        number_left = self.series_max + OVERFLOW_SERIES_MAX - count
        nbytes_left = self._nbytes_max + OVERFLOW_NBYTES_MAX - self.nbytes - fresh_nbytes
        return overflow(series, for_all=number_left <= 0 or nbytes_left <= 0)


def overflow(series: Series, *, for_all: bool) -> Series:
    """Return the series that takes the samples of ``series``, which is beyond the limit.

    It is one per metric, or with ``for_all`` (if there are too many of those) a single one for everything.
    """
    return make_series(
        service=OVERFLOW if for_all else series.service,
        environment=OVERFLOW if for_all else series.environment,
        metric=OVERFLOW if for_all else series.metric,
        kind=series.kind,
        unit="" if for_all else series.unit,
        tags={OVERFLOW: "true"},
    )


def with_present_name(series: Series) -> Series:
    """Return the overflow series of an earlier version under its present name, and any other series as it is."""
    if series.tags != ((_EARLIER, "true"),):
        return series
    return overflow(series, for_all=series.service == _EARLIER)
