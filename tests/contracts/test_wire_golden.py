"""The agent and the server share no code; these bytes keep them in step.

Each ``wire/*.json`` describes a batch for people, each ``wire/*.bin`` is that batch in the packed format. The agent
must produce exactly these bytes, and the server must read from them what the description says. Bytes that agents in
the field have sent once may not change: a new description gets a new file. To make the bytes of one:

    python -m tests.contracts.test_wire_golden
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.ingest import packed_format
from vantage.ingest.wire.packed import MEDIA_TYPE
from vantage_agent import _pack

WIRE = Path(__file__).parent / "wire"
NAMES = sorted(path.stem for path in WIRE.glob("*.json"))
NOW_MS = 1_800_000_000_000


def description(name: str) -> Any:
    return json.loads((WIRE / f"{name}.json").read_text(encoding="utf-8"))


def encoded(described: Any) -> bytes:
    """What the agent makes of a description."""
    sent = described["input"]
    return _pack.pack_batch(
        batch_id=sent["batch"],
        resource=sent["resource"],
        series=sent["series"],
        samples=[(*entry, []) if len(entry) == 3 else tuple(entry) for entry in sent["samples"]],
        spans=[record(**span) for span in sent.get("spans", ())],
        dropped=sent.get("dropped"),
    )


def record(
    *, trace_id: str, span_id: str, name: str, start_ns: int, duration_ns: int, parent_span_id: str = "", **fields: Any
) -> _pack.SpanRecord:
    return trace_id, span_id, parent_span_id, start_ns, duration_ns, _pack.SpanTemplate(name, fields)


def test_there_is_a_file_of_bytes_for_every_description() -> None:
    assert len(NAMES) >= 6
    assert sorted(path.stem for path in WIRE.glob("*.bin")) == NAMES


def test_both_sides_name_the_format_alike() -> None:
    assert _pack.MEDIA_TYPE == MEDIA_TYPE


@pytest.mark.parametrize("name", NAMES)
def test_the_agent_writes_these_bytes(name: str) -> None:
    assert encoded(description(name)) == (WIRE / f"{name}.bin").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_are_messagepack_as_others_read_it(name: str) -> None:
    sent = description(name)["input"]
    decoded = msgspec.msgpack.decode((WIRE / f"{name}.bin").read_bytes())
    assert decoded == {key: value for key, value in sent.items() if value or key in ("series", "samples")}


@pytest.mark.parametrize("name", NAMES)
def test_the_server_reads_what_is_described(name: str) -> None:
    sent = description(name)["input"]
    received = packed_format().receive((WIRE / f"{name}.bin").read_bytes(), batch_id="", now_ms=NOW_MS, oldest_ms=0)
    assert (received.rejected, received.errors) == (0, [])
    assert received.dropped == sent.get("dropped", {})
    batch, resource = received.batch, sent["resource"]
    assert batch.batch_id == sent["batch"]
    reserved = {key: resource[key] for key in ("service_version", "instance") if key in resource}
    rows = []
    for index, times, values, *links in sent["samples"]:
        metric, kind, unit, tags = sent["series"][index]
        identity = (
            resource["service_name"],
            resource.get("environment", "default"),
            metric,
            kind,
            unit,
            tuple(sorted({**tags, **reserved}.items())),
        )
        by_position = {position: (trace_id, span_id) for position, trace_id, span_id in (links[0] if links else [])}
        rows += [
            (identity, time_ms, float(value), by_position.get(position))
            for position, (time_ms, value) in enumerate(zip(times, values, strict=True))
        ]
    exemplars = {position: (trace_id, span_id) for position, trace_id, span_id in batch.exemplars.rows()}
    assert [
        (
            (item.service, item.environment, item.metric, item.kind.value, item.unit, item.tags),
            int(batch.time_ms[row]),
            float(batch.value[row]),
            exemplars.get(row),
        )
        for row, item in enumerate(batch.series[i] for i in batch.index.tolist())
    ] == rows
    assert [span_as_sent(span, resource) for span in batch.spans] == [
        {
            "parent_span_id": "",
            "kind": "internal",
            "status": "unset",
            "service_name": resource["service_name"],
            **span,
            "attributes": {key: as_text(value) for key, value in span.get("attributes", {}).items()},
        }
        for span in sent.get("spans", [])
    ]


def span_as_sent(span: Any, resource: dict[str, str]) -> dict[str, Any]:
    assert span.environment == resource.get("environment", "default")
    assert (span.service_version, span.instance) == (resource.get("service_version", ""), resource.get("instance", ""))
    names = ("trace_id", "span_id", "parent_span_id", "service_name", "name", "start_ns", "duration_ns")
    results = {name: getattr(span, name) for name in names}
    return {**results, "kind": span.kind.value, "status": span.status.value, "attributes": span.attributes}


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    for name in NAMES:
        path = WIRE / f"{name}.bin"
        if not path.exists():
            path.write_bytes(encoded(description(name)))
            print(path)
