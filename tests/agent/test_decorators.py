"""What ``@span`` and ``@timer`` decorate: each call is one operation as long as it lasts, or decorating is an error."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded
from tests.agent.receiver import Receiver
from vantage_agent import span, timer

WORK_S = 0.03


@pytest.fixture
def recorded(receiver: Receiver) -> Recorded:
    vantage_agent.init_agent("my-api", receiver.url, flush_interval_s=600)
    return Recorded(receiver)


def work() -> int:
    with span("inside"):
        time.sleep(WORK_S)
    return 7


async def work_async() -> int:
    with span("inside"):
        await asyncio.sleep(WORK_S)
    return 7


class Above:
    @span("outer")
    @staticmethod
    def static() -> int:
        return work()

    @span("outer")
    @classmethod
    def of_class(cls) -> int:
        assert cls is Above
        return work()


class Below:
    @staticmethod
    @span("outer")
    def static() -> int:
        return work()

    @classmethod
    @span("outer")
    def of_class(cls) -> int:
        assert cls is Below
        return work()

    @property
    @span("outer")
    def value(self) -> int:
        return work()


class Callable1:
    def __call__(self) -> int:
        return work()


class Callable2:
    async def __call__(self) -> int:
        return await work_async()


def returns_coroutine() -> Any:
    return work_async()


WAYS: dict[str, Callable[[], Any]] = {
    "function": span("outer")(work),
    "lambda": span("outer")(lambda: work() + 0),
    "partial": span("outer")(functools.partial(work)),
    "static method, above": Above.static,
    "static method of an object, above": Above().static,
    "class method, above": Above.of_class,
    "class method of an object, above": Above().of_class,
    "static method, below": Below.static,
    "class method, below": Below().of_class,
    "property, below": lambda: Below().value,
    "callable object": span("outer")(Callable1()),
    "coroutine function": span("outer")(work_async),
    "partial of a coroutine function": span("outer")(functools.partial(work_async)),
    "async callable object": span("outer")(Callable2()),
    "function that returns a coroutine": span("outer")(returns_coroutine),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_call_is_one_operation_up_to_its_end(recorded: Recorded, way: str) -> None:
    result = WAYS[way]()
    assert (asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result) == 7
    outer, inside = recorded.spans
    assert (outer["name"], inside["parent_span_id"]) == ("outer", outer["span_id"])
    assert outer["duration_ns"] >= inside["duration_ns"] >= WORK_S * 1e9 * 0.9


async def _awaited(result: Any) -> Any:
    return await result


@contextlib.contextmanager
def managed() -> Iterator[str]:
    yield "value"


@contextlib.asynccontextmanager
async def managed_async() -> AsyncIterator[str]:
    yield "value"


def test_a_context_manager_lasts_as_long_as_its_block(recorded: Recorded) -> None:
    with span("outer")(managed)() as value:
        assert (value, work()) == ("value", 7)

    async def main() -> None:
        async with span("outer")(managed_async)() as value:
            assert (value, await work_async()) == ("value", 7)

    asyncio.run(main())
    below = contextlib.contextmanager(span("below")(managed.__wrapped__))  # type: ignore[attr-defined]
    with below() as value:
        assert (value, work()) == ("value", 7)
    outers = [each for each in recorded.spans if each["name"] == "outer"]
    insides = [each for each in recorded.spans if each["name"] == "inside"]
    assert [each["parent_span_id"] for each in insides[:2]] == [each["span_id"] for each in outers]
    (last,) = [each for each in recorded.spans if each["name"] == "below"]
    assert all(each["duration_ns"] >= WORK_S * 1e9 * 0.9 for each in (*outers, last))


def test_a_generator_is_the_parent_of_what_runs_in_its_pieces_alone(recorded: Recorded) -> None:
    @span("rows")
    @timer("t")
    def rows() -> Iterator[int]:
        for number in range(3):
            with span("row"):
                pass
            yield number

    for _ in rows():
        with span("reader"):
            pass
    by_name: dict[str, list[Any]] = {}
    for each in recorded.spans:
        by_name.setdefault(each["name"], []).append(each.get("parent_span_id"))
    (outer,) = [each for each in recorded.spans if each["name"] == "rows"]
    assert by_name == {"rows": [None], "row": [outer["span_id"]] * 3, "reader": [None] * 3}
    assert len(recorded.tags("t")) == 1


async def test_an_asynchronous_generator_does_all_that_one_does(recorded: Recorded) -> None:
    got: list[Any] = []

    @span("rows")
    async def rows() -> Any:
        with span("row"):
            got.append((yield 1))
        try:
            yield 2
        except KeyError:
            yield 3

    running = rows()
    assert inspect.isasyncgenfunction(rows)
    assert [await running.asend(None), await running.asend("sent"), await running.athrow(KeyError())] == [1, 2, 3]
    await running.aclose()
    failing = rows()
    await failing.asend(None)
    with pytest.raises(ZeroDivisionError):
        await failing.athrow(ZeroDivisionError())
    assert got == ["sent"]
    spans = await asyncio.to_thread(lambda: recorded.spans)
    assert [(each["name"], each["status"]) for each in spans] == [
        ("rows", "unset"), ("row", "unset"), ("rows", "error"), ("row", "error"),
    ]  # fmt: skip
    assert spans[1]["parent_span_id"] == spans[0]["span_id"]


def test_a_failure_of_a_function_that_returns_a_coroutine_is_its_own(recorded: Recorded) -> None:
    async def fails() -> None:
        raise KeyError("k")

    def returns_failing() -> Any:
        return fails()

    with pytest.raises(KeyError):
        asyncio.run(_awaited(span("outer")(returns_failing)()))
    (outer,) = recorded.spans
    assert (outer["status"], outer["attributes"]["error.type"]) == ("error", "KeyError")


@pytest.mark.parametrize(
    "nonsense",
    [int, property(lambda _: 1), functools.partialmethod(work), functools.cached_property(lambda _: 1), 5, None, "f"],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_called_like_a_function_is_refused(nonsense: Any) -> None:
    for decorator in (span("s"), timer("t")):
        with pytest.raises(TypeError, match="decorates functions"):
            decorator(nonsense)


def test_names_and_documentation_stay() -> None:
    decorated = span("s")(functools.partial(work))
    assert (decorated.__name__, span("s")(work).__name__) == ("work", "work")  # type: ignore[attr-defined]
    assert span("s")(Callable1()).__name__ == "Callable1"  # type: ignore[attr-defined]
