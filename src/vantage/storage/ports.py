"""The two storage ports. Their prose is the contract; ``tests/contracts`` holds every implementation to it.

Constructors do no I/O; ``async with`` opens and closes. All methods may be called concurrently from one event loop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

from vantage.core.api_key import ApiKey
from vantage.core.audit import AuditEntry
from vantage.core.batch import Batch
from vantage.core.deployment import Deployment
from vantage.core.retention import RetentionRule
from vantage.core.series import Series
from vantage.core.span import Span
from vantage.core.timerange import TimeRange
from vantage.vql.check import CheckedSelect
from vantage.vql.table import Table

EdgeKind = Literal["call", "message", "external"]


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """A series and what the store knows of it: samples held, and the first and last sample's time."""

    series: Series
    samples: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class ServiceSpanStats:
    """What the store knows of the spans of one service, environment, version and instance."""

    service: str
    environment: str
    service_version: str
    instance: str
    spans: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class ExemplarSample:
    """A sample that carries a trace id."""

    series: Series
    time_ms: int
    value: float
    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True)
class Trace:
    """All that is kept of one trace; ``spans`` ordered by start, ``samples`` by time. Both empty: unknown."""

    trace_id: str
    spans: tuple[Span, ...]
    samples: tuple[ExemplarSample, ...]


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """Which traces to list. A trace is listed when one of its spans meets every condition; '' and None mean any.

    ``before`` continues a listing: only traces that sort after that (start_ns, trace_id) are given.
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
    """One line of a listing. ``root_*`` come from the span without parent, or else from the earliest one."""

    trace_id: str
    root_service: str
    root_name: str
    start_ns: int
    duration_ns: int
    spans: int
    errors: int
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServiceEdge:
    """Who calls whom. A ``call`` or a ``message`` was seen from both ends, and its figures are those of the called
    service's spans; ``external`` is told by the caller's spans alone, and ``callee`` is the name they give it, such as
    ``postgresql``."""

    caller: str
    callee: str
    kind: EdgeKind
    calls: int
    errors: int
    duration_ns_sum: int
    duration_ns_max: int


@dataclass(frozen=True, slots=True)
class Selector:
    """Everything of a service, of an environment, or of both together. '' means any; to forget, not both are ''."""

    service: str = ""
    environment: str = ""


@dataclass(frozen=True, slots=True)
class DeletionResult:
    """What left the store. ``nbytes`` is what it occupied, as far as the store knows."""

    samples: int = 0
    spans: int = 0
    series: int = 0
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """When data leaves: older than ``days`` (None: never by age), by the strictest of ``rules`` that matches, or the
    oldest beyond ``budget_bytes``: first samples and spans, then rollups."""

    days: int | None = None
    budget_bytes: int | None = None
    rules: tuple[RetentionRule, ...] = ()


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What one metric of a service takes in one tier (``samples`` or ``rollups``), or its spans (metric '', tier
    ``spans``). Bytes on the disk: shares of what is kept together. ``items`` are samples or spans."""

    service: str
    metric: str
    tier: Literal["samples", "rollups", "spans"]
    nbytes: int
    items: int
    series: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What the store takes. ``files`` are bytes on the disk by kind, ``memory_nbytes`` what is not sealed yet; of it
    ``rows`` knows nothing. Samples before ``raw_since_ms`` have left, their rollups may still be there."""

    rows: tuple[UsageRow, ...]
    files: Mapping[str, int]
    memory_nbytes: int
    raw_since_ms: int
    damaged: tuple[str, ...]


class TelemetryStore(Protocol):
    """Samples and spans."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def write(self, batch: Batch) -> bool:
        """Keep a batch. When it returns the batch is durable and queries see it, whole.

        True: kept now. False: its ``batch_id`` was kept before, nothing changed; a repeat that arrives while the
        first is under way waits for that one's outcome. May be repeated with the same id for 60 minutes. Raises
        BusyError when the queue is full and StoreUnavailable when it cannot be made durable; in both cases nothing
        of the batch is kept.
        """
        ...

    async def select(self, query: CheckedSelect, *, deadline_s: float) -> Table:
        """Answer a query; an empty table, never None. Raises StoreTimeout after ``deadline_s`` seconds, InputError
        when it would read too much, BusyError when too many queries wait, StoreUnavailable."""
        ...

    async def explain(self, query: CheckedSelect, *, deadline_s: float) -> Table:
        """What answering a query would read, a row for each tier of the store: the columns ``tier`` (text), ``chunks``
        and ``rows`` (samples or spans, at most twice what is read). Raises what ``select`` raises."""
        ...

    async def list_series(self, *, service: str = "", metric: str = "") -> Sequence[SeriesInfo]:
        """The series that hold samples, '' meaning any service or metric; ordered by nothing in particular."""
        ...

    async def services_with_spans(self) -> Sequence[ServiceSpanStats]:
        """One entry for each service, environment, version and instance that spans are kept of."""
        ...

    async def trace(self, trace_id: str) -> Trace:
        """Everything kept of a trace, empty when unknown."""
        ...

    async def traces(self, wanted: TraceFilter) -> Sequence[TraceSummary]:
        """Up to ``limit`` traces, the latest start first, ties by trace id."""
        ...

    async def edges(self, time_range: TimeRange) -> Sequence[ServiceEdge]:
        """Who calls whom, by the spans that start in the range; one entry for each caller, callee and kind, ordered by
        nothing in particular. A parent that starts more than 10 minutes before the range may not be found. Raises
        InputError beyond 2 million spans, StoreTimeout, BusyError, StoreUnavailable."""
        ...

    def export(self, selector: Selector, time_range: TimeRange) -> AsyncGenerator[Batch, None]:
        """Everything selected ('' means any, also both) whose time or start lies in the range, as it is when the first
        batch is asked for: batches of bounded size in no particular order. Nothing is kept from being written
        meanwhile, and no query is held up while nobody asks for the next batch; what leaves the store meanwhile may
        be missing. Whoever does not take all of it must close it. Raises BusyError when too many are under way,
        StoreUnavailable."""
        ...

    async def expire(self, policy: RetentionPolicy) -> DeletionResult:
        """Drop what the policy no longer keeps. May be repeated at any time."""
        ...

    async def delete(self, selector: Selector) -> DeletionResult:
        """Drop everything selected; when it returns, queries no longer see it, also after a restart."""
        ...

    async def usage(self) -> Usage:
        """What is kept, and what it takes."""
        ...

    async def raw_since_ms(self) -> int:
        """Samples before this time have left by size, and only their rollups may be there; 0: none have."""
        ...

    async def ping(self) -> None:
        """Return when the store can read and write; raises StoreUnavailable when not."""
        ...


class MetadataStore(Protocol):
    """Configuration and its history. Every method that changes something writes one audit entry in the same
    transaction, in the name of ``actor``. Raises StoreUnavailable when the database cannot be reached."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def create_key(self, key: ApiKey, *, actor: str) -> None:
        """Keep a key. Raises ConflictError, naming ``id``, ``name`` (among usable keys) or ``secret``, when taken."""
        ...

    async def keys(self) -> Sequence[ApiKey]:
        """All keys, revoked and expired ones too, oldest first."""
        ...

    async def revoke_key(self, key_id: str, *, actor: str) -> ApiKey:
        """Revoke by id, or else by the name of a usable key. Revoking an id twice changes nothing and writes no audit
        entry. Raises NotFoundError."""
        ...

    async def record_deployment(self, deployment: Deployment, *, actor: str) -> bool:
        """Keep a deployment. For ``source`` seen: only the first of a service, environment and version, and False
        when it is known already, seen or told; one that was seen moves back when this one is earlier, without an
        audit entry. Told ones are always kept and return True."""
        ...

    async def deployments(
        self, *, service: str = "", time_range: TimeRange | None = None, limit: int = 100
    ) -> Sequence[Deployment]:
        """The latest first; a limit of 0 gives none."""
        ...

    async def remove_deployments(self, selector: Selector, *, actor: str) -> int:
        """Remove those of a forgotten service or environment; how many. Raises InputError for an empty selector."""
        ...

    async def record_audit(self, entry: AuditEntry) -> None:
        """Append an entry for a change made elsewhere, such as data forgotten."""
        ...

    async def audit(self, *, limit: int = 100, before_id: int | None = None) -> Sequence[AuditEntry]:
        """Entries, the latest first. Nothing ever changes or removes one."""
        ...

    async def last_change_id(self) -> int:
        """A number that grows with every change, made by any process: cheap to ask, to know when to read again."""
        ...

    async def ping(self) -> None:
        """Return when the database answers; raises StoreUnavailable when not."""
        ...
