"""What a rule's condition says about one entity at one time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Observation:
    """``entity`` names what it is about, such as ``{"service": "checkout"}``; ``service`` is its service or ''.

    ``value`` is None where there is no data, unless it has recovered: what is no longer unusual need not be read.
    ``holds``: the condition holds; ``recovered``: the value is back beyond the recovery threshold. Between the two,
    neither is true. ``text`` is a sentence for people.
    """

    entity: Mapping[str, str]
    service: str
    value: float | None
    holds: bool
    recovered: bool
    samples: int = 0
    unit: str = ""
    text: str = ""
