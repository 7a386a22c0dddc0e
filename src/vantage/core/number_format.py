"""Numbers and times as people read them: on pages, on the command line and, through a twin in JavaScript, in charts.

Text only; escaping is the template's business. The rule is three significant digits, with halves rounded away from
zero. static/js/number_format.js follows it function by function, and tests/number_format.json has the examples that
both must meet: change all three together. What is None or not finite is an en dash.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

NONE: Final = "–"
_FULL: Final = 0.9995  # of a unit: what rounds to 1 of it is written in it
_COUNTS: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BYTES: Final = ((1e18, "EB"), (1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_DURATIONS_MS: Final = (
    (86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms"), (1e-3, "µs"),
)  # fmt: skip
_ELAPSED_S: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))
_FUTURE_S: Final = 60  # clocks may differ by this much
_EXPONENT_FROM: Final = 1e15
_EXPONENT_BELOW: Final = 1e-6
# Units of metrics that have a form of their own.
_UNITS_MS: Final = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1000.0, "min": 60_000.0, "h": 3_600_000.0}
_UNITS_BYTES: Final = frozenset({"By", "B", "bytes"})
_UNITS_RATE: Final = frozenset({"/s", "1/s"})


def plain(value: float) -> str:
    """Return a number with three significant digits: 0.0421, 1.25, 12.5, 125, 1250. With an exponent below a millionth
    and from 10^15 on."""
    if not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    if abs(value) >= _EXPONENT_FROM or abs(value) < _EXPONENT_BELOW:
        return _with_exponent(value)
    decimals = _decimals(abs(value))
    if value * 10**decimals % 1 != 0.5:
        return _trim(f"{value:.{decimals}f}")
    # A half, perhaps: Python rounds it to the even neighbour, JavaScript away from zero.
    return _trim(str(Decimal(value).quantize(Decimal((0, (1,), -decimals)), rounding=ROUND_HALF_UP)))


def _decimals(size: float) -> int:
    """Return how many decimals make three significant digits."""
    if size >= 1:
        return 0 if size >= 100 else 1 if size >= 10 else 2
    return 2 - math.floor(math.log10(size))


def _with_exponent(value: float) -> str:
    exact = Decimal(value)
    exponent = exact.adjusted()
    mantissa = exact.scaleb(-exponent).quantize(Decimal("0.01"), rounding=ROUND_HALF_UP)
    if abs(mantissa) >= 10:
        mantissa, exponent = mantissa / 10, exponent + 1
    return f"{_trim(f'{mantissa:f}')}e{exponent}"


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(value: float | None) -> str:
    """Return 1 234 567 as 1.23M."""
    if value is None or not math.isfinite(value):
        return NONE
    if abs(value) >= _EXPONENT_FROM * _FULL:
        return _with_exponent(value)
    for size, letter in _COUNTS:
        if abs(value) >= size * _FULL:
            return plain(value / size) + letter
    return plain(value)


def rate(per_s: float | None) -> str:
    """Return it per second from one in ten seconds on, otherwise per minute, or per hour below one a minute."""
    if per_s is None or not math.isfinite(per_s):
        return NONE
    if per_s == 0 or abs(per_s) >= 0.1:
        return f"{count(per_s)}/s"
    if abs(per_s * 60) >= _FULL:
        return f"{plain(per_s * 60)}/min"
    return f"{plain(per_s * 3600)}/h"


def percent(value: float | None) -> str:
    """Return a percentage; what is not quite nothing never reads as 0 %."""
    if value is None or not math.isfinite(value):
        return NONE
    return "< 0.01 %" if 0 < value < 0.01 else f"{plain(value)} %"


def ratio(value: float | None) -> str:
    """Return a share from 0 to 1 as a percentage."""
    return NONE if value is None else percent(value * 100)


def duration_ms(value: float | None) -> str:
    """Return a duration in the unit that fits, from nanoseconds to days."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0 ms"
    for size, unit in _DURATIONS_MS:
        if abs(value) >= size * _FULL:
            return f"{plain(value / size)} {unit}"
    return f"{plain(value * 1e6)} ns"


def duration_s(value: float) -> str:
    return duration_ms(value * 1000)


def duration_ns(value: float) -> str:
    return duration_ms(value / 1e6)


def size(nbytes: float | None) -> str:
    """Return bytes in powers of ten: 12.3 MB."""
    if nbytes is None or not math.isfinite(nbytes):
        return NONE
    for unit_nbytes, unit in _BYTES:
        if abs(nbytes) >= unit_nbytes * _FULL:
            return f"{plain(nbytes / unit_nbytes)} {unit}"
    return f"{plain(nbytes)} B"


def quantity(value: float | None, unit: str) -> str:
    """Return the value of a metric with its unit. Durations, bytes, rates and percentages have the forms above."""
    if value is None or not math.isfinite(value):
        return NONE
    if unit in _UNITS_MS:
        return duration_ms(value * _UNITS_MS[unit])
    if unit in _UNITS_BYTES:
        return size(value)
    if unit in _UNITS_RATE:
        return rate(value)
    if unit == "%":
        return percent(value)
    return count(value) if unit in ("", "1") else f"{count(value)} {unit}"


def change(value: float | None) -> str:
    """Return relative growth with its sign: +12 %, and ×20 from tenfold on."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value * 100:+.0f} %".replace("-", "−") if value < 10 else f"×{plain(value + 1)}"


def ago(at_ms: int, *, now_ms: int) -> str:
    """Return how long ago it was, in the largest unit that fits."""
    elapsed_s = (now_ms - at_ms) // 1000
    if elapsed_s < -_FUTURE_S:
        return "in the future"
    for unit_s, unit in _ELAPSED_S:
        if elapsed_s >= unit_s:
            return f"{elapsed_s // unit_s} {unit} ago"
    return f"{elapsed_s} s ago" if elapsed_s > 0 else "now"


def rfc3339(at_ms: int) -> str:
    """Return UTC, to the millisecond; the last representable moment for times beyond the year 9999."""
    try:
        moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        moment = datetime.max.replace(tzinfo=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def date_time(at_ms: int) -> str:
    """Return UTC, such as 2026-11-17 12:00:00."""
    return rfc3339(at_ms)[:19].replace("T", " ")


def utc(at_ms: int) -> str:
    """Return what is shown where no script makes it local."""
    return f"{date_time(at_ms)} UTC"
