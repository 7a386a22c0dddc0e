"""The port of notices: channels, silences, and the outbox. ``MetadataStore.notices`` is one.

All methods raise StoreUnavailable when the database cannot be reached. Changes are durable when a method returns; those
of channels and silences write an audit entry in the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from vantage.core.alert import Alert, AlertEvent
from vantage.core.alert_rule import StoredRule
from vantage.core.channel import Channel
from vantage.core.notification import Fate, Notification, Status
from vantage.core.silence import Silence

CHANNELS_MAX: Final = 200
SILENCES_MAX: Final = 2000  # that have not ended
NOTIFICATIONS_MAX: Final = 20_000  # whose fate is final; the oldest are removed
EVENTS_MAX: Final = 500  # that one decision handles
CHANGES_WINDOW_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Notified:
    """What a channel knows about the alerts of one rule and entity: ``alert_id`` is the newest of them, ``status`` what
    was notified last, ``firing_ms`` when it was last notified as firing; ``seen_ms`` is when that alert was first seen
    to fire, ``suppressed`` why it is not notified, '' if it is or will be."""

    channel: str
    fingerprint: str
    service: str
    alert_id: int
    seen_ms: int
    status: Status = Status.NONE
    firing_ms: int | None = None
    suppressed: str = ""


@dataclass(frozen=True, slots=True)
class NoticeGroup:
    """The alerts of a service on a channel: the next notice is due at ``due_ms`` (None: nothing is new), the latest was
    at ``last_ms``."""

    channel: str
    service: str
    due_ms: int | None = None
    last_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is decided on. ``alerts`` are those that are open and have fired, and all that ``events`` and ``notified``
    are about; ``changes`` has how often alerts of a fingerprint fired or were resolved in the last hour."""

    events: Sequence[AlertEvent]
    alerts: Sequence[Alert]
    rules: Mapping[str, StoredRule]
    channels: Sequence[Channel]
    silences: Sequence[Silence]
    notified: Sequence[Notified]
    groups: Sequence[NoticeGroup]
    changes: Mapping[str, int]
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Decision:
    """What changes: rows to be replaced, by their keys, or removed; and notifications, in the order to be sent in.
    ``next_ms`` is when something may be due next."""

    notifications: Sequence[Notification] = ()
    notified: Sequence[Notified] = ()
    groups: Sequence[NoticeGroup] = ()
    removed: Sequence[Notified] = ()
    removed_groups: Sequence[NoticeGroup] = ()
    next_ms: int | None = None
    losses: Mapping[str, int] = field(default_factory=dict)


class NoticeReader(Protocol):
    """What pages and the API show."""

    async def channels(self) -> Sequence[Channel]:
        """Return all channels by name."""
        ...

    async def channel(self, name: str) -> Channel | None:
        """Return a channel; None: there is none of this name."""
        ...

    async def silences(self, *, ended_since_ms: int, limit: int = 1000) -> Sequence[Silence]:
        """Return up to ``limit`` silences, the latest first, without those that ended before a time."""
        ...

    async def silence(self, silence_id: int) -> Silence | None:
        """Return a silence; None: there is none."""
        ...

    async def notifications(
        self,
        *,
        fates: Collection[Fate] = (),
        channel: str = "",
        before_id: int | None = None,
        since_ms: int = 0,
        limit: int = 100,
    ) -> Sequence[Notification]:
        """Return up to ``limit`` notifications, the latest first, of any of ``fates`` (any, if empty)."""
        ...

    async def notification(self, notification_id: int) -> Notification | None:
        """Return a notification; None: there is none."""
        ...

    async def fates(self, *, since_ms: int) -> Mapping[tuple[str, Fate], int]:
        """Return the number of notifications created since a time, by channel and fate."""
        ...


class NoticeStore(NoticeReader, Protocol):
    """Changes of channels and silences, and the work on the outbox."""

    async def save_channel(self, channel: Channel, *, actor: str, revision: int | None = None) -> Channel:
        """Store a channel, or replace that of its name. ``revision``: only if the stored one has it, 0 for none. Raises
        ConflictError otherwise, and when there are CHANNELS_MAX."""
        ...

    async def remove_channel(self, name: str, *, actor: str) -> bool:
        """Remove a channel and what it was notified of; its waiting notifications fail. False: there is none."""
        ...

    async def seal_again(self, sealed: Mapping[str, Mapping[str, str]], *, before: Sequence[Channel]) -> int:
        """Replace the encrypted secrets of channels by their names, where they are still as in ``before``; return the
        number of those that are replaced."""
        ...

    async def save_silence(self, silence: Silence, *, actor: str, revision: int | None = None) -> Silence:
        """Store a silence: a new one with the id 0, otherwise in place of that of its id. Raises NotFoundError,
        ConflictError as ``save_channel``."""
        ...

    async def remove_silence(self, silence_id: int, *, actor: str) -> bool:
        """Remove a silence. False: there is none."""
        ...

    async def decide(self, decide: Callable[[Snapshot], Decision], *, at_ms: int) -> Decision:
        """Read what is to be decided on, decide, store the decision, and mark the events as handled: all in one
        transaction, one at a time over all processes. ``decide`` is called once, and may not wait for anything."""
        ...

    async def claim(
        self, *, owner: str, busy: Collection[str], at_ms: int, lease_ms: int, limit: int
    ) -> Sequence[Notification]:
        """Return notifications that are due, at most one for each channel that is not in ``busy``, and claim them for
        ``owner`` until the lease ends: until then no other process gets them. The notifications about one service are
        sent to a channel in their order. Counts an attempt."""
        ...

    async def finish(
        self, notification: Notification, *, owner: str, fate: Fate, problem: str, at_ms: int, due_ms: int
    ) -> bool:
        """Record the outcome of an attempt and end its claim; one that waits again does until ``due_ms``. False: the
        lease had ended and somebody else has it, or it is removed; nothing is changed."""
        ...

    async def retry(self, notification_id: int, *, actor: str, at_ms: int) -> bool:
        """Make a notification that failed wait again. False: there is none that failed."""
        ...

    async def add_notifications(self, notifications: Sequence[Notification], *, group: NoticeGroup) -> bool:
        """Add notifications and replace a group, if its stored ``last_ms`` is smaller or absent; otherwise False."""
        ...
