"""What went wrong lately in this process, for pages: each text once, with how often and when last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

TEXTS_MAX: Final = 50  # that are remembered; the oldest is dropped
TEXT_LENGTH_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class RecentError:
    """An error of a part of the process, such as the consumer: how often it occurred, and when last, epoch ms."""

    part: str
    text: str
    count: int
    at_ms: int


class RecentErrors:
    """The errors of one process, on the event loop."""

    def __init__(self, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._now_ms = now_ms
        self._errors: dict[tuple[str, str], RecentError] = {}
        self._unreported: dict[tuple[str, str], RecentError] = {}

    def note(self, part: str, text: str) -> None:
        """Record an error."""
        error = RecentError(part, " ".join(text.split())[:TEXT_LENGTH_MAX], 1, self._now_ms())
        for errors in (self._errors, self._unreported):
            _add(errors, error)

    def latest(self) -> Sequence[RecentError]:
        """Return the errors, the latest first."""
        return sorted(self._errors.values(), key=lambda error: -error.at_ms)

    def take_unreported(self) -> Sequence[RecentError]:
        """Return what occurred since the last call."""
        errors, self._unreported = self._unreported, {}
        return list(errors.values())

    def give_back(self, errors: Iterable[RecentError]) -> None:
        """Return these again next time: they could not be reported."""
        for error in errors:
            _add(self._unreported, error)


def _add(errors: dict[tuple[str, str], RecentError], error: RecentError) -> None:
    """Add an error behind all others, and drop the oldest when there are too many."""
    before = errors.pop((error.part, error.text), None)
    if before is not None:
        error = replace(error, count=before.count + error.count, at_ms=max(before.at_ms, error.at_ms))
    elif len(errors) >= TEXTS_MAX:
        del errors[next(iter(errors))]
    errors[error.part, error.text] = error
