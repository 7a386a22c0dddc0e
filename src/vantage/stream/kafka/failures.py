"""Errors of librdkafka as sentences that name the setting, never with what is secret in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from vantage.core.errors import InputError, UnavailableError, VantageError

SILENT: Final = frozenset({"_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_TIMED_OUT_QUEUE", "_MSG_TIMED_OUT"})
EXPLAIN_EVERY_S: Final = 10.0
EXPLAIN_WAIT_S: Final = 0.7  # a check of health has 2 s; what takes longer is in the next one
CAUSE_S: Final = 30.0  # a cause is repeated at each attempt to connect, which are at most 10 s apart
_log = structlog.get_logger("vantage.stream.kafka")


class Failures:
    """What librdkafka reports beside the answers: logged once for each reason, and kept until the next success.

    It reports the cause of a failure, and then that no broker answers: the cause is what is shown. Where it reports no
    cause, ``explain`` connects and sees: it returns why no broker answers, '' when it cannot be said.
    """

    def __init__(
        self, hosts: str, explain: Callable[[], str] = str, *, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._hosts = hosts
        self._explain = explain
        self._monotonic_s = monotonic_s
        self._logged = ""
        self._cause_until_s = 0.0
        self._explain_after_s = 0.0
        self.latest = ""
        self.fatal = ""  # the text of an error after which the client can do nothing

    def on_error(self, error: Any) -> None:
        """Take an error from ``error_cb``."""
        if error.fatal() or error.name() == "_FATAL":  # of a message it is not marked
            self.fatal = self.fatal or error.str()
            if lacks_kip_848(error.str()):
                return
        reason = describe(error, self._hosts)
        if reason == silence(self._hosts):
            self.note_silence()
        else:
            self.note_cause(reason)

    def note_cause(self, reason: str) -> None:
        """Record why requests fail."""
        self._cause_until_s = self._monotonic_s() + CAUSE_S
        self._note(reason)

    def note_silence(self) -> None:
        """Record that no broker answers, unless the cause of it is known."""
        if not self.has_cause:
            self._note(silence(self._hosts))

    @property
    def has_cause(self) -> bool:
        """Return whether ``latest`` is the cause of a failure."""
        return bool(self.latest) and self._monotonic_s() < self._cause_until_s

    def clear(self) -> None:
        """Drop the last reason: a request succeeded."""
        self.latest = self._logged = ""
        self._cause_until_s = 0.0

    def unavailable(self, error: Exception) -> UnavailableError:
        """Return what a KafkaException means for the caller. May block for a second."""
        cause: Any = error.args[0] if error.args else None
        if not hasattr(cause, "name"):
            return UnavailableError(f"the broker at {self._hosts}: {error}")
        if cause.name() in SILENT and not self.has_cause and self._monotonic_s() >= self._explain_after_s:
            self._explain_after_s = self._monotonic_s() + EXPLAIN_EVERY_S
            seeing = threading.Thread(target=self._see, name="vantage-broker-probe", daemon=True)
            seeing.start()
            seeing.join(EXPLAIN_WAIT_S)
        return UnavailableError(self.reason(cause))

    def _see(self) -> None:
        if explained := self._explain():
            self.note_cause(explained)

    def refused(self, error: Any) -> VantageError:
        """Return what a KafkaError of one message means: UnavailableError, or InputError when it is too large."""
        if error.name() in ("MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE"):
            return InputError("is larger than the broker takes: max.message.bytes of the topic limits it")
        return UnavailableError(self.reason(error))

    def reason(self, error: Any) -> str:
        """Return a KafkaError as a sentence: when it is silence, the cause of that as far as it is known."""
        reason = describe(error, self._hosts)
        return self.latest if self.latest and reason == silence(self._hosts) else reason

    def _note(self, reason: str) -> None:
        self.latest = reason
        if reason != self._logged:
            self._logged = reason
            _log.warning("broker", reason=reason)


def lacks_kip_848(text: str) -> bool:
    """Return whether a consumer failed because its broker has only the classic protocol of groups. It is fatal, and its
    code is that of any fatal error: https://github.com/confluentinc/librdkafka/blob/v2.16.0/src/rdkafka_cgrp.c"""
    reasons = ("API version not supported", "Required feature not supported by broker")
    return "ConsumerGroupHeartbeat" in text and any(reason in text for reason in reasons)


def silence(hosts: str) -> str:
    """Return the sentence for a broker that does not answer."""
    return f"the broker at {hosts} does not answer"


def no_tls(hosts: str) -> str:
    """Return the sentence for a broker whose port has no TLS."""
    return f"the broker at {hosts} does not speak TLS: leave tls and ca out of broker_url, or give its port for TLS"


def describe(error: Any, hosts: str) -> str:
    """Return a KafkaError as a sentence."""
    name, text = error.name(), error.str()
    if name == "_AUTHENTICATION":
        setting = "sasl" if "mechanism handshake failed" in text else "user and password"
        return f"the broker at {hosts} refuses the login: check {setting} of broker_url"
    if name == "_RESOLVE":
        return f"the broker's name cannot be resolved: check the hosts of broker_url: {hosts}"
    if "PLAINTEXT broker listener" in text or "wrong version number" in text:
        return no_tls(hosts)
    if name in SILENT:
        return silence(hosts)
    if name == "_SSL" and "certificate verify failed" in text:
        return (
            f"TLS to the broker at {hosts} fails: its certificate is not of that name, or its authority is not known: "
            "check the hosts of broker_url, and give the authority's certificate as ca=FILE"
        )
    if name == "_SSL":
        return f"TLS to the broker at {hosts} fails: {text[:200]}"
    return f"the broker at {hosts}: {text[:200]} ({name})"
