"""How an anomaly's numbers come about: a VQL query of its value, and a snippet of numpy that computes the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vantage.analysis.anomaly import DISTANCE_MIN, SHARES, USUAL_FACTOR
from vantage.analysis.profile import BAND_SPREADS, SIGMA_OF_ABS
from vantage.core.anomaly import Anomaly
from vantage.core.rollup import FIVE_MINUTES_MS
from vantage.core.sample import Kind
from vantage.core.semconv import DURATION, ERROR_TAG, REQUESTS, STATUS_TAGS
from vantage.query.context import QueryContext
from vantage.query.vql_text import quoted


async def value_query(context: QueryContext, anomaly: Anomaly) -> str:
    """Return VQL that computes the value from samples or spans. Raises what the store raises."""
    bucket = f"timestamp >= {anomaly.start_ms} AND timestamp < {anomaly.start_ms + FIVE_MINUTES_MS}"
    service = f"service_name = {quoted(anomaly.service)}"
    seconds = FIVE_MINUTES_MS // 1000
    if anomaly.figure == "metric":
        value = f"sum(value) / {seconds}" if anomaly.evidence.get("kind") == Kind.COUNTER else "avg(value)"
        where = f"{service} AND metric_name = {quoted(anomaly.metric)}"
        return f"SELECT {value} AS value\nFROM metrics\nWHERE {where}\n  AND {bucket}"
    metrics = {info.series.metric for info in await context.store.list_series(service=anomaly.service)}
    if not metrics & {REQUESTS, DURATION}:
        value = {
            "rate": f"count() / {seconds}",
            "errors": "countIf(status = 'error') / count()",
            "p95": "quantile(0.95)(duration_ns) / 1000000",
        }[anomaly.figure]
        return f"SELECT {value} AS value\nFROM spans\nWHERE {service} AND kind = 'server'\n  AND {bucket}"
    counter = REQUESTS in metrics
    number, failed = ("sum(value)", "sumIf") if counter else ("count()", "countIf")
    conditions = [f"tags['{tag}'] LIKE '5__'" for tag in STATUS_TAGS] + [f"tags['{ERROR_TAG}'] = 'true'"]
    is_error = " OR ".join(conditions)
    value, metric = {
        "rate": (f"{number} / {seconds}", REQUESTS if counter else DURATION),
        "errors": (
            f"{failed}({'value, ' if counter else ''}{is_error}) / {number}",
            REQUESTS if counter else DURATION,
        ),
        "p95": ("quantile(0.95)(value)", DURATION),
    }[anomaly.figure]
    return f"SELECT {value} AS value\nFROM metrics\nWHERE {service} AND metric_name = '{metric}'\n  AND {bucket}"


def numpy_snippet(anomaly: Anomaly) -> str:
    """Return Python that computes ``score``, ``expected``, ``low`` and ``high`` from the evidence; '' without any."""
    evidence = anomaly.evidence
    pairs: Sequence[Mapping[str, Any]] = evidence.get("pairs", ())
    if anomaly.mode in ("sigma", "robust") and anomaly.expected is not None and anomaly.high is not None:
        # The spread is stored only as the band, which is two of it wide on each side.
        return "\n".join(
            [
                f"value, expected, high = {anomaly.value!r}, {anomaly.expected!r}, {anomaly.high!r}",
                "spread = (high - expected) / 2",
                "low = expected - 2 * spread",
                "score = abs(value - expected) / (3 * spread)",
            ]
        )
    if not pairs:
        return ""
    lines = [
        "import numpy as np",
        "",
        "# each pair: state, nearest remembered state, ranges, usual distance",
        "pairs = [",
    ]
    for pair in pairs:
        parts = (tuple(pair[name]) for name in ("state", "nearest", "range"))
        lines.append(f"    ({', '.join(map(repr, parts))}, {pair['usual']!r}),")
    lines += [
        "]",
        "score = sum(",
        "    np.hypot((s[0] - n[0]) / r[0], (s[1] - n[1]) / r[1])",
        f"    / max({DISTANCE_MIN}, {USUAL_FACTOR} * usual)",
        "    for s, n, r, usual in pairs",
        f") / {SHARES}",
    ]
    same, apart = evidence.get("same_hours", ()), evidence.get("apart", ())
    if same and anomaly.expected is not None:
        lines += [
            "",
            f"same_hours = {[*same]!r}  # {evidence['period']}",
            f"expected = {evidence['anchor']!r} + np.median(same_hours) + {evidence['trend']!r}",
        ]
        if apart and anomaly.low is not None:
            lines += [
                f"apart = {[*apart]!r}",
                f"spread = {SIGMA_OF_ABS} * np.median(apart)",
                f"low, high = expected - {BAND_SPREADS} * spread, expected + {BAND_SPREADS} * spread",
            ]
    return "\n".join(lines)
