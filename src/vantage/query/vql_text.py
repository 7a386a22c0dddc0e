"""Pieces of VQL as text, for the queries that pages and answers show."""

from __future__ import annotations

from datetime import UTC, datetime

from vantage.query.timeseries_query import SERIES_KEYS
from vantage.storage.ports import possible_pairs


def key_text(name: str) -> str:
    return name if name in SERIES_KEYS else f"tags[{quoted(name)}]"


def has_tag(key: str, value: str) -> str:
    """Return the condition for ``key:value``, whose key may contain colons."""
    either = [f"{key_text(name)} = {quoted(text)}" for name, text in possible_pairs(key, value)]
    return either[0] if len(either) == 1 else f"({' OR '.join(either)})"


def quoted(text: str) -> str:
    backslash = "\\"
    return "'" + text.replace(backslash, backslash * 2).replace("'", "''") + "'"


def time_text(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"'{moment.strftime('%Y-%m-%dT%H:%M:%S')}.{at_ms % 1000:03d}Z'"
