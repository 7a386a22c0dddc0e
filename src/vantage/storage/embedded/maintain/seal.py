"""Sealing: a generation of the head becomes parts of segments, and its journal rows are no longer needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import structlog

from vantage.core.arrays import U32, Mask
from vantage.core.rollup import FIVE_MINUTES_MS, HOUR_MS, Partials, rollup_partials, rollup_samples, with_sketches
from vantage.core.sample_columns import SampleColumns
from vantage.core.span_table import SpanTable
from vantage.storage.embedded.format.exemplars import SortedExemplars
from vantage.storage.embedded.format.part_writer import PartWriter
from vantage.storage.embedded.format.segment import ROLLUPS, SAMPLES, Part, Segment, segment_path
from vantage.storage.embedded.maintain.edge_rollups import EdgeCounter, EdgeRollups, write_edges
from vantage.storage.embedded.maintain.red_rollups import RedRollups, red_by_week, write_red
from vantage.storage.embedded.maintain.segment_files import SegmentFiles
from vantage.storage.embedded.maintain.sort import (
    exemplars_by_week,
    in_storage_order,
    merge_partials,
    samples_by_week,
    spans_by_week,
)
from vantage.storage.embedded.read.snapshot import Generation
from vantage.storage.embedded.write.catalogue import Catalogue

_log = structlog.get_logger("vantage.storage.seal")


class Sealer:
    """Writes generations into segments. ``between`` is called between slices."""

    def __init__(
        self, files: SegmentFiles, catalogue: Catalogue, edges: EdgeCounter, on_slice: Callable[[], None]
    ) -> None:
        self._files = files
        self._edges = edges
        self._catalogue = catalogue
        self._on_slice = on_slice

    def write(self, generation: Generation) -> list[tuple[Segment, Part]]:
        """Write a whole generation into segments, durably but not yet published.

        Rows that were deleted meanwhile or are past their retention are left out. Raises sqlite3.Error and OSError.
        """
        started = time.perf_counter()
        floor_ms = self._files.snapshots.now.floor_ms
        present = self._catalogue.present()
        # First, while nothing is copied yet: it takes most memory.
        red = red_by_week([*generation.samples, *generation.spans], self._catalogue.red, floor_ms=floor_ms)
        samples = samples_by_week(generation.samples, present=present, floor_ms=floor_ms)
        exemplars = exemplars_by_week(generation.samples, present=present, floor_ms=floor_ms)
        spans = spans_by_week(generation.spans, floor_ms=floor_ms)
        edges = self._edges.by_week(generation.spans, floor_ms=floor_ms, on_slice=self._on_slice)
        written = []
        for week in sorted({*samples, *spans, *edges}):  # of a week before there may be edges alone
            written += self._week(
                week,
                generation.number,
                samples.pop(week, None),
                exemplars.pop(week, None),
                spans.pop(week, None),
                red.pop(week, {}),
                edges.pop(week, {}),
            )
        _log.info(
            "generation sealed",
            generation=generation.number,
            samples=generation.sample_count,
            spans=generation.span_count,
            files=[segment.name for segment, _ in written],
            took_s=round(time.perf_counter() - started, 3),
        )
        return written

    def _week(
        self,
        week: int,
        generation: int,
        samples: SampleColumns | None,
        exemplars: SortedExemplars | None,
        spans: SpanTable | None,
        red: RedRollups,
        edges: EdgeRollups,
    ) -> list[tuple[Segment, Part]]:
        short: list[Partials] = []
        long: list[Partials] = []
        written: list[tuple[Segment, Part]] = []
        if samples is not None or spans is not None:
            with self._new_part(week, SAMPLES, generation) as target:
                for chunk_samples in (
                    in_storage_order(samples, self._catalogue.columns.group) if samples is not None else ()
                ):
                    target.samples(chunk_samples)
                    self._roll(chunk_samples, short, long)
                if exemplars is not None:
                    target.exemplars(exemplars)
                if spans is not None:
                    target.spans(spans)
                written.append((self._segment(week, SAMPLES), target.finish(generation=generation, level=0)))
        if short or red or edges:
            with self._new_part(week, ROLLUPS, generation) as target:
                for width_ms, parts in ((FIVE_MINUTES_MS, short), (HOUR_MS, long)):
                    target.partials(
                        merge_partials(parts, self._catalogue.columns.group, width_ms=width_ms), width_ms=width_ms
                    )
                write_red(target, red, self._catalogue.red.keys)
                write_edges(target, edges, self._edges.keys)
                written.append((self._segment(week, ROLLUPS), target.finish(generation=generation, level=0)))
        return written

    def _segment(self, week: int, tier: str) -> Segment:
        return Segment(segment_path(self._files.folder, week, tier), week, tier, ())

    def _roll(self, samples: SampleColumns, short: list[Partials], long: list[Partials]) -> None:
        slot, time_ms, value = samples.slot, samples.time_ms, samples.value
        short.append(rollup_samples(slot, time_ms, value, width_ms=FIVE_MINUTES_MS))
        rows = np.flatnonzero(histograms(self._catalogue)[slot])
        long.append(
            with_sketches(
                rollup_partials(short[-1], width_ms=HOUR_MS), slot[rows], time_ms[rows], value[rows], width_ms=HOUR_MS
            )
        )

    @contextmanager
    def _new_part(self, week: int, tier: str, generation: int) -> Iterator[PartWriter]:
        with (
            self._files.open_writer(week, tier) as writer,
            self._files.allocate_part(writer, generation=generation) as part_id,
        ):
            yield PartWriter(
                writer, self._files.codec, part_id=part_id, identities=self.identities, on_slice=self._on_slice
            )

    def identities(self, slots: U32) -> Mapping[int, bytes]:
        """Return the canonical identities of some series."""
        series = self._catalogue.series
        return {slot: one_series.canonical() for slot in slots.tolist() if (one_series := series[slot]) is not None}


def histograms(catalogue: Catalogue) -> Mask:
    """Return, by slot, whether the series is a histogram."""
    kinds = catalogue.columns.column("metric_type")
    mask: Mask = kinds.mask(lambda kind: kind == "histogram")
    return mask
