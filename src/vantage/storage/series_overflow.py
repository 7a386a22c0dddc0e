"""What happens to series beyond the limit of a store: their samples go to few series that stand for the others."""

from __future__ import annotations

from typing import Final

from vantage.core.series import Series, make_series

OTHER_TAG: Final = "__other__"
FOLDED_SERIES_MAX: Final = 10_000
FOLDED_REMEMBERED_MAX: Final = 100_000


def overflow(one: Series, *, whole: bool) -> Series:
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
