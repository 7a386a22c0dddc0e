"""Exports under way: the slowest reader gives way when another waits, and nobody else does."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from vantage.web.api.export import PATIENCE_S, RATE_MIN, OpenExports
from vantage.web.streaming import Pace


async def no_end() -> AsyncGenerator[bytes, None]:
    while True:
        yield b"x"


class Running:
    """Exports that have begun, each with a client of its own speed."""

    def __init__(self, *rates: float, after_s: float) -> None:
        self.now_s = 0.0
        self.exports = OpenExports()
        self.paces = [Pace(lambda: self.now_s) for _ in rates]
        self.chunks = [self.exports.counted(no_end(), pace) for pace in self.paces]
        self._rates, self._after_s = rates, after_s

    async def begin(self) -> None:
        for chunks in self.chunks:
            await anext(chunks)
        self.now_s = self._after_s
        for pace, rate in zip(self.paces, self._rates, strict=True):
            pace.took(round(rate * self._after_s))

    @property
    def ended(self) -> list[bool]:
        return [pace.ended.is_set() for pace in self.paces]


async def test_the_slowest_reader_gives_way() -> None:
    running = Running(RATE_MIN / 2, RATE_MIN / 4, after_s=2 * PATIENCE_S)
    await running.begin()
    assert running.exports.end_slowest()
    assert running.ended == [False, True]


async def test_a_steady_reader_of_thirty_kilobytes_a_second_does_not() -> None:
    running = Running(30_000, 10 * RATE_MIN, after_s=3600)
    await running.begin()
    assert not running.exports.end_slowest()
    assert running.ended == [False, False]


async def test_an_export_has_its_time_before_it_is_judged() -> None:
    running = Running(0, after_s=PATIENCE_S / 2)
    await running.begin()
    assert not running.exports.end_slowest()


async def test_an_export_that_is_over_gives_way_to_nobody() -> None:
    running = Running(0, after_s=2 * PATIENCE_S)
    await running.begin()
    await running.chunks[0].aclose()
    assert not running.exports.end_slowest()
