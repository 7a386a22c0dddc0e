"""``/pipeline``: what waits in the broker, what workers store, and what they could not."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency

from vantage.query.context import QueryContext
from vantage.query.http_semconv import Buckets, split_buckets
from vantage.query.pipeline import Pipeline, read_pipeline
from vantage.web.api.health import HealthChecks
from vantage.web.pages.charts import Chart, chart
from vantage.web.pages.ranges import read_range
from vantage.web.render import shared_page

POINTS: Final = 60
PROCESSES_MAX: Final = 100
PARTITIONS_MAX: Final = 200


@get("/pipeline", include_in_schema=False)
async def pipeline(
    request: Request[Any, Any, Any],
    context: NamedDependency[QueryContext],
    health_checks: NamedDependency[HealthChecks],
) -> Response[bytes]:
    async def read() -> dict[str, Any]:
        page_range = await read_range(request, context)
        buckets = split_buckets(page_range.time_range, points=POINTS, now_ms=context.present().now_ms)
        data = await read_pipeline(context, buckets)
        health = await health_checks.check(draining=False)
        return {
            "section": "pipeline",
            "range": page_range,
            "pipeline": data,
            "charts": _charts(data, buckets),
            "dependencies": health.dependencies,
            "processes_max": PROCESSES_MAX,
            "partitions_max": PARTITIONS_MAX,
        }

    return await shared_page(request, "pages/pipeline.html", read)


def _charts(data: Pipeline, buckets: Buckets) -> list[Chart]:
    return [
        chart(
            buckets,
            "Throughput",
            "samples and spans per second",
            "/s",
            {"received": ("quiet", data.received_per_s), "stored": ("rate", data.stored_per_s)},
        ),
        chart(buckets, "Lag", "messages in the broker, not stored yet", "", {"messages": ("errors", data.lags)}),
        chart(
            buckets,
            "Duration",
            "until the broker has a batch, and of a write",
            "ms",
            {"publish": ("p50", data.publish_ms), "write": ("p95", data.write_ms)},
        ),
    ]


handlers = [pipeline]
