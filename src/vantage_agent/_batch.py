"""A batch: the series, samples and spans of one request, and their encodings."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vantage_agent._pack import SpanRecord, pack_batch, span_fields

LOSSES_METRIC = "vantage_agent.dropped"  # for servers without the packed format

Identity = tuple[str, str, str, "tuple[tuple[str, str], ...]"]  # metric, kind, unit, tags


class Column:
    """Samples of one series. ``exemplar`` is the largest value of a recorded trace: index, trace and span."""

    __slots__ = ("exemplar", "exemplars", "times_ms", "values")

    def __init__(self) -> None:
        self.times_ms: list[int] = []
        self.values: list[float] = []
        self.exemplars: list[tuple[int, str, str]] = []
        self.exemplar: tuple[int, str, str] | None = None

    @property
    def all_exemplars(self) -> list[tuple[int, str, str]]:
        return self.exemplars if self.exemplar is None else [*self.exemplars, self.exemplar]

    def slice(self, part: slice) -> Column:
        """Return the samples of ``part``, with their exemplars."""
        indices = range(len(self.values))[part]
        column = Column()
        column.times_ms, column.values = self.times_ms[part], self.values[part]
        column.exemplars = [(i - indices.start, trace, span) for i, trace, span in self.all_exemplars if i in indices]
        return column


@dataclass
class Batch:
    """The content of one request. Every attempt sends the same content with the same id."""

    items: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    columns: dict[Identity, Column] = field(default_factory=dict)
    spans: list[SpanRecord] = field(default_factory=list)
    batch_id: str = field(default_factory=lambda: os.urandom(16).hex())

    def packed(self, resource: Mapping[str, str]) -> bytes:
        """Encode in the packed format. Raises what ``pack_batch`` raises."""
        return pack_batch(
            batch_id=self.batch_id,
            resource=resource,
            series=[(name, kind, unit, dict(sorted(tags))) for name, kind, unit, tags in self.columns],
            samples=[
                (index, column.times_ms, column.values, column.all_exemplars)
                for index, column in enumerate(self.columns.values())
            ],
            spans=self.spans,
            dropped=self.losses,
        )

    def samples_as_json(self, resource: Mapping[str, str]) -> bytes:
        """Encode samples for ``POST /v1/metrics``. That format has no losses, so they become samples of a counter."""
        metrics: list[dict[str, Any]] = []
        for (name, kind, unit, tags), column in self.columns.items():
            exemplars = {index: (trace_id, span_id) for index, trace_id, span_id in column.all_exemplars}
            common: dict[str, Any] = {"metric_name": name, "metric_type": kind}
            if unit:
                common["unit"] = unit
            if tags:
                common["tags"] = dict(tags)
            for index, (time_ms, value) in enumerate(zip(column.times_ms, column.values)):
                sample = {**common, "timestamp": time_ms, "value": value}
                if index in exemplars:
                    sample["trace_id"], sample["span_id"] = exemplars[index]
                metrics.append(sample)
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
        """Encode spans for ``POST /v1/spans``."""
        return _json({**resource, "spans": [span_fields(span) for span in self.spans]})

    @property
    def json_nbytes(self) -> int:
        """Estimated size as JSON, which repeats the tags in each sample, unlike the packed format."""
        spans = sum(
            300 + sum(len(key) + len(text) for key, text in template.fields.get("attributes", {}).items())
            for *_, template in self.spans
        )
        return spans + sum(
            len(column.values) * (150 + len(name) + sum(6 + len(key) + len(text) for key, text in tags))
            for (name, _, _, tags), column in self.columns.items()
        )

    @property
    def size(self) -> int:
        """Number of samples and spans."""
        return len(self.spans) + sum(len(column.values) for column in self.columns.values())

    def halves(self) -> tuple[Batch, Batch]:
        """Return two batches with ids of their own; the first one reports the losses."""
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

    def by_kind(self) -> Iterator[Batch]:
        """Yield samples and spans as separate batches, for formats that cannot combine them."""
        if not self.spans or not (self.columns or self.losses):
            yield self
            return
        items = min(len(self.spans), self.items)
        yield Batch(items=self.items - items, losses=self.losses, columns=self.columns)
        yield Batch(items=items, spans=self.spans)


def _json(body: Mapping[str, Any]) -> bytes:
    # Half of a surrogate pair is not valid text: it becomes a question mark.
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
