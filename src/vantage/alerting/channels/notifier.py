"""What every notifier is: a config, a method that sends one notice, and errors that say whether to try again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, Protocol

import msgspec

from vantage.alerting.links import Act, Links
from vantage.alerting.outgoing import Outgoing, OutgoingFailed, OutgoingRefused, OutgoingResponse
from vantage.core.clock import Clock
from vantage.core.errors import VantageError
from vantage.core.notification import NoticeAlert, Status

SEND_TIMEOUT_S: Final = 15.0
RETRY_AFTER_S_MAX: Final = 3600.0
SECRET: Final = {"secret": True}  # extra of the Meta of a field that is stored encrypted
Picture = Callable[[NoticeAlert], Awaitable[bytes | None]]
_TRANSIENT: Final = frozenset({408, 421, 423, 425, 429})


class NotifyError(VantageError):
    """A notice was not accepted."""


class TransientNotifyError(NotifyError):
    """It may be accepted later, after ``retry_after_s`` if that is known. Whether it arrived is not always known."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class PermanentNotifyError(NotifyError):
    """It will never be accepted like this: the channel's settings are wrong, or what it says is refused."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What is sent. ``alerts`` are at least one, what is new first; ``id`` is the same at each attempt."""

    id: str
    channel: str
    service: str
    reason: str
    alerts: tuple[NoticeAlert, ...]
    created_ms: int

    @property
    def status(self) -> Status:
        """Resolved if all of its alerts are; otherwise the status of the most urgent one."""
        statuses = {alert.status for alert in self.alerts}
        order = (Status.FIRING, Status.FLAPPING, Status.ACKNOWLEDGED)
        return next((status for status in order if status in statuses), Status.RESOLVED)

    @property
    def severity(self) -> str:
        """The highest of those that fire, or else of all."""
        firing = [alert.severity for alert in self.alerts if alert.status is Status.FIRING]
        among = firing or [alert.severity for alert in self.alerts]
        return next((severity for severity in ("critical", "warning") if severity in among), "info")


@dataclass(frozen=True, slots=True)
class Tools:
    """What notifiers need of the process. ``public_url`` is the address that links begin with, without a slash at its
    end; ``picture`` draws an alert's chart as PNG, None where there is none."""

    outgoing: Outgoing
    links: Links
    clock: Clock
    public_url: str
    picture: Picture | None = None

    def alert_url(self, alert: NoticeAlert) -> str:
        return f"{self.public_url}/alerts/{alert.alert_id}"

    def act_url(self, act: Act, alert: NoticeAlert) -> str:
        """Return a link that acts without signing in; '' for an alert that has ended or is an example."""
        if alert.status not in (Status.FIRING, Status.FLAPPING) or not alert.alert_id:
            return ""
        return self.public_url + self.links.path(act, alert.alert_id)


class Notifier(Protocol):
    """Sends the notices of one channel. Made for each notice."""

    async def send(self, notice: Notice) -> None:
        """Send a notice; it was accepted when this returns. Repeating it must be harmless, as far as the receiver lets
        it. Raises TransientNotifyError, PermanentNotifyError."""
        ...


@dataclass(frozen=True, slots=True)
class NotifierKind:
    """A kind of channel: ``config`` is the struct of its settings, which ``make`` takes; ``check`` raises InputError
    for values that cannot be used."""

    kind: str
    label: str
    config: type[msgspec.Struct]
    make: Callable[[Any, Tools], Notifier]
    check: Callable[[Any, Outgoing], None] = lambda _config, _outgoing: None


async def post_json(
    tools: Tools, url: str, payload: Any, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> OutgoingResponse:
    """Post a document and return its response, whose status is 2xx. Raises TransientNotifyError, PermanentNotifyError
    that quote nothing of the URL, which may be a secret."""
    sent = msgspec.json.encode(payload) if body is None else body
    try:
        response = await tools.outgoing.call(
            "POST",
            url,
            body=sent,
            headers={"Content-Type": "application/json", **(headers or {})},
            timeout_s=SEND_TIMEOUT_S,
        )
    except OutgoingRefused as error:
        raise PermanentNotifyError(str(error)) from error
    except OutgoingFailed as error:
        raise TransientNotifyError(str(error)) from error
    check_status(response, now_ms=tools.clock.now_ms())
    return response


def check_status(response: OutgoingResponse, *, now_ms: int) -> None:
    """Raise TransientNotifyError or PermanentNotifyError for a status that is not 2xx."""
    if 200 <= response.status < 300:
        return
    text = " ".join(response.body[:200].decode("utf-8", "replace").split())
    reason = f"the receiver answered {response.status}" + (f": {text}" if text else "")
    if response.status in _TRANSIENT or response.status >= 500:
        raise TransientNotifyError(reason, retry_after_s=_retry_after_s(response.headers.get("retry-after"), now_ms))
    raise PermanentNotifyError(reason)


def _retry_after_s(text: str | None, now_ms: int) -> float | None:
    """Return the seconds of a Retry-After, a number or a date, at most an hour; None without one that can be read."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now_ms / 1000
        except (ValueError, TypeError, OverflowError):
            return None
    return min(RETRY_AFTER_S_MAX, max(0.0, seconds)) if seconds == seconds else None


async def in_turn(work: list[Callable[[], Awaitable[None]]], *, at_once: int) -> None:
    """Do all of it, several at once. Raises the first error, after all have ended."""
    gate = asyncio.Semaphore(at_once)

    async def limited(item: Callable[[], Awaitable[None]]) -> None:
        async with gate:
            await item()

    results = await asyncio.gather(*(limited(item) for item in work), return_exceptions=True)
    for result in results:
        if isinstance(result, TransientNotifyError):  # what was refused for good must not hide it
            raise result
    for result in results:
        if isinstance(result, BaseException):
            raise result
