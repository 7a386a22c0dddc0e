"""Threads that compute for long take turns."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from vantage.core import turns as turns_module
from vantage.core.turns import TurnExecutor, Turns, wait_in_thread

LONG_S = 30.0


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "TURN_S", 0.0)


@contextmanager
def threads(*works: Callable[[], None]) -> Iterator[list[threading.Thread]]:
    started = [threading.Thread(target=work) for work in works]
    for thread in started:
        thread.start()
    yield started
    for thread in started:
        thread.join(LONG_S)
        assert not thread.is_alive()


def wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.001)


def test_no_more_threads_than_processors_have_a_turn() -> None:
    turns, lock = Turns(2, patience_s=LONG_S), threading.Lock()
    now, most = 0, 0

    def compute() -> None:
        nonlocal now, most
        for _ in range(50):
            with turns.turn():
                with lock:
                    now += 1
                    most = max(most, now)
                time.sleep(0.0001)
                with lock:
                    now -= 1

    with threads(*[compute] * 6):
        pass
    assert most == 2


def test_a_long_turn_is_passed_on_to_who_waited_longest() -> None:
    turns = Turns(1, patience_s=LONG_S)
    done: list[str] = []

    def adds(name: str) -> Callable[[], None]:
        def work() -> None:
            with turns.turn():
                done.append(name)

        return work

    with turns.turn(), threads(adds("first")):
        wait_for(lambda: len(turns._lines[0]) == 1)
        with threads(adds("second")):
            wait_for(lambda: len(turns._lines[0]) == 2)
            turns.pass_on()
            done.append("the long one")
    assert done == ["first", "second", "the long one"]


def test_nothing_is_passed_on_while_none_wait() -> None:
    turns = Turns(1, patience_s=LONG_S)
    with turns.turn():
        turns.pass_on()
        assert turns._free == 0
    assert turns._free == 1


def test_a_turn_within_a_turn_is_the_same_one() -> None:
    turns = Turns(1, patience_s=LONG_S)
    with turns.turn(), turns.turn():
        pass
    assert turns._free == 1


def test_who_waited_long_computes_without_a_turn_and_gives_none_back() -> None:
    turns = Turns(1, patience_s=0.01)
    done: list[str] = []

    def impatient() -> None:
        with turns.turn():
            done.append("computed")

    with turns.turn():
        with threads(impatient):
            pass
        assert done == ["computed"]
        assert turns._free == 0
    assert turns._free == 1
    assert not turns._lines[0]


def test_at_the_end_nobody_waits() -> None:
    turns = Turns(1, patience_s=LONG_S)
    done = threading.Event()

    def waiting() -> None:
        with turns.turn():
            done.set()

    with turns.turn(), threads(waiting):
        wait_for(lambda: len(turns._lines[0]) == 1)
        turns.stop()
        assert done.wait(LONG_S)
        with turns.turn():
            pass


def test_an_error_gives_the_turn_back() -> None:
    turns = Turns(1, patience_s=LONG_S)
    with pytest.raises(ZeroDivisionError), turns.turn():
        raise ZeroDivisionError
    assert turns._free == 1


def test_the_work_of_an_executor_takes_turns() -> None:
    turns, begun = Turns(1, patience_s=LONG_S), threading.Event()
    executor = TurnExecutor(turns, initializer=lambda: None)
    try:
        with turns.turn():
            future = executor.submit(lambda number, *, factor: (begun.set(), number * factor)[1], 6, factor=7)
            wait_for(lambda: len(turns._lines[0]) == 1)
            assert not begun.is_set()
        assert future.result(LONG_S) == 42
    finally:
        executor.shutdown()


def test_new_work_goes_before_what_was_long() -> None:
    turns = Turns(1, patience_s=LONG_S)
    done: list[str] = []
    passed = threading.Event()

    def long() -> None:
        with turns.turn():
            wait_for(lambda: len(turns._lines[0]) == 1)
            turns.pass_on()
            done.append("long")

    def short() -> None:
        with turns.turn():
            passed.set()
            wait_for(lambda: len(turns._lines[0]) == 1)  # new work came later than the long one waits
            done.append("first")

    def later() -> None:
        assert passed.wait(LONG_S)
        with turns.turn():
            done.append("later")

    with threads(long):
        wait_for(lambda: not turns._free)
        with threads(short, later):
            pass
    assert done == ["first", "later", "long"]


async def test_what_waits_in_a_thread_keeps_no_turn_from_others() -> None:
    done = threading.Event()
    with TurnExecutor(Turns(1, patience_s=LONG_S), initializer=lambda: None) as executor:
        waiting = asyncio.ensure_future(wait_in_thread(done.wait, LONG_S))
        await asyncio.sleep(0.05)
        assert await asyncio.wait_for(asyncio.wrap_future(executor.submit(lambda: 7)), LONG_S / 2) == 7
        assert not waiting.done()
        done.set()
        assert await waiting
