"""Maintenance windows: once and recurring, across changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from vantage.alerting.windows import active_window, check_recurrence, local_text, next_windows
from vantage.core.errors import InputError
from vantage.core.silence import Silence, checked_silence

HOUR_MS = 3_600_000


def utc_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def nightly(**fields: Any) -> Silence:
    settings = {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "duration_ms": 2 * HOUR_MS, "service": "*"}
    return Silence(0, None, **{**settings, **fields})


def test_a_window_that_comes_once_has_its_start_and_not_its_end() -> None:
    silence = Silence(1000, 2000, service="shop")
    assert [active_window(silence, at) is not None for at in (999, 1000, 1999, 2000)] == [False, True, True, False]
    assert [window.start_ms for window in next_windows(silence, 999, limit=3)] == [1000]
    assert next_windows(silence, 1000, limit=3) == []


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-06-10T00:30", "2026-06-10T02:30"),  # summer: 02:30 is 00:30 UTC
        ("2026-12-10T01:30", "2026-12-10T03:30"),  # winter
        ("2026-03-29T01:00", "2026-03-29T03:00"),  # 02:30 is left out: it begins at 03:00
        ("2026-10-25T00:30", "2026-10-25T02:30"),  # 02:30 comes twice: the first time, for two hours that pass
    ],
)
def test_a_window_lasts_its_duration_when_clocks_change(start: str, end: str) -> None:
    start_ms, end_ms = utc_ms(start), utc_ms(end)
    active = {at: active_window(nightly(), at) for at in (start_ms - 1, start_ms, end_ms - 1, end_ms)}
    assert [window is not None for window in active.values()] == [False, True, True, False]
    window = active[start_ms]
    assert window is not None
    assert (window.start_ms, window.end_ms) == (start_ms, end_ms)


def test_the_second_time_of_an_autumn_night_begins_no_second_window() -> None:
    assert active_window(nightly(duration_ms=600_000), utc_ms("2026-10-25T01:35")) is None


def test_a_recurring_silence_is_cut_by_its_start_and_end() -> None:
    first, last = utc_ms("2026-06-10T01:00"), utc_ms("2026-06-12T01:00")
    silence = Silence(first, last, cron="30 2 * * *", timezone="Europe/Berlin", duration_ms=2 * HOUR_MS, service="*")
    assert active_window(silence, first - 1) is None
    cut = active_window(silence, first)
    assert cut is not None
    assert cut.start_ms == first
    assert [window.end_ms for window in next_windows(silence, first, limit=9)] == [utc_ms("2026-06-11T02:30"), last]
    assert active_window(silence, last) is None


def test_next_windows_are_named_in_their_zone() -> None:
    (window,) = next_windows(nightly(), utc_ms("2026-06-10T12:00"), limit=1)
    assert local_text(window.start_ms, "Europe/Berlin") == "Thu 11 Jun 2026, 02:30 CEST"


@pytest.mark.parametrize(
    ("cron", "timezone", "field"),
    [
        ("61 2 * * *", "UTC", "cron"),
        ("nightly", "UTC", "cron"),
        ("0 0 30 2 *", "UTC", "cron"),
        ("0 2 * * *", "Mars/Olympus", "timezone"),
        ("0 2 * * *", "../../etc/passwd", "timezone"),
        ("0 2 * * *", "", "timezone"),
    ],
)
def test_what_cannot_recur_is_refused(cron: str, timezone: str, field: str) -> None:
    with pytest.raises(InputError) as refused:
        check_recurrence(cron, timezone)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("silence", "field"),
    [
        (Silence(0, 10), "service"),
        (Silence(0, None, service="*"), "end"),
        (Silence(10, 10, service="*"), "end"),
        (Silence(0, 400 * 24 * HOUR_MS, service="*"), "end"),
        (Silence(0, 10, service="*", severity="loud"), "severity"),
        (Silence(0, 10, service="a\0"), "service"),
        (Silence(0, 10, entity={"": "a"}), "entity"),
        (Silence(0, None, service="*", cron="0 2 * * *", duration_ms=1), "duration"),
    ],
    ids=range(8),
)
def test_a_silence_that_says_nothing_clear_is_refused(silence: Silence, field: str) -> None:
    with pytest.raises(InputError) as refused:
        checked_silence(silence)
    assert refused.value.field == field
