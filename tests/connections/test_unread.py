"""Answers that clients do not read: who is ended, and who is not."""

from __future__ import annotations

from collections import Counter

import pytest

from vantage.connections.limits import UNREAD_PROGRESS_NBYTES, UNREAD_S, EndReason
from vantage.connections.unread import CHECK_EVERY_S, UnreadAnswers

MIB = 1 << 20


class FakeTransport:
    """A transport with a write buffer of a known size."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.nbytes

    def abort(self) -> None:
        self.aborted = True
        self.nbytes = 0


class FakeConnection:
    """A connection as the server's set of connections has it."""

    def __init__(self, nbytes: int) -> None:
        self.transport = FakeTransport(nbytes)
        self.drains = 0


class Watched:
    """Unread answers under a clock that the test moves."""

    def __init__(self, *sizes: int, nbytes_max: int = 256 * MIB) -> None:
        self.now_s = 1000.0
        self.ended: Counter[EndReason] = Counter()
        self.connections = [FakeConnection(size) for size in sizes]
        self.answers = UnreadAnswers(
            monotonic_s=lambda: self.now_s,
            count_end=lambda reason: self.ended.update([reason]),
            nbytes_max=nbytes_max,
        )
        self.answers.connections = self.connections

    def run(self, seconds: float, *, taken_per_s: int = 0) -> None:
        for _ in range(round(seconds / CHECK_EVERY_S)):
            self.now_s += CHECK_EVERY_S
            for connection in self.connections:
                removed = min(connection.transport.nbytes, round(taken_per_s * CHECK_EVERY_S))
                connection.transport.nbytes -= removed
            self.answers.check()

    @property
    def aborted(self) -> list[bool]:
        return [connection.transport.aborted for connection in self.connections]


@pytest.mark.parametrize("nbytes", [1, 60_000, 158 * MIB])
def test_a_client_that_reads_nothing_is_ended_after_a_minute_however_little_waits(nbytes: int) -> None:
    watched = Watched(nbytes, 0)
    watched.run(UNREAD_S)
    assert watched.aborted == [False, False]
    watched.run(2 * CHECK_EVERY_S)
    assert watched.aborted == [True, False]
    assert watched.ended == {EndReason.UNREAD: 1}


def test_a_client_that_reads_slowly_but_steadily_is_not_ended() -> None:
    watched = Watched(30 * MIB)
    watched.run(900, taken_per_s=30_000)
    assert watched.aborted == [False]


def test_a_client_that_takes_a_byte_now_and_then_is_ended() -> None:
    watched = Watched(MIB)
    watched.run(2 * UNREAD_S, taken_per_s=UNREAD_PROGRESS_NBYTES // 100)
    assert watched.aborted == [True]


def test_a_client_of_many_short_answers_is_not_ended_while_it_takes_them() -> None:
    watched = Watched(5000)
    for _ in range(100):  # its buffer was empty between two checks, and is filled again
        watched.connections[0].drains += 1
        watched.run(CHECK_EVERY_S)
    assert watched.aborted == [False]


def test_a_buffer_that_only_grows_is_no_progress() -> None:
    watched = Watched(1000)
    for _ in range(round(UNREAD_S / CHECK_EVERY_S) + 2):
        watched.connections[0].transport.nbytes += 1000
        watched.run(CHECK_EVERY_S)
    assert watched.aborted == [True]


def test_when_too_much_waits_those_that_wait_longest_are_ended() -> None:
    watched = Watched(40 * MIB, 30 * MIB, nbytes_max=100 * MIB)
    watched.run(CHECK_EVERY_S)
    watched.connections.append(FakeConnection(40 * MIB))
    watched.run(CHECK_EVERY_S)
    assert watched.aborted == [True, False, False]
    assert sum(connection.transport.nbytes for connection in watched.connections) == 70 * MIB


def test_too_much_at_once_is_noticed_before_the_next_check() -> None:
    watched = Watched(nbytes_max=100 * MIB)
    for _ in range(1000):
        watched.connections.append(FakeConnection(MIB))
        watched.answers.add(MIB)
        assert sum(connection.transport.nbytes for connection in watched.connections) <= 113 * MIB
    assert watched.ended[EndReason.UNREAD] > 800


def test_one_answer_may_be_larger_than_all_together_may_be() -> None:
    watched = Watched(300 * MIB, nbytes_max=100 * MIB)
    watched.run(30, taken_per_s=MIB)
    assert watched.aborted == [False]
