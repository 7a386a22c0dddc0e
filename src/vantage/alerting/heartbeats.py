"""When jobs should have reported, and which are late."""

from __future__ import annotations

from dataclasses import dataclass

from vantage.alerting.observation import Observation
from vantage.alerting.windows import check_recurrence, cron_times, zone_of
from vantage.core.alert_rule import HeartbeatCondition
from vantage.core.availability import Heartbeat, StoredHeartbeat
from vantage.core.errors import InputError
from vantage.core.number_format import utc
from vantage.query.availability import list_heartbeats
from vantage.query.context import QueryContext


@dataclass(frozen=True, slots=True)
class HeartbeatState:
    """``expected_ms`` is by when success should have been reported, or will have to be; ``late_ms`` is how long ago
    that was, with the grace, 0 if it is not late. ``runs``: a job has started and not ended."""

    expected_ms: int
    late_ms: int
    runs: bool
    failed: bool

    @property
    def word(self) -> str:
        if self.late_ms:
            return "late"
        return "failed" if self.failed else "running" if self.runs else "on time"


def check_times(heartbeat: Heartbeat) -> None:
    """Raise InputError for a cron expression or a timezone that cannot be used."""
    check_recurrence(heartbeat.cron, heartbeat.timezone)


def heartbeat_state(stored: StoredHeartbeat, *, now_ms: int) -> HeartbeatState:
    """Return the state of a heartbeat. A new one is expected after its first interval."""
    heartbeat = stored.heartbeat
    since_ms = max(stored.created_ms, stored.last_ms or 0)
    expected_ms = since_ms + heartbeat.every_ms
    if heartbeat.cron:
        expected_ms = next(
            cron_times(heartbeat.cron, zone_of(heartbeat.timezone), since_ms), now_ms + heartbeat.every_ms
        )
    late_ms = max(0, now_ms - expected_ms - heartbeat.grace_ms)
    ended_ms = max(stored.last_ms or 0, stored.failed_ms or 0)
    return HeartbeatState(
        expected_ms,
        late_ms,
        (stored.started_ms or 0) > ended_ms,
        (stored.failed_ms or 0) > max(stored.last_ms or 0, stored.started_ms or 0),
    )


async def observe_heartbeats(context: QueryContext, condition: HeartbeatCondition, *, now_ms: int) -> list[Observation]:
    """Return whether heartbeats are late or have failed. Raises InputError for one that does not exist."""
    stored = [item for item in await list_heartbeats(context) if condition.name in ("", item.heartbeat.name)]
    if condition.name and not stored:
        raise InputError(f"there is no heartbeat {condition.name!r}", field="condition.name")
    observations = []
    for item in stored:
        heartbeat = item.heartbeat
        if not heartbeat.enabled:
            continue
        state = heartbeat_state(item, now_ms=now_ms)
        holds = bool(state.late_ms) or state.failed
        if state.late_ms:
            last = f"reported last at {utc(item.last_ms)}" if item.last_ms is not None else "has never reported"
            text = f"{heartbeat.name} did not run: it was expected by {utc(state.expected_ms)} and {last}"
        elif state.failed:
            text = f"{heartbeat.name} reported that it failed"
        else:
            text = f"{heartbeat.name} is {state.word}"
        entity = {"heartbeat": heartbeat.name} | ({"service": heartbeat.service} if heartbeat.service else {})
        late = float(state.late_ms)
        observations.append(Observation(entity, heartbeat.service, late, holds, not holds, 1, "ms", text))
    return observations
