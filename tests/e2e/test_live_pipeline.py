"""Live updates where the process that stores a batch is not the one whose pages show it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.support.pipeline import running_pipeline
from tests.support.wait import TIMEOUT_S, wait_until


@pytest.mark.timeout(300)
def test_an_api_hears_of_what_a_worker_stored(tmp_path: Path) -> None:
    pytest.importorskip("confluent_kafka", reason="pip install 'vantage[kafka]'")
    with running_pipeline(tmp_path, "worker1", "ingest1", "api1", environ={"VANTAGE_BATCH_WAIT_S": "0.2"}) as pipeline:
        api, ingest = pipeline.servers["api1"], pipeline.servers["ingest1"]
        url = api.url.replace("http", "ws")
        with connect(url + "/ws/metrics?service=live") as series, connect(url + "/ws/pages") as pages:

            def send() -> None:
                sample = {"metric_name": "m", "value": 2.5, "unit": "ms", "tags": {"k": "v"}}
                assert ingest.send({"service_name": "live", "metrics": [sample] * 3}).status == 202

            def heard() -> bool:
                send()
                try:
                    update = json.loads(series.recv(timeout=3))
                except TimeoutError:  # what is sent before this reader has the topic is not for it
                    return False
                assert update["type"] == "metric_update"
                assert update["data"]["tags"] == {"k": "v"}
                assert update["data"]["count"] % 3 == 0
                assert update["data"]["sum"] == 2.5 * update["data"]["count"]
                return True

            wait_until(heard)
            changed: set[str] = set()
            while "live" not in changed:
                changed |= set(json.loads(pages.recv(timeout=TIMEOUT_S))["services"])
            assert changed == {"*", "live"}

            pipeline.broker.kill()
            pipeline.broker.start()
            wait_until(heard)
        for server in pipeline.servers.values():
            assert "Traceback" not in server.output
