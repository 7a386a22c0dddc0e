"""The conventions by which requests, errors, durations and endpoints are recognised.

- Requests: the sum of the counter ``http.requests`` where a service sends it, else the number of observations of the
  histogram ``http.request.duration``.
- Errors: requests whose tag ``status`` (or ``http.response.status_code``, ``status_code``) is 5xx, or whose tag
  ``error`` is ``true``. When the counter has none of these tags and the histogram does, the ratio is the histogram's.
- Durations: the values of the histogram, in ms whatever their unit.
- A service that sends neither is measured by its server spans.
- An endpoint is a method and a route, which tags of the metrics or attributes of the spans name.
"""

from __future__ import annotations

from typing import Final

from vantage.core.sample import Kind
from vantage.core.series import Series

REQUESTS: Final = "http.requests"
DURATION: Final = "http.request.duration"
STATUS_TAGS: Final = ("status", "http.response.status_code", "status_code")
ERROR_TAG: Final = "error"
ROUTE_TAGS: Final = ("http.route", "route", "endpoint", "path", "handler")
METHOD_TAGS: Final = ("http.request.method", "http.method", "method")
ROUTE_ATTRIBUTES: Final = ("http.route", "url.template")
METHOD_ATTRIBUTES: Final = ("http.request.method", "http.method")
MS_PER_UNIT: Final = {"s": 1000.0, "us": 0.001, "ns": 0.000_001}  # of durations; other units count as ms


def is_requests(series: Series) -> bool:
    """Return whether the series counts requests."""
    return series.metric == REQUESTS and series.kind is Kind.COUNTER


def is_durations(series: Series) -> bool:
    """Return whether the series observes the durations of requests."""
    return series.metric == DURATION and series.kind is Kind.HISTOGRAM


def is_error(series: Series) -> bool:
    """Return whether the series is of failed requests."""
    return series.tag(ERROR_TAG) == "true" or any(
        len(status := series.tag(tag)) == 3 and status.startswith("5") for tag in STATUS_TAGS
    )


def tells_errors(series: Series) -> bool:
    """Return whether a tag of the series says if its requests failed."""
    return any(series.tag(tag) for tag in (*STATUS_TAGS, ERROR_TAG))


def first_tag(series: Series, tags: tuple[str, ...]) -> str:
    """Return the value of the first of the tags that the series has, '' for none."""
    return next((value for tag in tags if (value := series.tag(tag))), "")
