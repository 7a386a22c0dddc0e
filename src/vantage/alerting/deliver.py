"""Sends what the outbox has: each notice by one process at a time, again until it is accepted, refused or a day old.

A notice is delivered at least once. It may arrive twice when a process is killed after a receiver has accepted it and
before that is stored: its lease ends, and another attempt is made. What is sent has an id that stays the same.
"""

from __future__ import annotations

import asyncio
import random
import secrets as random_bytes
from dataclasses import replace
from typing import Final

import msgspec
import structlog

from vantage.alerting.channel_config import notifier_of
from vantage.alerting.channels.notifier import Notice, NotifyError, PermanentNotifyError, Tools, TransientNotifyError
from vantage.alerting.secrets import Secrets
from vantage.core.channel import Channel
from vantage.core.clock import Clock
from vantage.core.errors import VantageError, sentence
from vantage.core.notification import Fate, NoticeAlert, Notification, Status
from vantage.storage.metadata.ports import MetadataStore
from vantage.telemetry import Telemetry

POLL_S: Final = 3.0
LEASE_MS: Final = 120_000  # longer than any attempt
ATTEMPT_S_MAX: Final = 60.0
AT_ONCE: Final = 16
FIRST_RETRY_MS: Final = 5000
RETRY_MS_MAX: Final = 10 * 60_000
GIVE_UP_MS: Final = 86_400_000
PROBLEM_LENGTH_MAX: Final = 500
_log = structlog.get_logger("vantage.alerting")


class Deliverer:
    """The loop that sends. Any number of processes may run it."""

    name = "deliveries"

    def __init__(
        self,
        metadata: MetadataStore,
        secrets: Secrets,
        tools: Tools,
        *,
        telemetry: Telemetry,
        jitter: random.Random | None = None,
    ) -> None:
        self._metadata = metadata
        self._secrets = secrets
        self._tools = tools
        self._clock: Clock = tools.clock
        self._telemetry = telemetry
        self._owner = random_bytes.token_hex(8)
        self._jitter = jitter or random.Random()
        self._sending: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Send until cancelled. Raises what the metadata database raises: it then begins again."""
        try:
            while True:
                if not await self.step():
                    await self._clock.sleep(POLL_S)
        finally:
            for task in self._sending.values():
                task.cancel()
            await asyncio.gather(*self._sending.values(), return_exceptions=True)

    async def step(self) -> int:
        """Begin to send what is due, and return the number of notices. A channel that hangs delays no other one. Raises
        StoreUnavailable."""
        free = AT_ONCE - len(self._sending)
        if free <= 0:
            return 0
        claimed = await self._metadata.notices.claim(
            owner=self._owner,
            busy=tuple(self._sending),
            at_ms=self._clock.now_ms(),
            lease_ms=LEASE_MS,
            limit=free,
        )
        for notification in claimed:
            task = asyncio.create_task(self._deliver(notification), name=f"notice {notification.id}")
            self._sending[notification.channel] = task
        return len(claimed)

    async def _deliver(self, notification: Notification) -> None:
        try:
            await self._attempt(notification)
        finally:
            del self._sending[notification.channel]

    async def _attempt(self, notification: Notification) -> None:
        fate, problem, due_ms = Fate.SENT, "", notification.due_ms
        try:
            await self._send(notification)
        except TransientNotifyError as error:
            fate, problem = Fate.WAITING, str(error)
            due_ms = self._clock.now_ms() + self._retry_ms(notification.attempts, error.retry_after_s)
            if self._clock.now_ms() - notification.created_ms >= GIVE_UP_MS:
                fate, problem = Fate.FAILED, f"given up after a day: {problem}"
        except NotifyError as error:
            fate, problem = Fate.FAILED, str(error)
        try:
            own = await self._metadata.notices.finish(
                notification,
                owner=self._owner,
                fate=fate,
                problem=problem[:PROBLEM_LENGTH_MAX],
                at_ms=self._clock.now_ms(),
                due_ms=due_ms,
            )
        except VantageError as error:  # its lease ends, and it is tried again
            _log.warning("the outcome of a notice could not be stored", id=notification.id, reason=str(error))
            return
        self._count(notification, fate, problem, own=own)

    def _count(self, notification: Notification, fate: Fate, problem: str, *, own: bool) -> None:
        outcome = {Fate.SENT: "sent", Fate.WAITING: "retried", Fate.FAILED: "failed"}[fate]
        self._telemetry.notices.labels(outcome).inc()
        if fate is Fate.FAILED:
            self._telemetry.lost.labels("notice_expired" if problem.startswith("given up") else "notice_refused").inc()
        if fate is not Fate.SENT:
            _log.warning(
                "a notice was not accepted", channel=notification.channel, id=notification.id,
                attempts=notification.attempts, given_up=fate is Fate.FAILED, reason=problem,
            )  # fmt: skip
        if not own:
            _log.warning("a notice took longer than its lease: it may be sent twice", id=notification.id)

    async def _send(self, notification: Notification) -> None:
        channel = await self._metadata.notices.channel(notification.channel)
        if channel is None:
            raise PermanentNotifyError("the channel was removed")
        await send(channel, notice_of(notification), self._secrets, self._tools)

    def _retry_ms(self, attempts: int, retry_after_s: float | None) -> int:
        """Return how long to wait: twice as long each time, by a share that differs, and at least what was wished."""
        longest_ms = min(RETRY_MS_MAX, FIRST_RETRY_MS * 2 ** min(attempts - 1, 20))
        wait_ms = int(longest_ms * (0.5 + self._jitter.random() / 2))
        return max(wait_ms, int((retry_after_s or 0) * 1000))


async def send(channel: Channel, notice: Notice, secrets: Secrets, tools: Tools) -> None:
    """Send one notice. Raises TransientNotifyError, PermanentNotifyError, whatever went wrong."""
    try:
        notifier = notifier_of(channel, secrets, tools)
        async with asyncio.timeout(ATTEMPT_S_MAX):
            await notifier.send(notice)
    except NotifyError:
        raise
    except TimeoutError as error:
        raise TransientNotifyError(f"it took longer than {ATTEMPT_S_MAX:g} s") from error
    except VantageError as error:
        raise PermanentNotifyError(str(error)) from error
    except Exception as error:
        _log.exception("a notifier failed", kind=channel.kind, channel=channel.name)
        raise TransientNotifyError(f"the notifier failed: {sentence(error)}") from error


def notice_of(notification: Notification) -> Notice:
    """Return what is sent of a row of the outbox."""
    return Notice(
        str(notification.id),
        notification.channel,
        notification.service,
        notification.reason,
        notification.alerts,
        notification.created_ms,
    )


def example_notice(channel: Channel, *, now_ms: int) -> Notice:
    """Return a notice that tests a channel: it names no alert, and so opens none."""
    alert = NoticeAlert(
        fingerprint=f"test-{now_ms:x}"[:16],
        alert_id=0,
        rule="test of the channel",
        service="vantage",
        severity="info",
        status=Status.FIRING,
        start_ms=now_ms,
        entity={"service": "vantage"},
        text="This is a test: notices of alerts reach this channel",
    )
    return Notice(f"test-{now_ms:x}", channel.name, "vantage", "test", (alert,), now_ms)


def ended_example(notice: Notice, *, now_ms: int) -> Notice:
    """Return the notice that closes what a test opened."""
    alerts = tuple(msgspec.structs.replace(alert, status=Status.RESOLVED, end_ms=now_ms) for alert in notice.alerts)
    return replace(notice, id=f"{notice.id}-end", alerts=alerts)
