"""Samples: their kinds, and the limits of every name and value that enters.

The figures are part of the contract with agents and scripts; each rejection names its field and reason.
"""

from __future__ import annotations

import re
from enum import StrEnum
from string import ascii_letters, digits
from typing import Final


class Kind(StrEnum):
    """What a metric's values mean."""

    COUNTER = "counter"  # an increment since the last sample
    GAUGE = "gauge"  # a level at an instant
    HISTOGRAM = "histogram"  # one observation
    CUMULATIVE = "cumulative"  # a running total that may reset to zero (OpenTelemetry, Prometheus)


KINDS: Final = frozenset(kind.value for kind in Kind)

NAME_LENGTH_MAX: Final = 255
TAGS_MAX: Final = 32
TAG_KEY_LENGTH_MAX: Final = 64
TAG_VALUE_LENGTH_MAX: Final = 512
UNIT_LENGTH_MAX: Final = 63
ID_LENGTH_MAX: Final = 64
ID_LETTERS: Final = (ascii_letters + digits + "_.:-").encode()
TIME_MS_MIN: Final = 946_684_800_000  # 2000-01-01T00:00:00Z; anything smaller is most likely in seconds
FUTURE_MS_MAX: Final = 600_000  # how far ahead of the server's clock a sample may lie

# Names reserved as tags: they belong to the series' identity and are set by the envelope, never by the tag map.
OVERFLOW: Final = "__overflow__"  # stands for names beyond a limit of their number
TAG_INSTANCE: Final = "instance"
TAG_VERSION: Final = "service_version"

_METRIC = re.compile(r"[A-Za-z0-9_.:/-]{1,255}")
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def metric_name_problem(name: str) -> str:
    """Return why ``name`` is not a metric or environment name; empty when it is one."""
    if _METRIC.fullmatch(name):
        return ""
    if not name:
        return "is empty"
    if len(name) > NAME_LENGTH_MAX:
        return f"is longer than {NAME_LENGTH_MAX} characters"
    return "may hold letters, digits and _ . : / - only"


def service_name_problem(name: str) -> str:
    """Return why ``name`` is not a service name; empty when it is one.

    Printable characters without ``/`` are allowed.
    """
    if not name:
        return "is missing"
    if len(name) > NAME_LENGTH_MAX:
        return f"is longer than {NAME_LENGTH_MAX} characters"
    if "/" in name or not name.isprintable():
        return "may not hold '/' or control characters"
    return ""


def id_problem(text: str) -> str:
    """Return why ``text`` is not a trace or span id; empty when it is one."""
    if _ID.fullmatch(text):
        return ""
    return f"is not 1 to {ID_LENGTH_MAX} letters, digits and _ . : -"


def text_problem(text: str, length_max: int) -> str:
    """Return why ``text`` is not a tag value, unit or version: too long, not UTF-8, or with NUL."""
    if len(text) > length_max:
        return f"is longer than {length_max} characters"
    if "\0" in text:
        return "holds a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half a surrogate pair"
    return ""


def tags_problem(tags: dict[str, str]) -> tuple[str, str]:
    """Return ``(field, reason)`` for the first error of a tag map, or two empty strings."""
    if len(tags) > TAGS_MAX:
        return "tags", f"holds {len(tags)} tags, at most {TAGS_MAX} are allowed"
    for key, value in tags.items():
        short_key = key[:TAG_KEY_LENGTH_MAX]
        if not key:
            return "tags", "holds an empty key"
        if reason := text_problem(key, TAG_KEY_LENGTH_MAX):
            return "tags", f"key {short_key!r} {reason}"
        if key in (TAG_INSTANCE, TAG_VERSION):
            return f"tags.{key}", f"is reserved: send it as the field {key!r} of the sample or the envelope"
        if reason := text_problem(value, TAG_VALUE_LENGTH_MAX):
            return f"tags.{short_key}", reason
    return "", ""


def time_problem(time_ms: int, *, now_ms: int, oldest_ms: int = TIME_MS_MIN) -> str:
    """Return why a sample may not have the time ``time_ms``; empty when it may.

    ``oldest_ms`` comes from a retention set in days.
    """
    if time_ms < TIME_MS_MIN:
        return "lies before 2000-01-01: is it in milliseconds?"
    if time_ms > now_ms + FUTURE_MS_MAX:
        return f"lies more than {FUTURE_MS_MAX // 60_000} minutes ahead of the server's clock"
    if time_ms < oldest_ms:
        return "is older than the retention"
    return ""
