"""Charts of pages: the data that ``charts.js`` draws, as JSON in attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from vantage.core.deployment import Deployment
from vantage.core.rollup import FIVE_MINUTES_MS
from vantage.core.semconv import DURATION
from vantage.core.timerange import TimeRange
from vantage.query.anomalies import BAND_MS_MAX
from vantage.query.http_semconv import Buckets
from vantage.query.red import BucketValues, RedStats
from vantage.web.render import COLOURS, query_string

CHART_LINES_MAX: Final = 20
LINE_COLOURS: Final = ("--chart-rate", *(f"--c{number}" for number in range(1, COLOURS)))


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where the samples behind a point are: the URL of a listing of traces, '' for none, and for each line the URL of
    its exemplars, '' for none, all without a time."""

    traces: str = ""
    exemplars: tuple[str, ...] = ()

    def options(self, step_ms: int) -> dict[str, Any]:
        """Return the part of a chart's options."""
        return {"step": step_ms / 1000, "traces": self.traces, "exemplars": self.exemplars}


@dataclass(frozen=True, slots=True)
class Chart:
    """``options`` describe the chart, ``points`` are columns: times in seconds, then one list per line."""

    title: str
    note: str
    options: str
    points: str


def chart(
    buckets: Buckets,
    title: str,
    note: str,
    unit: str,
    lines: Mapping[str, tuple[str, BucketValues]],
    *,
    deployments: Sequence[Deployment] = (),
    evidence: Evidence | None = None,
    expected: str = "",
) -> Chart:
    """Return a chart of lines by their label, each with its colour and values; deployments are marked. ``expected`` is
    the URL of the expected band, '' for none."""
    options = {
        "unit": unit,
        "start": buckets.start_ms / 1000,
        "end": buckets.end_ms / 1000,
        "lines": [{"label": label, "colour": colour} for label, (colour, _) in lines.items()],
        "marks": _marks(deployments),
        **(evidence.options(buckets.step_ms) if evidence else {}),
        **({"expected": expected} if expected else {}),
    }
    times = [at_ms / 1000 for at_ms in buckets.starts_ms()]
    # Each column on a line of its own: an update of a live page changes the end of each.
    columns = ",\n".join(map(_json, [times, *(points for _, points in lines.values())]))
    return Chart(title, note, _json(options), f"[{columns}]")


def chart_of_lines(
    time_range: TimeRange,
    step_ms: int,
    unit: str,
    lines: Sequence[tuple[str, str, Sequence[float], bool]],
    *,
    deployments: Sequence[Deployment] = (),
    evidence: Evidence | None = None,
    expected: str = "",
) -> Chart:
    """Return a chart of lines: label, colour, a value for each step (NaN for none), and whether it is dashed.
    ``expected`` is the URL of the expected band, '' for none."""
    options = {
        "unit": unit,
        "start": time_range.start_ms / 1000,
        "end": time_range.end_ms / 1000,
        "lines": [{"label": label, "colour": colour, "dashed": dashed} for label, colour, _, dashed in lines],
        "marks": _marks(deployments),
        **(evidence.options(step_ms) if evidence else {}),
        **({"expected": expected} if expected else {}),
    }
    times = [at_ms / 1000 for at_ms in range(time_range.start_ms, time_range.end_ms, step_ms)]
    columns = [[None if value != value else value for value in values] for _, _, values, _ in lines]
    return Chart(unit, "", _json(options), _json([times, *columns]))


def chart_of_points(
    times_ms: Sequence[int],
    lines: Sequence[tuple[str, str, Sequence[float | None]]],
    *,
    unit: str = "",
    band: tuple[int, int] | None = None,
) -> Chart:
    """Return a chart of lines at times of their own: label, colour, and a value for each time, which ascend. Between
    the two lines that ``band`` numbers, from 0, the chart is shaded."""
    options = {
        "unit": unit,
        "start": times_ms[0] / 1000,
        "end": times_ms[-1] / 1000,
        "lines": [{"label": label, "colour": colour} for label, colour, _ in lines],
        **({"band": band} if band else {}),
    }
    return Chart("", "", _json(options), _json([[at_ms / 1000 for at_ms in times_ms], *(line[2] for line in lines)]))


def red_charts(red: RedStats, buckets: Buckets, deployments: Sequence[Deployment], *, service: str) -> list[Chart]:
    """Return charts of a service's rate, errors and durations; only the rate if it sends neither requests nor spans."""

    figures = {"Requests": "rate", "Errors": "errors", "Duration": "p95"}

    def marked(title: str, note: str, unit: str, lines: Mapping[str, tuple[str, BucketValues]], **wanted: str) -> Chart:
        exemplars: tuple[str, ...] = ()
        if red.source == "metrics" and title == "Duration":
            url = f"/api/metrics/exemplars{query_string({'service': service, 'metric': DURATION})}"
            exemplars = (url,) * len(lines)
        evidence = Evidence(f"/traces{query_string({'service': service, **wanted})}", exemplars)
        expected = band_url(buckets.start_ms, buckets.end_ms, service, figures.get(title, ""))
        return chart(buckets, title, note, unit, lines, deployments=deployments, evidence=evidence, expected=expected)

    if red.source == "samples":
        return [marked("Samples", "per second", "/s", {"samples": ("quiet", red.rates_per_s)})]
    percents = tuple(None if ratio is None else ratio * 100 for ratio in red.error_ratios)
    return [
        marked("Requests", "per second", "/s", {"requests": ("rate", red.rates_per_s)}),
        marked("Errors", "of all requests", "%", {"errors": ("errors", percents)}, status="error"),
        marked(
            "Duration",
            "p50, p95, p99",
            "ms",
            {"p50": ("p50", red.p50s_ms), "p95": ("p95", red.p95s_ms), "p99": ("p99", red.p99s_ms)},
        ),
    ]


def band_url(start_ms: int, end_ms: int, service: str, figure: str, metric: str = "") -> str:
    """Return the URL of the expected band of a series; '' for no figure and for ranges that have none. It begins and
    ends with a bucket of 5 minutes, so that a live page changes it as seldom."""
    start_ms = start_ms // FIVE_MINUTES_MS * FIVE_MINUTES_MS
    end_ms = -(-end_ms // FIVE_MINUTES_MS) * FIVE_MINUTES_MS
    if not figure or not 4 * FIVE_MINUTES_MS <= end_ms - start_ms <= BAND_MS_MAX:
        return ""
    query = {"service": service, "figure": figure, "metric": metric, "start": start_ms, "end": end_ms, "points": 300}
    return f"/api/anomalies/band{query_string(query)}"


def _marks(deployments: Sequence[Deployment]) -> list[tuple[float, str]]:
    return [(deployment.at_ms / 1000, deployment.version) for deployment in deployments]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
