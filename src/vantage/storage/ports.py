"""The port of telemetry; that of metadata is ``metadata/ports.py``. Its prose is the contract; ``tests/contracts``
checks every implementation against it.

Constructors do no I/O; ``async with`` opens and closes. All methods may be called concurrently from one event loop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Protocol, Self

from vantage.core.batch import Batch
from vantage.core.red_table import RedQuery, RedTable
from vantage.core.retention import RetentionRule
from vantage.core.series import Series
from vantage.core.span import Span
from vantage.core.timerange import TimeRange
from vantage.vql.check import CheckedSelect
from vantage.vql.table import Table

EdgeKind = Literal["call", "message", "external"]
SpanOrder = Literal["latest", "slowest"]


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """A batch that came through a broker: partition, offset and time of its message, in milliseconds."""

    batch: Batch
    partition: int
    offset: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """A series, its number of stored samples, and the times of the first and last one."""

    series: Series
    samples: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class ServiceSpanStats:
    """Number and times of the spans of one service, environment, version and instance."""

    service: str
    environment: str
    service_version: str
    instance: str
    spans: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """A service in one environment and version ('' where it has none): numbers and times of its samples and spans."""

    service: str
    environment: str
    service_version: str
    samples: int
    spans: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class ExemplarSample:
    """A sample with a trace id."""

    series: Series
    time_ms: int
    value: float
    trace_id: str
    span_id: str


TRACE_SPANS_MAX: Final = 50_000
PAIRS_MAX: Final = 8


def possible_pairs(key: str, value: str) -> list[tuple[str, str]]:
    """Return the ways to read ``key:value`` where the key may contain colons, the shortest key first."""
    pieces = value.split(":", PAIRS_MAX - 1)
    return [(":".join([key, *pieces[:count]]), ":".join(pieces[count:])) for count in range(len(pieces))]


@dataclass(frozen=True, slots=True)
class Trace:
    """The stored data of one trace; ``spans`` ordered by start, ``samples`` by time. Both empty: unknown.

    Of more than TRACE_SPANS_MAX spans the first are returned; ``left_out`` says how many are not.
    """

    trace_id: str
    spans: tuple[Span, ...]
    samples: tuple[ExemplarSample, ...]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """Which traces to list. A trace is listed when one of its spans meets every condition; '' and None mean any.

    ``before`` continues a listing: only traces that sort after that (start_ns, trace_id) are returned.
    """

    time_range: TimeRange
    service: str = ""
    operation: str = ""
    status: str = ""
    min_duration_ns: int = 0
    max_duration_ns: int | None = None
    text: str = ""  # part of an operation name, an attribute value or a trace id, in any case
    attributes: tuple[tuple[str, str], ...] = ()  # key and value; the span must have each of them, exactly
    limit: int = 50
    before: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """One row of a listing. ``root_*`` come from the span without parent, or else from the earliest one."""

    trace_id: str
    root_service: str
    root_name: str
    start_ns: int
    duration_ns: int
    spans: int
    errors: int
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SpanFilter:
    """Which spans of one service to list: the ``latest`` by start, or the ``slowest``, of each trace one. ``failed``:
    only those with the status ``error``."""

    time_range: TimeRange
    service: str
    order: SpanOrder = "latest"
    failed: bool = False
    limit: int = 50


@dataclass(frozen=True, slots=True)
class SpanList:
    """Spans in the order of the filter. Where ``is_complete`` is false, a bound on what is read was reached: spans may
    be missing, of the ``latest`` only ones that start before the last."""

    spans: tuple[Span, ...]
    is_complete: bool = True


@dataclass(frozen=True, slots=True)
class ServiceEdge:
    """Calls from one service to another. A ``call`` or a ``message`` has spans on both sides, and its figures are those
    of the called service's spans; ``external`` has only the caller's spans, and ``callee`` is their name for it, such
    as ``postgresql``."""

    caller: str
    callee: str
    kind: EdgeKind
    calls: int
    errors: int
    duration_ns_sum: int
    duration_ns_max: int


@dataclass(frozen=True, slots=True)
class ServiceEdges:
    """Calls between services, of the spans that start in ``time_range``: one entry for each caller, callee and kind, in
    no particular order."""

    time_range: TimeRange
    edges: tuple[ServiceEdge, ...]


@dataclass(frozen=True, slots=True)
class Selector:
    """All data of a service, of an environment, or of both together. '' means any; a deletion names at least one."""

    service: str = ""
    environment: str = ""


@dataclass(frozen=True, slots=True)
class DeletionResult:
    """What was deleted. ``nbytes`` is the size of that, as far as the store knows."""

    samples: int = 0
    spans: int = 0
    series: int = 0
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """When data expires: older than ``days`` (None: never by age), by the strictest of ``rules`` that matches, or the
    oldest beyond ``budget_bytes``: first samples and spans, then rollups."""

    days: int | None = None
    budget_bytes: int | None = None
    rules: tuple[RetentionRule, ...] = ()


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Bytes on disk of one metric of a service in one tier (``samples`` or ``rollups``), or of its spans (metric '',
    tier ``spans``). For data stored together they are shares. ``items`` are samples or spans."""

    service: str
    metric: str
    tier: Literal["samples", "rollups", "spans"]
    nbytes: int
    items: int
    series: int


@dataclass(frozen=True, slots=True)
class AgedBytes:
    """Bytes on disk of everything of a time, rollups included. Where ``is_whole``, age removes it as a whole or not at
    all, else row by row."""

    time_range: TimeRange
    nbytes: int
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """The size of the store. ``files`` are bytes on disk by kind, ``memory_nbytes`` the size of unsealed data, which
    ``rows`` does not include. Samples before ``raw_since_ms`` have expired, their rollups may still be there. ``aged``
    has the bytes that retention removes with age, the oldest first."""

    rows: tuple[UsageRow, ...]
    files: Mapping[str, int]
    memory_nbytes: int
    raw_since_ms: int
    damaged: tuple[str, ...]
    aged: tuple[AgedBytes, ...] = ()


class TelemetryReader(Protocol):
    """Reads samples and spans."""

    async def select(self, query: CheckedSelect, *, deadline_s: float) -> Table:
        """Run a query. Returns an empty table, never None. Raises StoreTimeout after ``deadline_s`` seconds, InputError
        when it would read too much, BusyError when too many queries wait, StoreUnavailable."""
        ...

    async def explain(self, query: CheckedSelect, *, deadline_s: float) -> Table:
        """Return what a query would read, one row per tier of the store: the columns ``tier`` (text), ``chunks`` and
        ``rows`` (samples or spans, at most twice what is read). Raises what ``select`` raises."""
        ...

    async def red(self, query: RedQuery, *, deadline_s: float) -> RedTable | None:
        """Return requests, errors and durations from rollups that are kept ready: what is read depends on the range and
        the number of services, not on that of samples. None: there are no rollups for this step or all of the range;
        then samples and spans have to be read. Raises what ``select`` raises."""
        ...

    async def list_series(self, *, service: str = "", metric: str = "") -> Sequence[SeriesInfo]:
        """Return the series with stored samples, '' meaning any service or metric; in no particular order."""
        ...

    async def services(self, *, service: str = "") -> Sequence[ServiceInfo]:
        """Return one entry for each service, environment and version with stored samples or spans, in no particular
        order; '' means any service. Reads no samples and no spans."""
        ...

    async def services_with_spans(self) -> Sequence[ServiceSpanStats]:
        """Return one entry for each service, environment, version and instance with stored spans."""
        ...

    async def trace(self, trace_id: str) -> Trace:
        """Return all stored data of a trace, empty when unknown."""
        ...

    async def spans_of(self, trace_ids: Sequence[str], *, spans_max: int) -> Sequence[Span]:
        """Return up to ``spans_max`` spans of the traces, in no particular order; of unknown traces none. A span that
        was sent again may be there twice."""
        ...

    async def traces(self, wanted: TraceFilter) -> Sequence[TraceSummary]:
        """Return up to ``limit`` traces, the latest start first, ties by trace id."""
        ...

    async def list_spans(self, wanted: SpanFilter) -> SpanList:
        """Return up to ``limit`` spans of a service, each once; ties by trace and span id. What is read depends on the
        limit, not on the number of spans in the range: see ``storage.md``. Raises StoreTimeout, BusyError,
        StoreUnavailable."""
        ...

    async def edges(self, time_range: TimeRange) -> ServiceEdges:
        """Return the calls between services in the buckets of 5 minutes that the range touches, or of an hour where it
        begins more than two days ago; ``time_range`` of the result is that of the buckets. What is read depends on the
        range and the number of edges, not on that of spans, except those of the last minutes. A parent that starts more
        than 10 minutes earlier or later than its child is not counted. Raises StoreTimeout, BusyError,
        StoreUnavailable, and InputError where more than 2 million spans would have to be read: see ``storage.md``."""
        ...

    def export(self, selector: Selector, time_range: TimeRange) -> AsyncGenerator[Batch, None]:
        """Yield all selected data ('' means any, also both) whose time or start lies in the range, as of the first
        request for a batch: batches of bounded size in no particular order. An export blocks no writes, and between
        batches no queries; data that is deleted meanwhile may be missing. A caller that stops early must close it.
        Raises BusyError when too many exports run, StoreUnavailable."""
        ...

    async def usage(self) -> Usage:
        """Return what is stored, and its size."""
        ...

    def newest_ms(self) -> int:
        """Return the time of the newest sample or span, 0 where there is none. Reads nothing that is stored."""
        ...

    async def raw_since_ms(self) -> int:
        """Return the time before which samples have expired by size, so that only their rollups may be left; 0: none
        have."""
        ...


class RangeStore(Protocol):
    """Stores ranges of a broker's messages, each once."""

    async def write_range(self, batches: Sequence[StreamBatch], *, token: str, until_s: float) -> None:
        """Write a range, and nothing after ``until_s`` of the monotonic clock. Under the same token it is stored once,
        however often and by whichever process it is written. Raises StoreUnavailable when the outcome is unknown:
        repeat it with the same messages and token; InputError when it can never be stored, and nothing of it is."""
        ...

    async def batch_ids_before(self, ids: Sequence[str], *, partition: int, offset: int, since_ms: int) -> set[str]:
        """Return those of ``ids`` that are stored, of messages since ``since_ms``, except those of ``partition`` from
        ``offset`` on: the same before a range that begins there was written, and after. Raises StoreUnavailable."""
        ...


class TelemetryStore(TelemetryReader, Protocol):
    """Stores samples and spans. It is open between ``__aenter__`` and ``__aexit__``."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def write(self, batch: Batch) -> bool:
        """Store a batch. On return the batch is durable and queries see all of it.

        True: stored now. False: its ``batch_id`` was stored before, nothing changed; a repeat that arrives while the
        first is in flight waits for that one's outcome. May be repeated with the same id for 60 minutes. Raises
        BusyError when the queue is full and StoreUnavailable when it cannot be made durable; in both cases nothing of
        the batch is stored.
        """
        ...

    async def expire(self, policy: RetentionPolicy) -> DeletionResult:
        """Delete what has expired by the policy. May be repeated at any time."""
        ...

    async def delete(self, selector: Selector) -> DeletionResult:
        """Delete all selected data. On return queries no longer see it, even after a restart."""
        ...

    async def ping(self) -> None:
        """Return if the store can read and write; raise StoreUnavailable if not."""
        ...
