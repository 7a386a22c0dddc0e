"""Series beyond a store's limit: their samples go to a few overflow series.

OpenTelemetry does the same with its cardinality limit:
https://opentelemetry.io/docs/specs/otel/metrics/sdk/#cardinality-limits
"""

from __future__ import annotations

from typing import Final

from vantage.core.series import Series, make_series

OVERFLOW: Final = "__overflow__"
OVERFLOW_SERIES_MAX: Final = 10_000
OVERFLOWED_COUNTED_MAX: Final = 100_000
_EARLIER: Final = "__other__"  # what OVERFLOW was called before 0.1.0


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
