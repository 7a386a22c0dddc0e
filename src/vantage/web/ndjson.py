"""Encode batches as lines of JSON, without loss, for export and import.

A line has the fields that ``/v1/metrics`` and ``/v1/spans`` accept. Floats are written by Python's ``repr``: the
shortest decimal that reads back as the same float, with the sign of -0.0.
"""

from __future__ import annotations

from typing import Final

import msgspec

from vantage.core.batch import Batch
from vantage.core.sample import TAG_INSTANCE, TAG_VERSION
from vantage.core.series import Series
from vantage.core.span import Span, SpanKind, SpanStatus

MEDIA_TYPE: Final = "application/x-ndjson"
_RESERVED: Final = (TAG_VERSION, TAG_INSTANCE)
_encoder: Final = msgspec.json.Encoder()


class SpanLine(msgspec.Struct, tag_field="type", tag="span", omit_defaults=True, gc=False):
    """A span as ``/v1/spans`` accepts it, always with kind, status and environment."""

    trace_id: str
    span_id: str
    service_name: str
    environment: str
    name: str
    kind: SpanKind
    status: SpanStatus
    start_ns: int
    duration_ns: int
    parent_span_id: str = ""
    service_version: str = ""
    instance: str = ""
    attributes: dict[str, str] = {}


def encode_lines(batch: Batch) -> bytes:
    """Return one line for each sample and span."""
    return _sample_lines(batch) + _encoder.encode_lines([_span_line(span) for span in batch.spans])


def _sample_lines(batch: Batch) -> bytes:
    heads = [_head(series) for series in batch.series]
    tails = {
        position: f',"trace_id":"{trace_id}"' + (f',"span_id":"{span_id}"' if span_id else "")
        for position, trace_id, span_id in batch.exemplars.rows()
    }  # ids contain nothing that JSON must escape
    rows = zip(batch.index.tolist(), batch.time_ms.tolist(), batch.value.tolist(), strict=True)
    if not tails:
        return "".join([f'{heads[index]}{time_ms},"value":{value!r}}}\n' for index, time_ms, value in rows]).encode()
    return "".join(
        [
            f'{heads[index]}{time_ms},"value":{value!r}{tails.get(row, "")}}}\n'
            for row, (index, time_ms, value) in enumerate(rows)
        ]
    ).encode()


def _head(series: Series) -> str:
    """Return a line up to the sample's time, which is the same for all samples of a series."""
    fields = {
        "type": "sample",
        "service_name": series.service,
        "environment": series.environment,
        "metric_name": series.metric,
        "metric_type": series.kind.value,
        "unit": series.unit,
        "tags": {key: value for key, value in series.tags if key not in _RESERVED},
        **{key: value for key, value in series.tags if key in _RESERVED},
    }
    return _encoder.encode(fields).decode()[:-1] + ',"timestamp":'


def _span_line(span: Span) -> SpanLine:
    return SpanLine(
        trace_id=span.trace_id,
        span_id=span.span_id,
        service_name=span.service_name,
        environment=span.environment,
        name=span.name,
        kind=span.kind,
        status=span.status,
        start_ns=span.start_ns,
        duration_ns=span.duration_ns,
        parent_span_id=span.parent_span_id,
        service_version=span.service_version,
        instance=span.instance,
        attributes=span.attributes,
    )
