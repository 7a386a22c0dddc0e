"""The present of those who look at data: the clock's, unless the clock has fallen behind what is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vantage.core.number_format import duration_ms

AHEAD_MS_MIN: Final = 300_000  # data less far ahead comes from hosts whose clocks differ a little
AHEAD_MS_MAX: Final = 7 * 86_400_000  # data farther ahead was stored by a clock that was wrong then, not now


@dataclass(frozen=True, slots=True)
class Present:
    """What the clock says, and the time of the newest data (0: there is none)."""

    clock_ms: int
    newest_ms: int = 0

    @property
    def now_ms(self) -> int:
        """Return the time that a range such as the last hour ends at: that of the newest data where the clock is
        behind it by 5 minutes to 7 days, and else the clock's."""
        is_behind = AHEAD_MS_MIN < self.newest_ms - self.clock_ms <= AHEAD_MS_MAX
        return self.newest_ms if is_behind else self.clock_ms

    @property
    def end_ms(self) -> int:
        """Return a time after everything that is stored, and after the clock's."""
        return max(self.clock_ms, self.newest_ms) + 1

    @property
    def warning(self) -> str:
        """Return a sentence about a clock that is behind the data, '' when it is not."""
        ahead_ms = self.newest_ms - self.clock_ms
        if ahead_ms <= AHEAD_MS_MIN:
            return ""
        text = f"the newest data is {duration_ms(ahead_ms)} ahead of the server's clock"
        if ahead_ms > AHEAD_MS_MAX:
            return f"{text}: ranges that end now do not have it"
        return f"{text}: ranges that end now end at that data"
