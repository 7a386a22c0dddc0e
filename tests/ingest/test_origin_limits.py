"""However many services, versions and instances are sent, only so many are recorded."""

from __future__ import annotations

import json

import pytest

from tests.support.samples import NOW_MS, MovedClock
from vantage.core.batch import Batch
from vantage.ingest import origin_limits
from vantage.ingest.origin_limits import NAMES_PER_SERVICE_MAX, UNUSED_S, OriginLimits
from vantage.ingest.receive import Receiver
from vantage.telemetry import Telemetry


class CollectingSink:
    def __init__(self) -> None:
        self.batches: list[Batch] = []

    async def publish(self, batch: Batch) -> None:
        self.batches.append(batch)


async def sent(kind: str, names: dict[str, str], count: int, telemetry: Telemetry) -> list[tuple[str, str, str]]:
    """Send ``count`` samples or spans, each with another ``names``; return the names they are recorded under."""
    sink = CollectingSink()
    receiver = Receiver(sink, clock=MovedClock(), telemetry=telemetry, services_max=20)
    for i in range(count):
        envelope = {"service_name": "api", **{name: text.format(i) for name, text in names.items()}}
        item = (
            {"metric_name": "m", "value": 1, "timestamp": NOW_MS}
            if kind == "metrics"
            else {"trace_id": "t", "span_id": f"{i}", "name": "n", "start_ns": NOW_MS * 1_000_000, "duration_ns": 1}
        )
        body = json.dumps({**envelope, kind: [item]}).encode()
        received = receiver.decode(kind, "application/json", body, "")
        assert received.accepted == 1
        await receiver.publish(received)
    return [
        *((span.service_name, span.service_version, span.instance) for b in sink.batches for span in b.spans),
        *((s.service, s.tag("service_version"), s.tag("instance")) for b in sink.batches for s in b.series),
    ]


@pytest.mark.parametrize("kind", ["metrics", "spans"])
async def test_services_beyond_the_limit_share_one_name(kind: str) -> None:
    telemetry = Telemetry()
    recorded = await sent(kind, {"service_name": "service-{}"}, 100, telemetry)
    assert len(recorded) == 100
    assert len({service for service, _, _ in recorded}) == 21
    assert telemetry.registry.get_sample_value("vantage_ingest_overflow_total", {"name": "service"}) == 80


@pytest.mark.parametrize("kind", ["metrics", "spans"])
@pytest.mark.parametrize(("field", "position"), [("service_version", 1), ("instance", 2)])
async def test_versions_and_instances_of_a_service_are_bounded(
    kind: str, field: str, position: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin_limits, "NAMES_PER_SERVICE_MAX", 30)
    recorded = await sent(kind, {field: "name-{}"}, 50, Telemetry())
    names = [names[position] for names in recorded]
    assert len(set(names)) == 31
    assert names.count("__overflow__") == 20


def test_a_name_that_is_no_longer_sent_makes_room() -> None:
    clock = MovedClock()
    limits = OriginLimits(clock=clock, telemetry=Telemetry())
    for i in range(NAMES_PER_SERVICE_MAX):
        assert limits.admit("api", "test", f"v{i}", "")[2] == f"v{i}"
    assert limits.admit("api", "test", "new", "")[2] == "__overflow__"
    assert limits.admit("other", "test", "new", "")[2] == "new"
    clock.now += int(UNUSED_S * 1000) - 1000
    assert limits.admit("api", "test", "v0", "")[2] == "v0"
    clock.now += 2000
    assert limits.admit("api", "test", "new", "")[2] == "new"
    assert limits.admit("api", "test", "v0", "")[2] == "v0"
