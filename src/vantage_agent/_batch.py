"""From the buffer to one batch: series, samples and spans as the server is told of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vantage_agent._buffer import Buffer
from vantage_agent._config import Config
from vantage_agent._pack import SpanRecord, SpanTemplate, pack_batch, span_fields
from vantage_agent._span import Span
from vantage_agent._tracer import BOTH, SAMPLE
from vantage_agent._tracer import SPAN as SPAN_ALONE

RECORDED_SAMPLE, RECORDED_SPAN = 0, 4  # what the application recorded itself; 1 to 3 are the tracer's
BATCH_ITEMS_MAX = 5000
BATCH_NBYTES_MAX = 512 << 10  # estimated, before compression; the server takes 1 MB packed and 8 MB unpacked
BATCH_NBYTES_MIN = 16 << 10  # however little a server or proxy takes
LOSSES_METRIC = "vantage_agent.dropped"  # where the packed format is not understood
TAGS_MAX = 32
TAG_VALUE_LENGTH_MAX = 512
NAME_LENGTH_MAX = 512
ATTRIBUTES_MAX = 64
ATTRIBUTE_VALUE_LENGTH_MAX = 2048

Identity = tuple[str, str, str, "tuple[tuple[str, str], ...]"]  # metric, kind, unit, tags


class Column:
    """Samples of one series. ``exemplar`` is the largest value of a trace that is kept: place, trace and span."""

    __slots__ = ("exemplar", "links", "times_ms", "values")

    def __init__(self) -> None:
        self.times_ms: list[int] = []
        self.values: list[float] = []
        self.links: list[tuple[int, str, str]] = []
        self.exemplar: tuple[int, str, str] | None = None

    @property
    def all_links(self) -> list[tuple[int, str, str]]:
        return self.links if self.exemplar is None else [*self.links, self.exemplar]

    def slice(self, part: slice) -> Column:
        """The samples of ``part``, with their links."""
        places = range(len(self.values))[part]
        cut = Column()
        cut.times_ms, cut.values = self.times_ms[part], self.values[part]
        cut.links = [(place - places.start, trace, span) for place, trace, span in self.all_links if place in places]
        return cut


@dataclass
class Batch:
    """What one request carries. Every attempt says the same under the same id."""

    items: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    columns: dict[Identity, Column] = field(default_factory=dict)
    spans: list[SpanRecord] = field(default_factory=list)
    batch_id: str = field(default_factory=lambda: os.urandom(16).hex())

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

    def samples_as_json(self, resource: Mapping[str, str]) -> bytes:
        """As ``POST /v1/metrics`` takes them. That form has no place for losses, so they are samples of a counter."""
        metrics: list[dict[str, Any]] = []
        for (name, kind, unit, tags), column in self.columns.items():
            links = {place: (trace_id, span_id) for place, trace_id, span_id in column.all_links}
            common: dict[str, Any] = {"metric_name": name, "metric_type": kind}
            if unit:
                common["unit"] = unit
            if tags:
                common["tags"] = dict(tags)
            for place, (time_ms, value) in enumerate(zip(column.times_ms, column.values)):
                one = {**common, "timestamp": time_ms, "value": value}
                if place in links:
                    one["trace_id"], one["span_id"] = links[place]
                metrics.append(one)
        now_ms = time.time_ns() // 1_000_000
        metrics += [
            {
                "metric_name": LOSSES_METRIC,
                "metric_type": "counter",
                "timestamp": now_ms,
                "value": count,
                "tags": {"reason": reason},
            }
            for reason, count in self.losses.items()
        ]
        return _json({**resource, "metrics": metrics})

    def spans_as_json(self, resource: Mapping[str, str]) -> bytes:
        """As ``POST /v1/spans`` takes them."""
        return _json({**resource, "spans": [span_fields(span) for span in self.spans]})

    @property
    def json_nbytes(self) -> int:
        """By estimate: unlike the packed format, JSON says the tags again with each sample."""
        spans = sum(
            300 + sum(len(key) + len(text) for key, text in alike.fields.get("attributes", {}).items())
            for *_, alike in self.spans
        )
        return spans + sum(
            len(column.values) * (150 + len(name) + sum(6 + len(key) + len(text) for key, text in tags))
            for (name, _, _, tags), column in self.columns.items()
        )

    @property
    def size(self) -> int:
        """Samples and spans in it."""
        return len(self.spans) + sum(len(column.values) for column in self.columns.values())

    def halves(self) -> tuple[Batch, Batch]:
        """The same in two batches, with ids of their own; the first one tells the losses."""
        first, second = Batch(losses=self.losses), Batch()
        room = self.size // 2
        for identity, column in self.columns.items():
            for half, part in ((first, slice(0, room)), (second, slice(room, None))):
                if len(column.values[part]):
                    half.columns[identity] = column.slice(part)
            room = max(0, room - len(column.values))
        first.spans, second.spans = self.spans[:room], self.spans[room:]
        first.items = min(first.size, self.items)
        second.items = self.items - first.items
        return first, second

    def kinds(self) -> Iterator[Batch]:
        """Samples and spans apart, where one request cannot carry both."""
        if not self.spans or not (self.columns or self.losses):
            yield self
            return
        items = min(len(self.spans), self.items)
        yield Batch(items=self.items - items, losses=self.losses, columns=self.columns)
        yield Batch(items=items, spans=self.spans)


class _SpanTemplate:
    """What is told of a span, after redaction: shared by the records of many."""

    __slots__ = ("alike", "column", "metric", "nbytes", "tags")

    def __init__(self, alike: SpanTemplate, metric: str, tags: tuple[tuple[str, str], ...]) -> None:
        self.alike = alike
        self.metric = metric
        self.tags = tags
        self.column: Column | None = None  # of the batch, once there is one
        self.nbytes = _span_nbytes(alike)


class _Known:
    """What one batch has worked out already, by what it was made of: before redaction, which is so asked once."""

    def __init__(self) -> None:
        self.columns: dict[Identity, Column] = {}
        self.told: dict[tuple[Any, ...], _SpanTemplate] = {}
        self._origins: dict[Any, Any] = {}

    def origin_of(self, peer: Any) -> Any:
        """Of a URL no more than scheme and host: no more is told, and what follows differs with each."""
        origin = self._origins.get(peer)
        if origin is None:
            origin = self._origins[peer] = "/".join(peer.split("/", 3)[:3]) if type(peer) is str else peer
        return origin


class BatchMaker:
    """Makes batches of what ``buffer`` holds, in the exporter's thread."""

    def __init__(self, config: Config, buffer: Buffer) -> None:
        self._config = config
        self._buffer = buffer
        self._nbytes_max = BATCH_NBYTES_MAX

    def lower_limit(self) -> None:
        """A batch was too large for the server: the next ones are half as large."""
        self._nbytes_max = max(self._nbytes_max // 2, BATCH_NBYTES_MIN)

    def next(self) -> Batch | None:
        """The oldest items as one batch; None when there are none. An item that no batch can be made of is counted."""
        batch = Batch()
        known = _Known()
        nbytes = 0
        while batch.items < BATCH_ITEMS_MAX and nbytes < self._nbytes_max:
            entry = self._buffer.take()
            if entry is None:
                break
            batch.items += 1
            try:
                if type(entry) is Span:
                    nbytes += self._add_traced(batch, known, BOTH, entry)
                else:
                    _, what, item = entry
                    nbytes += self._add(batch, known, what, item)
            except Exception:
                self._buffer.count_loss("internal_error")
        if not batch.items:
            return None
        batch.losses = self._buffer.take_losses()
        return batch

    def _add(self, batch: Batch, known: _Known, what: int, item: Any) -> int:
        """Returns by how many bytes the batch grew, by estimate."""
        if what == RECORDED_SPAN:
            return self._add_recorded_span(batch, item)
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

    def _add_recorded_span(self, batch: Batch, span: dict[str, Any]) -> int:
        fields = {"kind": span["kind"], "status": span["status"]}
        alike = SpanTemplate(span["name"], self._with_attributes(fields, span.get("attributes") or {}))
        parent_id = span.get("parent_span_id", "")
        own = (span["trace_id"], span["span_id"], parent_id, span["start_ns"], span["duration_ns"])
        batch.spans.append((*own, alike))
        return _span_nbytes(alike)

    def _add_traced(self, batch: Batch, known: _Known, what: int, span: Span) -> int:
        told = self._template(known, span)
        start_ns, duration_ns = span.start_ns, span.duration_ns
        nbytes = 0
        if what != SPAN_ALONE and told.metric:
            column = told.column
            if column is None:
                column, nbytes = self._column(batch, known, (told.metric, "histogram", "ms", told.tags))
                told.column = column
            value = duration_ns / 1_000_000
            if (span.sampled or span.is_recorded) and (
                column.exemplar is None or value > column.values[column.exemplar[0]]
            ):
                column.exemplar = (len(column.values), span.trace_id, span.span_id)
            column.times_ms.append((start_ns + duration_ns) // 1_000_000)
            column.values.append(value)
            nbytes += 18
        if what != SAMPLE:
            batch.spans.append((span.trace_id, span.span_id, span.parent_id, start_ns, duration_ns, told.alike))
            nbytes += told.nbytes
        return nbytes

    def _template(self, known: _Known, span: Span) -> _SpanTemplate:
        """Worked out once a batch for all spans of which the same is to be told."""
        if not span.is_plain and (span.tags or span.attributes):
            return self._describe(span)
        key = (
            span.describe,
            span.kind,
            span.name,
            span.method,
            span.route,
            known.origin_of(span.peer) if span.peer else "",
            span.database,
            span.statement,
            span.status_code,
            span.error_type,
            span.failed,
        )
        told = known.told.get(key)
        if told is None:
            told = known.told[key] = self._describe(span)
        return told

    def _describe(self, span: Span) -> _SpanTemplate:
        found = span.describe(span)
        is_error = span.failed or (span.kind == "client" and span.status_code >= 400)
        fields = {"kind": span.kind, "status": "error" if is_error else "unset"}
        alike = SpanTemplate(found.name[:NAME_LENGTH_MAX] or "unnamed", self._with_attributes(fields, found.attributes))
        return _SpanTemplate(alike, found.metric, tuple(found.tags.items()))

    def _with_attributes(self, fields: dict[str, Any], attributes: Mapping[str, str]) -> dict[str, Any]:
        allowed = list(self._allowed(attributes).items())[:ATTRIBUTES_MAX]
        if allowed:
            fields["attributes"] = {key: value[:ATTRIBUTE_VALUE_LENGTH_MAX] for key, value in allowed}
        return fields

    def _column(self, batch: Batch, known: _Known, asked: Any) -> tuple[Column, int]:
        column = known.columns.get(asked)
        if column is not None:
            return column, 0
        name, kind, unit, pairs = asked
        tags = {**self._config.tags, **dict(pairs)}
        cut = ((key, value[:TAG_VALUE_LENGTH_MAX]) for key, value in list(self._allowed(tags).items())[:TAGS_MAX])
        identity: Identity = (name, kind, unit, tuple(cut))
        column = known.columns[asked] = batch.columns.setdefault(identity, Column())
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


def _span_nbytes(alike: SpanTemplate) -> int:
    """Of a record, packed, by estimate."""
    return 300 + sum([len(key) + len(value) for key, value in alike.fields.get("attributes", {}).items()])


def _json(body: Mapping[str, Any]) -> bytes:
    # Half of a surrogate pair is no text for any reader: it becomes a question mark.
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
