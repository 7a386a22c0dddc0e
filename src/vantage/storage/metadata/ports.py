"""The port of metadata: keys, deployments, saved queries, the audit log. Its prose is the contract; ``tests/contracts``
checks every implementation against it.

Constructors do no I/O; ``async with`` opens and closes. All methods may be called concurrently from one event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from vantage.core.anomaly import Anomaly
from vantage.core.api_key import ApiKey
from vantage.core.audit import AuditEntry
from vantage.core.comparison import SavedComparison
from vantage.core.deployment import Deployment
from vantage.core.saved_query import SavedQuery
from vantage.core.stream_position import StreamPosition
from vantage.core.timerange import TimeRange
from vantage.storage.metadata.alert_ports import AlertReader, AlertStore
from vantage.storage.metadata.availability_ports import AvailabilityReader, AvailabilityStore
from vantage.storage.metadata.notice_ports import NoticeReader, NoticeStore
from vantage.storage.ports import Selector


class MetadataReader(Protocol):
    """The metadata that queries read. Methods raise StoreUnavailable when the database cannot be reached."""

    @property
    def alerts(self) -> AlertReader:
        """What pages show of alerting."""
        ...

    @property
    def notices(self) -> NoticeReader:
        """What pages show of channels, silences and notices."""
        ...

    @property
    def availability(self) -> AvailabilityReader:
        """What pages show of objectives, heartbeats and HTTP checks."""
        ...

    async def deployments(
        self, *, service: str = "", time_range: TimeRange | None = None, limit: int = 100
    ) -> Sequence[Deployment]:
        """Return up to ``limit`` deployments, the latest first; none for a limit of 0."""
        ...

    async def comparisons(self, *, service: str = "", limit: int = 100) -> Sequence[SavedComparison]:
        """Return up to ``limit`` comparisons without their documents, the latest first; '' means any service."""
        ...

    async def comparison(self, comparison_id: str) -> SavedComparison | None:
        """Return a comparison by its id; None: there is none."""
        ...

    async def comparison_of(self, key: str) -> SavedComparison | None:
        """Return the comparison with a key; None: there is none."""
        ...

    async def anomalies(
        self, *, service: str = "", time_range: TimeRange | None = None, limit: int = 100
    ) -> Sequence[Anomaly]:
        """Return up to ``limit`` anomalies that touch the range, the latest start first."""
        ...

    async def anomaly(self, anomaly_id: int) -> Anomaly | None:
        """Return an anomaly by its id, None for an unknown one."""
        ...


class MetadataStore(MetadataReader, Protocol):
    """Configuration and its history. Every method that changes something writes one audit entry in the same
    transaction, with ``actor`` as its author. Methods raise StoreUnavailable when the database cannot be reached."""

    @property
    def alerts(self) -> AlertStore:
        """Rules and alerts."""
        ...

    @property
    def notices(self) -> NoticeStore:
        """Channels, silences, and the outbox of notices."""
        ...

    @property
    def availability(self) -> AvailabilityStore:
        """Objectives, heartbeats and HTTP checks."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def create_key(self, key: ApiKey, *, actor: str) -> None:
        """Store a key. Raises ConflictError naming ``id``, ``name`` (among active keys) or ``secret`` if in use."""
        ...

    async def keys(self) -> Sequence[ApiKey]:
        """Return all keys, including revoked and expired ones, oldest first."""
        ...

    async def revoke_key(self, key_id: str, *, actor: str) -> ApiKey:
        """Revoke by id, or else by the name of an active key. Revoking an id twice changes nothing and writes no audit
        entry. Raises NotFoundError."""
        ...

    async def record_deployment(self, deployment: Deployment, *, actor: str) -> bool:
        """Store a deployment. A detected one is stored only if its service, environment and version are new: otherwise
        return False, and an earlier time replaces that of a stored detected one, without an audit entry. Reported ones
        are always stored and return True."""
        ...

    async def remove_deployments(self, selector: Selector, *, actor: str) -> int:
        """Remove those of a deleted service or environment, and return their number. Raises InputError for an empty
        selector."""
        ...

    async def record_anomalies(self, anomalies: Sequence[Anomaly], *, since_ms: int) -> int:
        """Store anomalies, replacing those of the same series and start, so that it may be repeated; their ids are
        ignored. Delete those that ended before ``since_ms``, and the oldest beyond a limit, and return the number of
        those. Nothing of this is a change that the audit log has."""
        ...

    async def remove_anomalies(self, service: str) -> int:
        """Remove those of a deleted service, without an audit entry of their own, and return their number."""
        ...

    async def save_query(self, query: SavedQuery) -> None:
        """Store a query by its author, or replace that of its name. Raises ConflictError when there are too many."""
        ...

    async def saved_queries(self) -> Sequence[SavedQuery]:
        """Return all saved queries by name."""
        ...

    async def remove_query(self, name: str, *, actor: str) -> bool:
        """Remove a saved query. False, and no audit entry: there is none of this name."""
        ...

    async def save_comparison(self, saved: SavedComparison) -> SavedComparison:
        """Store a comparison, durably, without an audit entry, and return it; where its key is stored already, the one
        that has it. The oldest beyond a number are removed."""
        ...

    async def take_partition(self, topic: str, partition: int) -> StreamPosition:
        """Become the owner of a partition: the one before can move it no more. Raises StoreUnavailable."""
        ...

    async def move_partition(self, topic: str, partition: int, position: StreamPosition) -> bool:
        """Set the position, durably. False: the epoch is no longer that of the owner, and nothing is changed. Raises
        StoreUnavailable."""
        ...

    async def record_audit(self, entry: AuditEntry) -> None:
        """Append an entry for a change made elsewhere, such as deleted data."""
        ...

    async def audit(self, *, limit: int = 100, before_id: int | None = None) -> Sequence[AuditEntry]:
        """Return entries, the latest first. Entries are never changed or removed."""
        ...

    async def last_change_id(self) -> int:
        """Return a number that grows with every change by any process: cheap to read, to know when to read again."""
        ...

    async def ping(self) -> None:
        """Return if the database answers; raise StoreUnavailable if not."""
        ...
