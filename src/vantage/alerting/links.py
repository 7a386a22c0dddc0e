"""Links in notices that acknowledge or silence one alert without signing in: signed, and valid for a time."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from vantage.alerting.secrets import Key, Secrets
from vantage.core.clock import Clock
from vantage.core.errors import ForbiddenError

VALID_MS: Final = 7 * 86_400_000
PATH: Final = "/act/"
_MAC_NBYTES: Final = 16
_PURPOSE: Final = "links in notices"
TOKEN_LENGTH_MAX: Final = 200


class Act(StrEnum):
    """What a link does once its page's button is pressed."""

    ACKNOWLEDGE = "acknowledge"
    SILENCE = "silence"


@dataclass(frozen=True, slots=True)
class Link:
    """What a token permits: one act on one alert, until a time."""

    act: Act
    alert_id: int
    expires_ms: int


class Links:
    """Makes and reads tokens. A link that is only opened does nothing: scanners of mail open all of them."""

    def __init__(self, secrets: Secrets, clock: Clock) -> None:
        self._secrets = secrets
        self._clock = clock

    def path(self, act: Act, alert_id: int) -> str:
        """Return the path of a link, valid for VALID_MS from now. Raises ConfigError without a key."""
        body = f"{act}:{alert_id}:{self._clock.now_ms() + VALID_MS}".encode()
        mac = _mac(self._secrets.keys()[0], body)
        return PATH + base64.urlsafe_b64encode(mac + body).decode().rstrip("=")

    def read(self, token: str) -> Link:
        """Return what a token permits. Raises ForbiddenError for one that is not ours, or has expired."""
        if len(token) > TOKEN_LENGTH_MAX or not token.isascii():
            raise ForbiddenError("this link is not valid")
        try:
            data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError) as error:
            raise ForbiddenError("this link is not valid") from error
        mac, body = data[:_MAC_NBYTES], data[_MAC_NBYTES:]
        keys = self._secrets.keys()
        if sum(hmac.compare_digest(mac, _mac(key, body)) for key in keys) == 0:  # all are compared: time says nothing
            raise ForbiddenError("this link is not valid: perhaps it was cut off")
        act, alert_id, expires_ms = body.decode().split(":")
        link = Link(Act(act), int(alert_id), int(expires_ms))
        if link.expires_ms <= self._clock.now_ms():
            raise ForbiddenError("this link has expired: sign in to change the alert")
        return link


def _mac(key: Key, body: bytes) -> bytes:
    return hmac.new(key.derived(_PURPOSE), body, hashlib.sha256).digest()[:_MAC_NBYTES]
