"""The embedded store's own gauges."""

from __future__ import annotations

from collections.abc import Callable

from vantage.telemetry import Telemetry


def register_gauges(
    telemetry: Telemetry,
    *,
    series: Callable[[], int],
    series_overflowed: Callable[[], int],
    series_nbytes: Callable[[], int],
    head_samples: Callable[[], int],
    head_spans: Callable[[], int],
    head_nbytes: Callable[[], int],
    generations_waiting: Callable[[], int],
    queued_nbytes: Callable[[], int],
    damaged_rows: Callable[[], int],
    damaged_segments: Callable[[], int],
    file_nbytes: Callable[[str], int],
    clock_offset_s: Callable[[], float],
) -> None:
    """Register a gauge for each; ``file_nbytes`` is called with the kind of file."""
    for name, text, read in (
        ("series", "Series in the catalogue.", series),
        (
            "series_overflowed",
            "Series beyond series_max or series_bytes_max, stored as __overflow__ (counted up to 20000).",
            series_overflowed,
        ),
        ("series_bytes", "Memory of the catalogue, estimated.", series_nbytes),
        ("head_samples", "Samples in the head.", head_samples),
        ("head_spans", "Spans in the head.", head_spans),
        ("head_bytes", "Memory of what is not sealed, estimated.", head_nbytes),
        ("generations_waiting", "Generations waiting to be sealed.", generations_waiting),
        ("queued_bytes", "Batches waiting to be committed.", queued_nbytes),
        ("damaged_rows", "Rows that could not be read.", damaged_rows),
        ("damaged_segments", "Segment files that could not be read and were quarantined.", damaged_segments),
        ("journal_bytes", "Size of the journal and its log.", lambda: file_nbytes("journal")),
        ("samples_bytes", "Size of the segments of samples and spans.", lambda: file_nbytes("samples")),
        ("rollups_bytes", "Size of the segments of rollups.", lambda: file_nbytes("rollups")),
        (
            "clock_offset_seconds",
            "By how much the clock is ahead of the time that ages are counted from.",
            clock_offset_s,
        ),
    ):
        telemetry.add_gauge(f"vantage_store_{name}", text, read)
