"""Pages whose figures would take too much are shown without them, and say why."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.load import NO_RATES
from tests.support.server import serving

SAMPLES = 20_000


@pytest.mark.parametrize("page", ["/", "/services/shop"])
def test_a_page_does_without_figures_that_need_too_much_memory(page: str, tmp_path: Path) -> None:
    environ = {**NO_RATES, "VANTAGE_QUERY_MEMORY_MAX": str(1 << 20)}
    with serving(tmp_path / "data", environ=environ) as server:
        for first in range(0, SAMPLES, 5000):
            samples = [
                {"metric_name": "http.server.request.duration", "metric_type": "histogram", "value": first + n}
                for n in range(5000)
            ]
            assert server.send({"service_name": "shop", "metrics": samples}).status == 202
        answer = server.get(f"{page}?range=15m", Accept="text/html")
        assert answer.status == 200
        text = answer.body.decode()
        assert "Rates, errors and durations are not shown" in text
        assert "query_memory_max" in text
        assert "shop" in text
