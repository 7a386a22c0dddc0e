"""A script with its own metrics, timers and spans: `python examples/script.py`."""

import logging
import time

from vantage_agent import counter, gauge, init_agent, span, timer

init_agent(service_name="nightly", collector_url="http://127.0.0.1:8000", auto_instrument=["requests", "logging"])


@timer("report.render")
def render(rows: int) -> str:
    time.sleep(0.01)
    return "\n".join(str(row) for row in range(rows))


with span("report", attributes={"kind": "sales"}) as report:
    with span("read"):
        rows = 1000
        gauge("report.rows", rows)
    report.set_attribute("characters", len(render(rows)))
    counter("reports.made", tags={"kind": "sales"})
    logging.getLogger("nightly").warning("made a report of %d rows", rows)
