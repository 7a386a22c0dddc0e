"""Make batches from the items in the buffer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vantage_agent._batch import Batch, Column, Identity
from vantage_agent._buffer import Buffer
from vantage_agent._config import Config
from vantage_agent._pack import SpanTemplate
from vantage_agent._span import Span
from vantage_agent._tracer import BOTH, SAMPLE
from vantage_agent._tracer import SPAN as SPAN_ALONE
from vantage_agent._worker import WorkerNumber

RECORDED_SAMPLE, RECORDED_SPAN = 0, 4  # recorded by the application; 1 to 3 are the tracer's
BATCH_ITEMS_MAX = 5000
BATCH_NBYTES_MAX = 512 << 10  # estimated, before compression; the server accepts 1 MB packed and 8 MB unpacked
BATCH_NBYTES_MIN = 16 << 10  # even if a server or proxy accepts less
TAGS_MAX = 32
TAG_VALUE_LENGTH_MAX = 512
NAME_LENGTH_MAX = 512
ATTRIBUTES_MAX = 64
ATTRIBUTE_VALUE_LENGTH_MAX = 2048


class _SpanTemplate:
    """The fields of a span after redaction, shared by many spans of a batch."""

    __slots__ = ("column", "metric", "nbytes", "tags", "template")

    def __init__(self, template: SpanTemplate, metric: str, tags: tuple[tuple[str, str], ...]) -> None:
        self.template = template
        self.metric = metric
        self.tags = tags
        self.column: Column | None = None  # of the batch, once there is one
        self.nbytes = _span_nbytes(template)


class _BatchCache:
    """Columns and templates of one batch, by their content before redaction, so that each is redacted once."""

    def __init__(self) -> None:
        self.columns: dict[Identity, Column] = {}
        self.templates: dict[tuple[Any, ...], _SpanTemplate] = {}
        self._origins: dict[Any, Any] = {}

    def origin_of(self, peer: Any) -> Any:
        """Return scheme and host of a URL: the rest is never sent, and differs with each request."""
        origin = self._origins.get(peer)
        if origin is None:
            origin = self._origins[peer] = "/".join(peer.split("/", 3)[:3]) if type(peer) is str else peer
        return origin


class BatchMaker:
    """Makes batches of the items in ``buffer``, in the exporter's thread."""

    def __init__(self, config: Config, buffer: Buffer, worker: WorkerNumber) -> None:
        self._config = config
        self._buffer = buffer
        self._worker = worker
        self._nbytes_max = BATCH_NBYTES_MAX

    def lower_limit(self) -> None:
        """Halve the size of the next batches, because one was too large for the server."""
        self._nbytes_max = max(self._nbytes_max // 2, BATCH_NBYTES_MIN)

    def next(self) -> Batch | None:
        """Return the oldest items as a batch, None if there are none. Items that cannot be encoded are counted."""
        batch = Batch()
        cache = _BatchCache()
        nbytes = 0
        while batch.items < BATCH_ITEMS_MAX and nbytes < self._nbytes_max:
            entry = self._buffer.take()
            if entry is None:
                break
            batch.items += 1
            try:
                if type(entry) is Span:
                    nbytes += self._add_traced(batch, cache, BOTH, entry)
                else:
                    _, what, item = entry
                    nbytes += self._add(batch, cache, what, item)
            except Exception:
                self._buffer.count_loss("internal_error")
        if not batch.items:
            return None
        batch.losses = self._buffer.take_losses()
        return batch

    def _add(self, batch: Batch, cache: _BatchCache, what: int, item: Any) -> int:
        """Add an item. Return by how many bytes the batch grew, estimated."""
        if what == RECORDED_SPAN:
            return self._add_recorded_span(batch, item)
        if what == RECORDED_SAMPLE:
            *identity, time_ms, value, trace_id, span_id = item
            column, nbytes = self._column(batch, cache, (*identity,))
            if trace_id:
                column.exemplars.append((len(column.values), trace_id, span_id))
                nbytes += 4 + len(trace_id) + len(span_id)
            column.times_ms.append(time_ms)
            column.values.append(value)
            return nbytes + 18
        return self._add_traced(batch, cache, what, item)

    def _add_recorded_span(self, batch: Batch, span: dict[str, Any]) -> int:
        fields = {"kind": span["kind"], "status": span["status"]}
        template = SpanTemplate(span["name"], self._with_attributes(fields, span.get("attributes") or {}))
        parent_id = span.get("parent_span_id", "")
        own = (span["trace_id"], span["span_id"], parent_id, span["start_ns"], span["duration_ns"])
        batch.spans.append((*own, template))
        return _span_nbytes(template)

    def _add_traced(self, batch: Batch, cache: _BatchCache, what: int, span: Span) -> int:
        shared = self._template(cache, span)
        start_ns, duration_ns = span.start_ns, span.duration_ns
        nbytes = 0
        if what != SPAN_ALONE and shared.metric:
            column = shared.column
            if column is None:
                column, nbytes = self._column(batch, cache, (shared.metric, "histogram", "ms", shared.tags))
                shared.column = column
            value = duration_ns / 1_000_000
            if (span.sampled or span.is_recorded) and (
                column.exemplar is None or value > column.values[column.exemplar[0]]
            ):
                column.exemplar = (len(column.values), span.trace_id, span.span_id)
            column.times_ms.append((start_ns + duration_ns) // 1_000_000)
            column.values.append(value)
            nbytes += 18
        if what != SAMPLE:
            batch.spans.append((span.trace_id, span.span_id, span.parent_id, start_ns, duration_ns, shared.template))
            nbytes += shared.nbytes
        return nbytes

    def _template(self, cache: _BatchCache, span: Span) -> _SpanTemplate:
        """Return the template of a span, computed once per batch for all spans that share a description."""
        if not span.is_plain and (span.tags or span.attributes or span.exception):
            return self._describe(span)
        key = (
            span.describe,
            span.kind,
            span.name,
            span.method,
            span.route,
            cache.origin_of(span.peer) if span.peer else "",
            span.database,
            span.statement,
            span.status_code,
            span.error_type,
            span.failed,
        )
        template = cache.templates.get(key)
        if template is None:
            template = cache.templates[key] = self._describe(span)
        return template

    def _describe(self, span: Span) -> _SpanTemplate:
        description = span.describe(span)
        is_error = span.failed or (span.kind == "client" and span.status_code >= 400)
        fields = {"kind": span.kind, "status": "error" if is_error else "unset"}
        template = SpanTemplate(
            description.name[:NAME_LENGTH_MAX] or "unnamed", self._with_attributes(fields, description.attributes)
        )
        return _SpanTemplate(template, description.metric, tuple(description.tags.items()))

    def _with_attributes(self, fields: dict[str, Any], attributes: Mapping[str, str]) -> dict[str, Any]:
        allowed = list(self._allowed(attributes).items())[:ATTRIBUTES_MAX]
        if allowed:
            fields["attributes"] = {key: value[:ATTRIBUTE_VALUE_LENGTH_MAX] for key, value in allowed}
        return fields

    def _column(self, batch: Batch, cache: _BatchCache, raw_identity: Any) -> tuple[Column, int]:
        column = cache.columns.get(raw_identity)
        if column is not None:
            return column, 0
        name, kind, unit, pairs = raw_identity
        tags = {**self._config.tags, **dict(pairs)}
        if kind == "cumulative" and len(tags) < TAGS_MAX:  # a total that each process keeps for itself
            tags = {**self._worker.tags, **tags}
        pairs_sent = (
            (key, value[:TAG_VALUE_LENGTH_MAX]) for key, value in list(self._allowed(tags).items())[:TAGS_MAX]
        )
        identity: Identity = (name, kind, unit, tuple(pairs_sent))
        column = cache.columns[raw_identity] = batch.columns.setdefault(identity, Column())
        return column, len(name) + 20 + sum(4 * len(key) + 4 * len(value) for key, value in identity[3])

    def _allowed(self, pairs: Mapping[str, str]) -> Mapping[str, str]:
        """Return the pairs that may leave the process: none if the hook fails."""
        allowed = self._config.allowed_tags
        if allowed is not None:
            pairs = {key: value for key, value in pairs.items() if key in allowed}
        if self._config.redact is None:
            return pairs
        try:
            redacted = self._config.redact(dict(pairs))
            return {str(key): str(value) for key, value in (redacted or {}).items() if value is not None}
        except Exception:
            self._buffer.count_loss("redaction_failed")
            return {}


def _span_nbytes(template: SpanTemplate) -> int:
    """Return the estimated size of a packed span."""
    return 300 + sum([len(key) + len(value) for key, value in template.fields.get("attributes", {}).items()])
