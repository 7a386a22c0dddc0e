"""From the buffer to one batch: series, samples and spans as the server is told of them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vantage_agent._buffer import Buffer
from vantage_agent._config import Config
from vantage_agent._pack import pack_batch
from vantage_agent._span import Span
from vantage_agent._tracer import SAMPLE
from vantage_agent._tracer import SPAN as SPAN_ALONE

RECORDED_SAMPLE, RECORDED_SPAN = 0, 4  # what the application recorded itself; 1 to 3 are the tracer's
BATCH_ITEMS_MAX = 5000
BATCH_NBYTES_MAX = 512 << 10  # estimated, before compression; the server takes 1 MB packed and 8 MB unpacked
TAGS_MAX = 32
TAG_VALUE_LENGTH_MAX = 512
NAME_LENGTH_MAX = 512
ATTRIBUTES_MAX = 64
ATTRIBUTE_VALUE_LENGTH_MAX = 2048

Identity = tuple[str, str, str, "tuple[tuple[str, str], ...]"]  # metric, kind, unit, tags


@dataclass
class Column:
    """Samples of one series. ``exemplar`` is the largest value of a trace that is kept: place, trace and span."""

    times_ms: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    links: list[tuple[int, str, str]] = field(default_factory=list)
    exemplar: tuple[int, str, str] | None = None

    @property
    def all_links(self) -> list[tuple[int, str, str]]:
        return self.links if self.exemplar is None else [*self.links, self.exemplar]


@dataclass
class Batch:
    """What one request carries. Every attempt says the same under the same id."""

    items: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    columns: dict[Identity, Column] = field(default_factory=dict)
    spans: list[dict[str, Any]] = field(default_factory=list)
    batch_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def packed(self, resource: Mapping[str, str]) -> bytes:
        """In the packed format. Raises what ``pack_batch`` raises."""
        return pack_batch(
            batch_id=self.batch_id,
            resource=resource,
            series=[(name, kind, unit, dict(sorted(tags))) for name, kind, unit, tags in self.columns],
            samples=[
                (place, column.times_ms, column.values, column.all_links)
                for place, column in enumerate(self.columns.values())
            ],
            spans=self.spans,
            dropped=self.losses,
        )

    def json(self, resource: Mapping[str, str]) -> bytes:
        """The same for a server that knows JSON alone; the id goes into a header, and losses are not told."""
        metrics = []
        for (name, kind, unit, tags), column in self.columns.items():
            links = {place: (trace_id, span_id) for place, trace_id, span_id in column.all_links}
            for place, (time_ms, value) in enumerate(zip(column.times_ms, column.values)):
                one: dict[str, Any] = {"metric_name": name, "metric_type": kind, "timestamp": time_ms, "value": value}
                if unit:
                    one["unit"] = unit
                if tags:
                    one["tags"] = dict(tags)
                if place in links:
                    one["trace_id"], one["span_id"] = links[place]
                metrics.append(one)
        return json.dumps({**resource, "metrics": metrics, "spans": self.spans}, separators=(",", ":")).encode()


class BatchMaker:
    """Makes batches of what ``buffer`` holds, in the exporter's thread."""

    def __init__(self, config: Config, buffer: Buffer) -> None:
        self._config = config
        self._buffer = buffer

    def next(self) -> Batch | None:
        """The oldest items as one batch; None when there are none. An item that no batch can be made of is counted."""
        batch = Batch()
        nbytes = 0
        known: dict[Identity, Column] = {}  # before redaction, so that it is asked once a series
        while batch.items < BATCH_ITEMS_MAX and nbytes < BATCH_NBYTES_MAX:
            taken = self._buffer.take()
            if taken is None:
                break
            batch.items += 1
            try:
                nbytes += self._add(batch, known, *taken)
            except Exception:
                self._buffer.count_loss("internal_error")
        if not batch.items:
            return None
        batch.losses = self._buffer.take_losses()
        return batch

    def _add(self, batch: Batch, known: dict[Identity, Column], what: int, item: Any) -> int:
        """Returns by how many bytes the batch grew, by estimate."""
        if what == RECORDED_SPAN:
            return self._add_span(batch, item)
        if what == RECORDED_SAMPLE:
            *identity, time_ms, value, trace_id, span_id = item
            column, nbytes = self._column(batch, known, (*identity,))
            if trace_id:
                column.links.append((len(column.values), trace_id, span_id))
                nbytes += 4 + len(trace_id) + len(span_id)
            column.times_ms.append(time_ms)
            column.values.append(value)
            return nbytes + 18
        return self._add_traced(batch, known, what, item)

    def _add_traced(self, batch: Batch, known: dict[Identity, Column], what: int, span: Span) -> int:
        told = span.describe(span)
        nbytes = 0
        if what != SPAN_ALONE and told.metric:
            tags = tuple(told.tags.items())
            column, nbytes = self._column(batch, known, (told.metric, "histogram", "ms", tags))
            value = span.duration_ns / 1_000_000
            if span.kept and (column.exemplar is None or value > column.values[column.exemplar[0]]):
                column.exemplar = (len(column.values), span.trace_id, span.span_id)
            column.times_ms.append((span.start_ns + span.duration_ns) // 1_000_000)
            column.values.append(value)
            nbytes += 18
        if what != SAMPLE:
            is_error = span.failed or (span.kind == "client" and span.status_code >= 400)
            record: dict[str, Any] = {
                "trace_id": span.trace_id,
                "span_id": span.span_id,
                "name": told.name[:NAME_LENGTH_MAX] or "unnamed",
                "start_ns": span.start_ns,
                "duration_ns": span.duration_ns,
                "kind": span.kind,
                "status": "error" if is_error else "unset",
                "attributes": told.attributes,
            }
            if span.parent_id:
                record["parent_span_id"] = span.parent_id
            nbytes += self._add_span(batch, record)
        return nbytes

    def _add_span(self, batch: Batch, record: dict[str, Any]) -> int:
        attributes = record.pop("attributes", None)
        if attributes:
            allowed = list(self._allowed(attributes).items())[:ATTRIBUTES_MAX]
            if allowed:
                record["attributes"] = {key: value[:ATTRIBUTE_VALUE_LENGTH_MAX] for key, value in allowed}
        batch.spans.append(record)
        return 300 + sum(len(key) + len(value) for key, value in record.get("attributes", {}).items())

    def _column(self, batch: Batch, known: dict[Identity, Column], asked: Any) -> tuple[Column, int]:
        column = known.get(asked)
        if column is not None:
            return column, 0
        name, kind, unit, pairs = asked
        tags = {**self._config.tags, **dict(pairs)}
        cut = ((key, value[:TAG_VALUE_LENGTH_MAX]) for key, value in list(self._allowed(tags).items())[:TAGS_MAX])
        identity: Identity = (name, kind, unit, tuple(cut))
        column = known[asked] = batch.columns.setdefault(identity, Column())
        return column, len(name) + 20 + sum(4 * len(key) + 4 * len(value) for key, value in identity[3])

    def _allowed(self, pairs: Mapping[str, str]) -> Mapping[str, str]:
        """What may leave the process. A hook that fails lets nothing out."""
        allowed = self._config.allowed_tags
        if allowed is not None:
            pairs = {key: value for key, value in pairs.items() if key in allowed}
        if self._config.redact is None:
            return pairs
        try:
            kept = self._config.redact(dict(pairs))
            return {str(key): str(value) for key, value in (kept or {}).items() if value is not None}
        except Exception:
            self._buffer.count_loss("redaction_failed")
            return {}
