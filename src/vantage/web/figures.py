"""Numbers and times as people read them on a page. Text only; escaping is the template's business."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

NONE: Final = "–"
_STEPS: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_ELAPSED: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


def plain(value: float) -> str:
    """Three significant digits without an exponent: 0.042, 1.25, 12.5, 125."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(value: float | None) -> str:
    """1 234 567 as 1.23M."""
    if value is None:
        return NONE
    for size, letter in _STEPS:
        if abs(value) >= size * 0.9995:
            return plain(value / size) + letter
    return plain(value)


def rate(per_s: float | None) -> str:
    """Per second from one in ten seconds on, otherwise per minute, or per hour below one a minute."""
    if per_s is None:
        return NONE
    if per_s == 0 or per_s >= 0.1:
        return f"{count(per_s)}/s"
    if per_s * 60 >= 0.995:
        return f"{plain(per_s * 60)}/min"
    return f"{plain(per_s * 3600)}/h"


def ratio(value: float | None) -> str:
    """A share as a percentage; what is not quite nothing never reads as 0 %."""
    if value is None:
        return NONE
    percent = value * 100
    if 0 < percent < 0.01:
        return "< 0.01 %"
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.{1 if percent >= 1 else 2}f} %"


def duration_ms(value: float | None) -> str:
    """From nanoseconds to days, three significant digits."""
    if value is None:
        return NONE
    for size, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")):
        if value >= size * 0.9995:
            return f"{plain(value / size)} {unit}"
    if value >= 0.9995 or value == 0:
        return f"{plain(value)} ms"
    return f"{plain(value * 1000)} µs" if value >= 0.001 else f"{plain(value * 1e6)} ns"


def duration_ns(value: float) -> str:
    return duration_ms(value / 1e6)


def change(value: float | None) -> str:
    """Relative growth with its sign: +12 %."""
    if value is None:
        return NONE
    return f"{value * 100:+.0f} %".replace("-", "−") if value < 10 else f"×{plain(value + 1)}"


def ago(at_ms: int, *, now_ms: int) -> str:
    """How long ago, in the largest unit that fits."""
    elapsed_s = (now_ms - at_ms) // 1000
    if elapsed_s < -1:
        return "in the future"
    for size, unit in _ELAPSED:
        if elapsed_s >= size:
            return f"{elapsed_s // size} {unit} ago"
    return f"{elapsed_s} s ago" if elapsed_s > 0 else "now"


def rfc3339(at_ms: int) -> str:
    """UTC, to the millisecond; the last representable moment for times beyond the year 9999."""
    try:
        moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        moment = datetime.max.replace(tzinfo=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc(at_ms: int) -> str:
    """What is shown where no script makes it local."""
    return rfc3339(at_ms)[:19].replace("T", " ") + " UTC"
